"""Looks at a folder of pictures and labels, and writes a first config."""

from collections.abc import Mapping
import contextlib
import os
import pathlib
import re

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mtl_kd_jax.config import get_config
from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.config.from_file import from_file
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.guess import Folder, guess_folder
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.files import write_atomically

# Without folders for splits, every so-many-th picture is one of the split val.
_HELD = 10

# Whether there are several tasks -> the setting that a config begins with.
_SETTING = {
  True: (
    '  # Holds an eighth of the training pictures out, to choose teachers on.',
    '  config = quickstart.get_config()',
  ),
  False: (
    '  config = quickstart.papers_method()',
    '  config.data.val_fraction = 0.0',
  ),
}


def default_config(workdir: pathlib.Path | None) -> ConfigDict | None:
  """The defaults, of which nothing is used."""
  del workdir
  return get_config()


def run(
  config: ConfigDict, workdir: pathlib.Path, *, init: str = ''
) -> pathlib.Path:
  """Writes a config, and says what it was guessed from.

  Args:
    config: unused.
    workdir: unused.
    init: the folder.

  Returns:
    The path of the config.

  Raises:
    InputError: there is no such folder, nothing in it that can be read, or the
      config is there already or cannot be written.
  """
  del config, workdir
  root = paths.expand(init, argument='init')
  found = paths.why_no_folder(root) if init else 'no folder was named'
  if found:
    raise InputError(
      expected='a folder of pictures and labels',
      found=found,
      where='--init',
      argument='init',
      do='name it: --job=data --init=FOLDER. To look at the data of a config: '
      '--job=inspect',
    )
  name = re.sub(r'\W+', '_', root.absolute().name).strip('_').lower() or 'mine'
  path = pathlib.Path(f'{name}.py')
  folder = guess_folder(root)
  lists = _lists(name, folder)
  texts = {
    file: ''.join(f'{n}\n' for n in names) for file, names in lists.items()
  }
  texts[path] = _as_python(name, root, folder, lists)
  _write(texts)
  console = Console(highlight=False)
  console.print(_as_table(root, folder))
  for note in folder.notes:
    console.print(f'note: {paths.as_text(note)}', markup=False, soft_wrap=True)
  written = ', '.join(map(str, (path, *lists)))
  console.print(f'written: {written}', markup=False, soft_wrap=True)
  _try(path, console)
  return path


def _write(texts: Mapping[pathlib.Path, str]) -> None:
  """Writes all of some new files, or none.

  Raises:
    InputError: one is there already, or the directory cannot be written to.
  """
  written: list[pathlib.Path] = []
  try:
    there = [file for file in texts if file.exists()]
    for file, text in () if there else texts.items():
      write_atomically(file, text)
      written.append(file)
  except OSError as error:
    for file in written:
      with contextlib.suppress(OSError):
        file.unlink()
    raise InputError(
      expected='a directory that can be written to',
      found=f'{error}',
      where=os.getcwd(),
      argument='init',
      do='go to another directory, where the config is written',
    ) from error
  if there:
    raise InputError(
      expected='a config to write',
      found=f'{there[0]} is there already',
      where=f'{there[0].absolute()}',
      argument='init',
      do='move it away, or go to another directory',
    )


def _lists(name: str, folder: Folder) -> dict[pathlib.Path, list[str]]:
  """Files with names of pictures, where no folders tell splits apart."""
  if not folder.frames or 'train' in folder.options:
    return {}
  held = set(folder.frames[_HELD - 1 :: _HELD] or folder.frames[-1:])
  return {
    pathlib.Path(f'{name}_train.txt'): [
      x for x in folder.frames if x not in held
    ],
    pathlib.Path(f'{name}_val.txt'): sorted(held),
  }


def _as_python(name, root, folder: Folder, lists) -> str:
  height, width = folder.size
  options = dict(folder.options)
  for split, file in zip(('train', 'val'), lists, strict=False):
    options[split] = str(file.absolute())
  lines = [
    f'"""A first config for the folder {name}; guesses are marked.',
    '',
    f'python launch.py --config={name}.py --job=inspect   # look at the data',
    f'python launch.py --config={name}.py',
    '"""',
    '',
    'from mtl_kd_jax.config.experiments import quickstart',
    '',
    '',
    'def get_config():',
    '  """The config."""',
    *_SETTING[len(folder.tasks) > 1],
    f'  config.name = {name!r}',
    "  config.data.name = 'folder'",
    f'  config.data.data_dir = {str(root.absolute())!r}',
    f'  # {folder.count} pictures; the first has {height} x {width} pixels '
    '(height x width).',
  ]
  lines += [
    f'  config.data.folder.{key} = {value!r}'
    for key, value in sorted(options.items())
  ]
  if lists:
    lines.insert(
      len(lines) - len(options),
      f'  # No folders tell splits apart: every {_HELD}th picture is scored.',
    )
  lines += ['', f'  config.tasks = {tuple(folder.tasks)!r}']
  for task, (description, why) in folder.tasks.items():
    why = paths.as_text(why)  # a line, whatever names are in it
    lines += [f'  # Guessed: {why}.', f'  config.task[{task!r}] = {{']
    lines += [f'    {key!r}: {value!r},' for key, value in description.items()]
    lines += ['  }']
  return '\n'.join([*lines, '  return config', ''])


def _as_table(root, folder: Folder) -> Table:
  table = Table(
    'task',
    'kind',
    'from',
    'because',
    title=f'{paths.as_text(root)}: {folder.count} pictures, '
    f'{folder.options["image"]}',
    title_justify='left',
    show_edge=False,
  )
  for name, (description, why) in folder.tasks.items():
    source = description.get('files') or (
      folder.options.get('rows') or folder.options.get('coco')
    )
    table.add_row(name, description['kind'], source, why)
  return table


def _try(path: pathlib.Path, console: Console) -> None:
  """Opens the data as the config says, and reads a sample."""
  try:
    dataset = open_dataset(from_file(str(path)))
    dataset.source('train')[0]
  except InputError as error:
    console.print(
      f'The data cannot be opened so yet:\n{error}\n'
      f'Correct {path}, and look at the data:',
      markup=False,
    )
  else:
    console.print('The data can be read so. Look at them:')
  console.print(
    f'  python launch.py --config={path} --job=inspect', markup=False
  )
