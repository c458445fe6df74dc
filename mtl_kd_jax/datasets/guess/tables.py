"""From the columns of a table to tasks of whole pictures, and of points."""

from collections.abc import Sequence
import re
from typing import Any

from mtl_kd_jax.datasets.folder.rows import Table

_YES_NO = {'0', '1', 'yes', 'no', 'true', 'false'}
_MOST_CLASSES = 50
_AXIS = re.compile(r'(.*?)[_.-]?([xyXY])')


def key_column(table: Table, frames: set[str]) -> str:
  """The column that names pictures; '' for none.

  Args:
    table: with any key.
    frames: names of the pictures.
  """
  for column in table.columns:
    named = [_stem(row.get(column)) for row in table.rows.values()]
    if sum(name in frames for name in named) > len(named) / 2:
      return column
  return ''


def guess_columns(table: Table, key: str) -> dict[str, tuple[dict, str]]:
  """Task -> its description, and why.

  Args:
    table: whose columns are meant.
    key: the column that names the pictures.
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
  columns = {name: values for name, values in columns.items() if values}
  tasks: dict[str, tuple[dict[str, Any], str]] = {}
  pairs, columns = _points(columns)
  if pairs:
    tasks['points'] = (
      {
        'kind': 'heatmap',
        'points': len(pairs) // 2,
        'columns': tuple(pairs),
      },
      f'{len(pairs) // 2} pairs of columns end with x and y: points in pixels',
    )
  attributes = [
    name
    for name, values in columns.items()
    if {str(v).lower() for v in values} <= _YES_NO
  ]
  if attributes:
    tasks['attributes'] = (
      {'kind': 'image_multilabel', 'classes': tuple(attributes)},
      f'{len(attributes)} columns of yes and no',
    )
  for name, values in columns.items():
    if name in attributes:
      continue
    if _are_numbers(values) and len(set(values)) > 2:
      tasks[_name(name)] = (
        {'kind': 'image_regression', 'column': name},
        'a column of numbers',
      )
    elif len(set(values)) <= min(_MOST_CLASSES, len(values) / 2):
      classes = tuple(sorted({str(v) for v in values}))
      tasks[_name(name)] = (
        {'kind': 'image_classes', 'classes': classes, 'column': name},
        f'a column of {len(classes)} different words',
      )
  return tasks


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
  try:
    return all(float(v) == float(v) for v in values)
  except (TypeError, ValueError):
    return False


def _name(column: str) -> str:
  """A name for a task, of that of a column."""
  return re.sub(r'\W+', '_', column).strip('_').lower() or 'column'


def _stem(value: Any) -> str:
  text = f'{value}'.replace('\\', '/').rpartition('/')[2]
  return text.rpartition('.')[0] or text
