"""Shows the notebooks, which are beside this folder, as pages.

Nothing is run. A page has the cells of the notebook: of the .ipynb file, with
the outputs that are stored there, or else of the .py file that it is paired
with (jupytext, "percent" format).
"""

import base64
from collections.abc import Iterator
import json
import pathlib
import re
from typing import Any

_SUFFIXES = ('.ipynb', '.py')  # the first that there is
# From a notebook to a page, and to another notebook.
_PAGE, _NOTEBOOK = '](../docs/', re.compile(r'(\]\(\w+)\.ipynb\)')
_CELL = re.compile(r'^# %%(.*)$', re.MULTILINE)


def setup(app: Any) -> dict[str, Any]:
  """Writes the pages before Sphinx looks for sources."""
  docs = pathlib.Path(app.srcdir)
  folder = docs.parent / 'notebooks'
  stems = {p.stem for s in _SUFFIXES for p in folder.glob(f'[0-9]_*{s}')}
  for page in (docs / 'notebooks').glob('*.md'):
    if page.stem not in stems:
      page.unlink()  # of a notebook that there was
  for stem in sorted(stems):
    found = [folder / f'{stem}{suffix}' for suffix in _SUFFIXES]
    for notebook in [path for path in found if path.exists()][:1]:
      write_page(notebook, docs / 'notebooks')
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def write_page(notebook: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes a notebook as Markdown, and its pictures beside it.

  Args:
    notebook: the .ipynb or .py file.
    folder: made where it does not exist.
  """
  folder.mkdir(exist_ok=True)
  text = notebook.read_text(encoding='utf-8')
  cells = _of_json(text) if notebook.suffix == '.ipynb' else _of_percent(text)
  parts, pictures = [], 0
  for kind, source, outputs in cells:
    if kind == 'markdown':
      source = source.replace(_PAGE, '](../')
      parts.append(_NOTEBOOK.sub(r'\1.md)', source))
      continue
    parts.append(_fenced('python', source))
    for output in outputs:
      if data := output.get('data', {}).get('image/png'):
        name = f'{notebook.stem}_{pictures}.png'
        pictures += 1
        (folder / name).write_bytes(base64.b64decode(''.join(data)))
        parts.append(f'![]({name})')
      elif shown := _text_of(output):
        parts.append(_fenced('text', shown))
  page, text = folder / f'{notebook.stem}.md', '\n\n'.join(parts) + '\n'
  if not page.exists() or page.read_text(encoding='utf-8') != text:
    page.write_text(text, encoding='utf-8')


def _of_json(text) -> Iterator[tuple[str, str, list]]:
  """(kind, source, outputs) of every cell that has a source."""
  for cell in json.loads(text)['cells']:
    source = ''.join(cell['source']).strip()
    if source and cell['cell_type'] in ('markdown', 'code'):
      yield cell['cell_type'], source, cell.get('outputs', [])


def _of_percent(text) -> Iterator[tuple[str, str, list]]:
  heads = [*_CELL.finditer(text)]
  ends = [head.start() for head in heads[1:]] + [len(text)]
  for head, end in zip(heads, ends, strict=True):
    source = text[head.end() : end].strip()
    if '[markdown]' in head[1]:
      yield 'markdown', re.sub(r'^# ?', '', source, flags=re.MULTILINE), []
    elif source:
      yield 'code', source, []


def _text_of(output) -> str:
  text = output.get('text') or output.get('data', {}).get('text/plain', '')
  return ''.join(text).rstrip()


def _fenced(language, text) -> str:
  return f'````{language}\n{text}\n````'
