"""Readers of points, and of what the row of a table says of a picture.

Functions as those of map_readers.py.
"""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import files, option_checks
from mtl_kd_jax.datasets.folder import maps
from mtl_kd_jax.datasets.folder.reader import Reader
from mtl_kd_jax.errors import hint
from mtl_kd_jax.labels import Label

# What words say of an attribute.
_WORDS = {'0': 0, 'no': 0, 'false': 0, '1': 1, 'yes': 1, 'true': 1}


def points(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  columns: Sequence[str] = (),
) -> Reader:
  """X and y of every point, in pixels of the picture's file."""
  del root
  count = label.num_channels
  names = option_checks.as_tuple(columns)
  if not names and not columns:
    return Reader(label, functools.partial(_read_points, count=count))
  if len(names) != 2 * count:
    raise maps.bad_option(
      f'{name}.columns',
      f'{2 * count} columns: x and y of each of {count} points',
      columns,
    )
  return Reader(
    label,
    from_row=functools.partial(_points_of_row, columns=names),
    columns=names,
  )


def _read_points(path, *, count):
  array = files.read_array(path, finite=False).astype(np.float64)
  if array.shape not in ((count, 2), (count, 3)):
    raise files.bad_file(
      path,
      f'an array [{count} 2] of x, y, or [{count} 3] of x, y and 0 where there '
      'is no label',
      f'{list(array.shape)}',
    )
  known = np.isfinite(array).all(axis=-1) & (array[:, 2:] != 0).all(axis=-1)
  return _as_points(array[:, :2], known)


def _points_of_row(row, *, columns):
  numbers = np.array([_number(row, c) for c in columns]).reshape(-1, 2)
  return _as_points(numbers, ~np.isnan(numbers).any(axis=-1))


def _as_points(xy, known):
  points = np.zeros((len(xy), 3), np.float32)
  points[known, :2], points[known, 2] = xy[known], 1
  return points


def image_class(
  name: str, label: Label, root: pathlib.Path | None, *, column: str = ''
) -> Reader:
  """The name of a class; an empty cell is no label."""
  del root
  column = _one_column(name, column)
  return Reader(
    label,
    from_row=functools.partial(
      _class_of_row, column=column, classes=label.classes
    ),
    columns=(column,),
  )


def _class_of_row(row, *, column, classes):
  value = row.get(column)
  if value is None:
    return np.array(-1, np.int32)
  if isinstance(value, int):  # of JSON; classes have names
    value = str(value)
  if value not in classes:
    raise row.error(
      column,
      f'a class: {", ".join(classes)}{hint(str(value), classes)}',
      value,
    )
  return np.array(classes.index(value), np.int32)


def attributes(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  columns: Sequence[str] = (),
) -> Reader:
  """0 or 1 of every attribute, in columns of their names."""
  del root
  names = option_checks.as_tuple(columns) or label.classes
  if len(names) != label.num_channels:
    raise maps.bad_option(
      f'{name}.columns', f'{label.num_channels} columns', columns
    )
  return Reader(
    label,
    from_row=functools.partial(_attributes_of_row, columns=names),
    columns=names,
  )


def _attributes_of_row(row, *, columns):
  values = []
  for column in columns:
    value = row.get(column)
    word = -1 if value is None else _WORDS.get(str(value).lower())
    if word is None:
      raise row.error(column, 'one of 0, 1, no, yes, false, true', value)
    values.append(word)
  return np.array(values, np.int32)


def image_numbers(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  column: str = '',
  columns: Sequence[str] = (),
  scale: float = 1.0,
) -> Reader:
  """Numbers of the picture, times a scale; an empty cell is no label."""
  del root
  names = option_checks.as_tuple(columns) or label.classes
  if column or not names:
    names = (_one_column(name, column),)
  if len(names) != label.num_channels:
    raise maps.bad_option(
      f'{name}.columns', f'{label.num_channels} columns', columns or column
    )
  maps.check_scale(f'{name}.scale', scale)
  return Reader(
    label,
    from_row=functools.partial(_numbers_of_row, columns=names, scale=scale),
    columns=names,
  )


def _numbers_of_row(row, *, columns, scale):
  return np.array([_number(row, c, scale) for c in columns], np.float32)


def _number(row, column, scale=1.0) -> float:
  value = row.get(column)
  try:
    number = np.nan if value is None else float(value) * scale
  except (TypeError, ValueError):
    number = np.inf
  if abs(number) > float(np.finfo(np.float32).max):
    raise row.error(column, 'a number', value)
  return number


def _one_column(name: str, column: Any) -> str:
  """A column; by default the one with the name of the task."""
  column = column or name.rpartition('.')[2]
  if not isinstance(column, str):
    raise maps.bad_option(f'{name}.column', 'the name of a column', column)
  return column
