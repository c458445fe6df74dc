"""From the columns of a table to tasks of whole pictures, and of points."""

from collections.abc import Collection, Iterable, Sequence
import math
import pathlib
import re
from typing import Any

from mtl_kd_jax.datasets.folder.rows import Table
from mtl_kd_jax.datasets.guess.draft import Task, free_name

_YES_NO = {'0', '1', 'yes', 'no', 'true', 'false'}
_MOST_CLASSES = 50
_AXIS = re.compile(r'(.*?)[_.-]?([xyXY])')


def key_column(table: Table, frames: Collection[str]) -> str:
  """The column that names pictures; '' for none.

  Args:
    table: with any key.
    frames: names of the pictures.
  """
  for column in table.columns:
    values = [row.get(column) for row in table.rows.values()]
    named = sum(bool(named_frames([v], frames)) for v in values)
    if named > len(values) / 2:
      return column
  return ''


def named_frames(values: Iterable[Any], frames: Collection[str]) -> set[str]:
  """The pictures that values name, as frames or as files."""
  found = set()
  for value in values:
    path = pathlib.PurePosixPath(f'{value}')
    found |= {f for f in (f'{value}', path.name, path.stem) if f in frames}
  return found


def other_separator(table: Table) -> str:
  """What separates cells in a table that was read as one column; or ''."""
  mark = re.search('[;\t|]', table.columns[0])
  return mark[0] if mark and len(table.columns) == 1 else ''


def guess_columns(
  table: Table, key: str, taken: Collection[str]
) -> tuple[dict[str, Task], dict[str, str]]:
  """Guesses what the columns of a table are.

  Args:
    table: whose columns are meant.
    key: the column that names the pictures.
    taken: names of tasks that there are.

  Returns:
    Task -> its description; and column -> why it is not used.
  """
  columns = {
    column: [
      value
      for row in table.rows.values()
      if (value := row.get(column)) is not None
    ]
    for column in table.columns
    if column not in (key, 'split')
  }
  tasks: dict[str, Task] = {}

  def add(name: str, why: str, **description: Any) -> None:
    tasks[free_name(name, {*taken, *tasks})] = Task(description, why)

  unused = {
    name: why for name, values in columns.items() if (why := _why_not(values))
  }
  columns = {n: values for n, values in columns.items() if n not in unused}
  pairs, columns = _points(columns)
  if pairs:
    add(
      'points',
      f'{len(pairs) // 2} pairs of columns end with x and y: points in pixels',
      kind='heatmap',
      points=len(pairs) // 2,
      columns=tuple(pairs),
    )
  attributes = tuple(
    name
    for name, values in columns.items()
    if {str(v).lower() for v in values} <= _YES_NO
  )
  if attributes:
    add(
      'attributes',
      f'{len(attributes)} columns of yes and no',
      kind='image_multilabel',
      classes=attributes,
    )
  for name, values in columns.items():
    if name in attributes:
      continue
    words = {str(v) for v in values}
    if _are_numbers(values) and len(words) > 2:
      add(name, 'a column of numbers', kind='image_regression', column=name)
    elif len(words) == 1:
      unused[name] = 'the same in every row'
    elif len(words) <= min(_MOST_CLASSES, len(values) / 2):
      add(
        name,
        f'a column of {len(words)} different words',
        kind='image_classes',
        classes=tuple(sorted(words)),
        column=name,
      )
    else:
      unused[name] = f'{len(words)} different words in {len(values)} rows'
  return tasks, unused


def _why_not(values: Sequence[Any]) -> str:
  if not values:
    return 'nothing in it'
  if any(isinstance(v, list | dict) for v in values):
    return 'lists or objects'
  return ''


def _points(columns) -> tuple[list[str], dict[str, list]]:
  """Columns of x and y, in turns; and those that are none."""
  pairs: list[str] = []
  for name in columns:
    match = _AXIS.fullmatch(name)
    if not match or match[2] not in 'xX':
      continue
    other = name[:-1] + ('y' if name[-1] == 'x' else 'Y')
    if other in columns and _are_numbers(columns[name] + columns[other]):
      pairs += [name, other]
  return pairs, {n: v for n, v in columns.items() if n not in pairs}


def _are_numbers(values: Sequence[Any]) -> bool:
  """Whether all are numbers, or NaN for no label."""
  try:
    return not any(math.isinf(float(v)) for v in values)
  except (TypeError, ValueError):
    return False
