"""Runs notebooks at their real settings, and keeps what they show.

    python notebooks/execute.py 1_first_run 2_your_own_data

The .py file is the source; the .ipynb beside it is written. Outputs are made
the same everywhere: text without colors, in one piece, and pictures with fewer
bytes. What the notebooks train is kept in notebooks/runs, and read the next
time.
"""

import argparse
import base64
import io
import pathlib
import re

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, v4, write
from PIL import Image, ImageChops, ImageStat

FOLDER = pathlib.Path(__file__).parent
_ESCAPES = re.compile(r'\x1b\[[\d;]*m')
_WIDEST = 1400  # pixels


def main() -> None:
  """Runs those that the command line names, or all."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  names = sorted(p.stem for p in FOLDER.glob('[0-9]_*.py'))
  parser.add_argument('names', nargs='*', default=names)
  parser.add_argument('--folder', type=pathlib.Path, default=FOLDER)
  options = parser.parse_args()
  for name in options.names:
    notebook = jupytext.read(FOLDER / f'{name}.py', fmt='py:percent')
    notebook.metadata = {
      'kernelspec': {
        'display_name': 'Python 3',
        'language': 'python',
        'name': 'python3',
      },
      'language_info': {'name': 'python'},
    }
    client = NotebookClient(
      notebook,
      timeout=None,
      kernel_name='python3',
      resources={'metadata': {'path': f'{options.folder}'}},
      record_timing=False,
    )
    client.execute()
    for i, cell in enumerate(notebook.cells):
      cell.id = f'cell-{i}'  # they are random, and so differ each time
      cell.metadata.pop('lines_to_next_cell', None)
      if cell.cell_type == 'code':
        cell.outputs = clean(cell.outputs)
    write(notebook, FOLDER / f'{name}.ipynb')


def clean(outputs: list[NotebookNode]) -> list[NotebookNode]:
  """The outputs of a cell, with text in one piece."""
  cleaned: list[NotebookNode] = []
  for output in outputs:
    data = output.get('data', {})
    if 'image/png' in data:
      cleaned.append(v4.new_output('display_data', {'image/png': small(data)}))
    elif output.output_type == 'execute_result':
      cleaned.append(output)
    elif output.get('name') != 'stderr':
      text = output.get('text', data.get('text/plain', ''))
      text = _ESCAPES.sub('', text)
      if not text.endswith('\n'):
        text += '\n'
      if cleaned and cleaned[-1].output_type == 'stream':
        cleaned[-1].text += text
      else:
        cleaned.append(v4.new_output('stream', name='stdout', text=text))
  for output in cleaned:
    if output.output_type == 'stream':
      lines = [line.rstrip() for line in output.text.splitlines()]
      output.text = re.sub(r'\n{3,}', '\n\n', '\n'.join(lines).strip()) + '\n'
  return cleaned


def small(data: NotebookNode) -> str:
  """A PNG of at most `_WIDEST` pixels, in base64; of 256 colors if they do."""
  image = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
  image = image.convert('RGB')
  image.thumbnail((_WIDEST, 10 * _WIDEST))
  few = image.quantize(256)
  difference = ImageChops.difference(image, few.convert('RGB'))
  if max(ImageStat.Stat(difference).mean) < 0.5:  # plots, but not photos
    image = few
  file = io.BytesIO()
  image.save(file, 'PNG', optimize=True)
  return base64.b64encode(file.getvalue()).decode('ascii')


if __name__ == '__main__':
  main()
