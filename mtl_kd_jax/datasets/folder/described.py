"""Labels of a folder that descriptions of tasks name: any number, of any kind.

A description has the options of its kind, which say what the labels mean, and
entries that say where they are and how they are stored (readers.py).
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from mtl_kd_jax.datasets.folder.maps import LabelMap, bad_option
from mtl_kd_jax.datasets.folder.readers import make_reader
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks.kinds import find_kind, parse

_FILES = 'files'


def make_described(
  maps: Mapping[str, Mapping[str, Any]], *, root: pathlib.Path | None
) -> tuple[dict[str, LabelMap], dict[str, tuple[str, ...]]]:
  """Makes a label of every description.

  Args:
    maps: name of a task -> its description.
    root: the folder; None where nothing is read.

  Returns:
    Name -> label; and name -> the columns of the table that it reads.

  Raises:
    InputError: one cannot be used; the argument is 'maps.<name>.<key>'.
  """
  labels, columns = {}, {}
  if not hasattr(maps, 'items'):
    raise bad_option('maps', 'descriptions by the names of tasks', maps)
  for name, description in maps.items():
    try:
      parsed = parse(description)
      if not parsed.kind:
        raise InputError(
          expected='the kind of a task that the folder has labels for',
          found='none',
          argument='kind',
          do="add it, such as 'kind': 'classes' (docs/own_tasks.md)",
        )
      label = find_kind(parsed.kind).describe(**parsed.label)
    except InputError as error:
      raise _of(name, error) from error
    entries = dict(parsed.others)
    pattern = entries.pop(_FILES, '')
    reader = make_reader(f'maps.{name}', label, entries, root=root)
    if bool(pattern) != (reader.from_row is None):
      raise _no_files(name, parsed.kind, reader, pattern)
    labels[name] = LabelMap(
      pattern,
      reader.label,
      reader.from_file,
      reader.why_absent,
      reader.from_row,
    )
    if reader.columns:
      columns[name] = reader.columns
  return labels, columns


def without_files(description: Mapping[str, Any]) -> dict[str, Any]:
  """What of a description says how its task is learned."""
  others = parse(description).others
  return {k: v for k, v in description.items() if k not in others}


def _no_files(name, kind, reader, pattern) -> InputError:
  if pattern:
    return InputError(
      expected='a kind of task that is read from files',
      found=f'{kind}, which is read from the columns of a table: '
      f'{", ".join(reader.columns)}',
      argument=f'maps.{name}.files',
      do='leave files out, and name the table in rows',
    )
  return bad_option(
    f'maps.{name}.files',
    'the pattern of its files, such as {split}/' + name + '/{frame}.png',
    pattern,
  )


def _of(name: str, error: InputError) -> InputError:
  own = error.where == f'argument {error.argument}'
  return InputError(
    expected=error.expected,
    found=error.found,
    where='' if own else error.where,
    do=error.do,
    argument=f'maps.{name}.{error.argument}',
  )
