"""How the labels of a kind of task are read: from files, or from a row.

A reader is made of the entries that a description has beside those of its kind
(docs/own_tasks.md): the parameters of the function of its quantity below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import inspect
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import files, option_checks
from mtl_kd_jax.datasets.folder import coco, maps
from mtl_kd_jax.datasets.folder import palette as palettes
from mtl_kd_jax.datasets.folder.rows import Row
from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.labels import Label

# What words say of an attribute.
_WORDS = {'0': 0, 'no': 0, 'false': 0, '1': 1, 'yes': 1, 'true': 1}
_RGB24 = 'rgb24'
_POWERS = np.array([1, 256, 65536], np.int64)


class Reader(NamedTuple):
  """How the labels of one task are read.

  Attributes:
    label: what they mean.
    from_file: path -> array, for labels of files; picklable.
    from_row: row -> array, for labels of a table; picklable.
    columns: of the table that `from_row` reads.
    why_absent: see `LabelMap`.
  """

  label: Label
  from_file: Callable[[pathlib.Path], np.ndarray] | None = None
  from_row: Callable[[Row], np.ndarray] | None = None
  columns: tuple[str, ...] = ()
  why_absent: Callable[[Iterable[pathlib.Path]], InputError | None] = (
    maps.no_reason
  )


def make_reader(
  name: str,
  label: Label,
  options: Mapping[str, Any],
  *,
  root: pathlib.Path | None,
) -> Reader:
  """Makes the reader of a task.

  Args:
    name: of the description in errors, 'maps.road'.
    label: what its label means.
    options: entries of the description, but 'files'.
    root: the folder; None where nothing is read.

  Raises:
    InputError: an entry is unknown or cannot be used.
  """
  if options.get('source'):
    return _annotated(name, label, options)
  make = _MAKERS[label.quantity]
  known = [*inspect.signature(make).parameters][3:]
  for key in options:
    if key not in known:
      raise InputError(
        expected=f'entries of the description, beside those of its kind: '
        f'{", ".join(["files", "source", *known])}',
        found=repr(key),
        argument=f'{name}.{key}',
        do=f'correct it{hint(key, known)} (docs/own_tasks.md)',
      )
  return make(name, label, root, **options)


def _annotated(name: str, label: Label, options: Mapping[str, Any]) -> Reader:
  """Of annotations, in place of a file for each picture."""
  others = dict(options)
  source, categories = others.pop('source'), others.pop('categories', ())
  if source != 'coco':
    raise maps.bad_option(f'{name}.source', "'coco', or ''", source)
  if others:
    key = next(iter(others))
    known = ('source', 'categories')
    raise InputError(
      expected=f'entries of a task of annotations: {", ".join(known)}',
      found=repr(key),
      argument=f'{name}.{key}',
      do=f'correct it{hint(key, known)} (docs/own_tasks.md)',
    )
  label, from_row = coco.make_from_row(name, label, categories=categories)
  return Reader(label, from_row=from_row, columns=(coco.COLUMN,))


# ---- Maps --------------------------------------------------------------------


def _classes(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  ids: Sequence[int] = (),
  ignore: Sequence[int] = (-1, 255),
  palette: str | Mapping[str, Sequence[int]] = '',
) -> Reader:
  """Ids of classes; or colors, with a palette."""
  if not palette:
    made = maps.class_map('', label, name=name, ids=ids, ignore=ignore)
    return Reader(label, made.read, why_absent=made.why_absent)

  def error(expected, found):
    return maps.bad_option(f'{name}.palette', expected, found)

  if hasattr(palette, 'items'):
    colors = palettes.check_palette(list(palette.items()), error)
  elif root is None:
    return Reader(label)
  else:
    colors = palettes.read_palette(
      root / str(palette), argument=f'{name}.palette'
    )
  table, own = palettes.table_for(colors, label.classes, error)
  return Reader(
    dataclasses.replace(label, colors=label.colors or own),
    functools.partial(table.read, argument=f'{name}.palette'),
  )


def _binary(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  ignore: Sequence[float] = (),
  threshold: float | None = None,
) -> Reader:
  """0 and 1, or black and white; or numbers with a threshold."""
  del root
  maps.check_numbers(f'{name}.ignore', 'a tuple of stored values', ignore)
  if threshold is not None and not maps.is_number(threshold):
    raise maps.bad_option(f'{name}.threshold', 'a number', threshold)
  return Reader(
    label,
    functools.partial(
      _read_binary, ignore=tuple(ignore), threshold=threshold, name=name
    ),
  )


def _read_binary(path, *, ignore, threshold, name):
  stored = maps.read_gray(path, booleans=True)
  missing = np.isin(stored, ignore)
  if threshold is not None:
    return np.where(missing, -1, stored > threshold).astype(np.int32)
  values = np.unique(stored[~missing])
  if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
    shown = ', '.join(f'{v:g}' for v in values[:6])
    raise files.bad_file(
      path,
      '0 and 1, or 0 and 255, as a map of yes and no has',
      shown + ' ...' * (len(values) > 6),
      f'say above which number it is yes: threshold in {name}; list values of '
      f'no label in ignore; or choose another kind than binary',
    )
  return np.where(missing, -1, stored > 0).astype(np.int32)


def _multilabel(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  bits: bool = False,
  ignore: Sequence[float] = (),
) -> Reader:
  """0 and 1 in a channel of each class, or in the bits of an integer."""
  del root
  maps.check_numbers(f'{name}.ignore', 'a tuple of stored values', ignore)
  count = label.num_channels
  return Reader(
    label,
    functools.partial(
      _read_multilabel, bits=bool(bits), ignore=tuple(ignore), count=count
    ),
  )


def _read_multilabel(path, *, bits, ignore, count):
  if bits:
    stored = maps.read_gray(path)
    missing = np.isin(stored, ignore)[..., None]
    whole = stored.astype(np.int64)
    if (whole != stored).any() or whole.min() < 0 or whole.max() >= 1 << count:
      raise files.bad_file(
        path, f'whole numbers from 0 to {(1 << count) - 1}', _span(stored)
      )
    values = whole[..., None] >> np.arange(count) & 1
    return np.where(missing, -1, values).astype(np.int32)
  stored = _channels(path, count, booleans=True)
  missing = np.isin(stored, ignore)
  values = np.unique(stored[~missing])
  if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
    raise files.bad_file(path, '0 and 1, or 0 and 255', _span(stored))
  return np.where(missing, -1, stored > 0).astype(np.int32)


def _measured(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  scale: float = 1.0,
  invalid: Sequence[float] = (0,),
  encoding: str = '',
) -> Reader:
  """Numbers above 0, times a scale."""
  del root
  _check_scale(name, scale, invalid, encoding)
  return Reader(
    label,
    functools.partial(
      maps.read_depth,
      scale=scale,
      invalid=tuple(invalid),
      unit=label.unit or label.quantity,
      name=name,
      read=_packed if encoding else maps.read_gray,
    ),
  )


def _numbers(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  scale: float = 1.0,
  invalid: Sequence[float] = (),
  encoding: str = '',
) -> Reader:
  """Numbers in any range, times a scale; NaN and infinity are unlabeled."""
  del root
  _check_scale(name, scale, invalid, encoding)
  return Reader(
    label,
    functools.partial(
      _read_numbers,
      scale=scale,
      invalid=tuple(invalid),
      count=label.num_channels,
      packed=bool(encoding),
    ),
  )


def _vectors(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  scale: float = 1.0,
  invalid: Sequence[float] = (),
) -> Reader:
  """Two numbers, right and down in pixels of the file."""
  return _numbers(name, label, root, scale=scale, invalid=invalid)


def _read_numbers(path, *, scale, invalid, count, packed):
  stored = (
    _packed(path)[..., None] if packed else _channels(path, count, finite=False)
  )
  missing = ~np.isfinite(stored) | np.isin(stored, invalid)
  values = np.where(missing, 0, stored).astype(np.float64) * scale
  if np.abs(values).max() > np.finfo(np.float32).max:
    raise files.bad_file(path, 'numbers of float32', _span(values))
  unlabeled = missing.any(axis=-1, keepdims=True)
  return np.where(unlabeled, np.nan, values).astype(np.float32)


def _normals(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  invalid: Sequence[float] = (0, 0, 0),
) -> Reader:
  """Unit vectors, or the colors that show them."""
  del root
  return Reader(label, maps.normals_map('', invalid=invalid, name=name).read)


def _heatmaps(
  name: str, label: Label, root: pathlib.Path | None, *, scale: float = 0.0
) -> Reader:
  """Heat maps; integers are divided by the largest of their type."""
  del root
  if not (maps.is_number(scale) and scale >= 0):
    raise maps.bad_option(f'{name}.scale', 'a factor above 0, or 0', scale)
  return Reader(
    label,
    functools.partial(_read_heatmaps, scale=scale, count=label.num_channels),
  )


def _read_heatmaps(path, *, scale, count):
  stored = _channels(path, count, finite=False)
  factor = scale or (
    1 / np.iinfo(stored.dtype).max if stored.dtype.kind in 'iu' else 1
  )
  values = stored * factor
  missing = ~np.isfinite(values)
  if not missing.all() and (np.nanmin(values) < 0 or np.nanmax(values) > 1.01):
    raise files.bad_file(path, 'heat maps from 0 to 1', _span(values))
  return np.where(missing, -1, values).astype(np.float32)


def _channels(path, count, **options) -> np.ndarray:
  """An array [h w count]."""
  array = files.read_array(path, **options)
  array = array[..., None] if array.ndim == 2 else array
  files.check_shape(path, array, (None, None, count))
  return array


def _packed(path, **options) -> np.ndarray:
  """Red, green and blue as one number from 0 to 1, float64 [h w]."""
  del options
  array = files.read_array(path)
  if array.ndim == 3 and array.shape[-1] == 4:
    array = array[..., :3]  # without alpha
  files.check_shape(path, array, (None, None, 3))
  if array.dtype != np.uint8:
    raise files.bad_file(path, 'bytes', f'{array.dtype}')
  return array.astype(np.int64) @ _POWERS / (256**3 - 1)


def _check_scale(name, scale, invalid, encoding) -> None:
  maps.check_scale(f'{name}.scale', scale)
  maps.check_numbers(f'{name}.invalid', 'a tuple of stored values', invalid)
  if encoding not in ('', _RGB24):
    raise maps.bad_option(f'{name}.encoding', f"'' or {_RGB24!r}", encoding)


def _span(values) -> str:
  known = values[np.isfinite(values)]
  return f'{known.min():g} to {known.max():g}' if known.size else 'no number'


# ---- Points, and what is said of a picture -----------------------------------


def _points(
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


def _image_class(
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
  if value not in classes:
    raise row.error(
      column,
      f'a class: {", ".join(classes)}{hint(str(value), classes)}',
      value,
    )
  return np.array(classes.index(value), np.int32)


def _attributes(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  columns: Sequence[str] = (),
) -> Reader:
  """0 or 1 of every attribute, in columns that are called like them."""
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


def _image_numbers(
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
  return np.array([_number(row, c) * scale for c in columns], np.float32)


def _number(row, column) -> float:
  value = row.get(column)
  try:
    number = np.nan if value is None else float(value)
  except (TypeError, ValueError):
    number = np.inf
  if np.isinf(number):
    raise row.error(column, 'a number', value)
  return number


def _one_column(name: str, column: Any) -> str:
  """A column; by default the one that is called like the task."""
  column = column or name.rpartition('.')[2]
  if not isinstance(column, str):
    raise maps.bad_option(f'{name}.column', 'the name of a column', column)
  return column


_MAKERS: dict[str, Callable[..., Reader]] = {
  'class': _classes,
  'binary': _binary,
  'multilabel': _multilabel,
  'depth': _measured,
  'disparity': _measured,
  'normal': _normals,
  'regression': _numbers,
  'vector': _vectors,
  'heatmap': _heatmaps,
  'points': _points,
  'image_class': _image_class,
  'image_multilabel': _attributes,
  'image_regression': _image_numbers,
}
