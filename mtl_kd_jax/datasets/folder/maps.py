"""What the maps of a described folder hold, and how one is read.

A description is a few plain values of the config (configs/common.py,
data.folder). Each becomes a `Map`, which reads a file in the form of labels.py
at the size that it is stored in.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import files
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

WHERE = 'config.data.folder'
# The largest id that a table is made for: that of a 16-bit PNG.
_MOST_ID = 65535
# In such a table, an id that is not described.
_UNKNOWN = -2


@dataclasses.dataclass(frozen=True)
class Map:
  """One kind of label.

  Attributes:
    pattern: path of its files below the folder, with {split} and {frame}.
    label: what its numbers mean.
    read: path -> array in the form of labels.py; picklable.
  """

  pattern: str
  label: Label
  read: Callable[[pathlib.Path], np.ndarray]


def make_maps(
  *,
  semantic: Mapping[str, Any],
  depth: Mapping[str, Any],
  normals: Mapping[str, Any],
) -> dict[str, Map]:
  """Makes task -> Map from the descriptions that name files.

  Raises:
    InputError: a value cannot be used.
  """
  makers = {
    'semantic': (_semantic, semantic),
    'depth': (_depth, depth),
    'normals': (_normals, normals),
  }
  maps = {}
  for task, (make, options) in makers.items():
    options = dict(options)
    pattern = options.pop('files')
    if pattern:
      maps[task] = make(pattern, **options)
  return maps


def bad_option(key: str, expected: str, found: Any) -> InputError:
  """The error for a value of the description."""
  return InputError(
    expected=expected,
    found=repr(found),
    where=f'{WHERE}.{key}',
    do='correct it in the config file (docs/data.md, "Your own data")',
  )


def _semantic(pattern, *, classes, ids, ignore) -> Map:
  classes, ids, ignore = tuple(classes), tuple(ids), tuple(ignore)
  if not classes or len(set(classes)) < len(classes):
    raise bad_option(
      'semantic.classes', 'different names, in the order of ids', classes
    )
  ids = ids or tuple(range(len(classes)))
  if len(ids) != len(classes):
    raise bad_option(
      'semantic.ids', f'an id for each of {len(classes)} classes', ids
    )
  every = (*ids, *ignore)
  fits = all(isinstance(i, int) and -1 <= i <= _MOST_ID for i in every)
  if not fits or len(set(every)) < len(every):
    raise bad_option(
      'semantic.ids and .ignore',
      f'different whole numbers from -1 to {_MOST_ID}',
      every,
    )
  # -1 is found at the end of the table, where NumPy counts from.
  table = np.full(max(every) + 2, _UNKNOWN, np.int32)
  table[list(ids)] = np.arange(len(ids))
  table[list(ignore)] = -1
  read = functools.partial(_read_classes, table=table)
  return Map(pattern, Label('class', classes=classes), read)


def _read_classes(path, *, table):
  ids = _read_map(path)
  whole = ids.astype(np.int64)
  if not np.array_equal(whole, ids):
    raise files.bad(path, 'whole numbers as ids', 'fractions')
  known = (whole >= -1) & (whole < len(table) - 1)
  classes = table[np.where(known, whole, 0)]
  odd = np.unique(whole[~known | (classes == _UNKNOWN)])
  if odd.size:
    raise files.bad(
      path,
      'the ids that are described',
      ', '.join(str(i) for i in odd[:5]) + (' ...' if odd.size > 5 else ''),
      f'describe every id, in {WHERE}.semantic.classes with .ids, or as one '
      'that counts as unlabeled in .ignore',
    )
  return classes


def _depth(pattern, *, quantity, unit, scale, invalid) -> Map:
  if quantity not in ('depth', 'disparity'):
    raise bad_option('depth.quantity', "'depth' or 'disparity'", quantity)
  if not unit:
    raise bad_option('depth.unit', 'a unit, e.g. m', unit)
  if not (scale > 0 and math.isfinite(scale)):
    raise bad_option('depth.scale', 'a factor above 0', scale)
  read = functools.partial(
    _read_depth, scale=scale, invalid=tuple(invalid), unit=unit
  )
  return Map(pattern, Label(quantity, unit=unit), read)


def _read_depth(path, *, scale, invalid, unit):
  stored = _read_map(path, finite=False)
  missing = ~np.isfinite(stored) | np.isin(stored, invalid)
  values = np.where(missing, 0, stored).astype(np.float64) * scale
  if values.min() < 0:
    raise files.bad(
      path,
      f'{unit} >= 0, or one of the numbers {invalid} for missing',
      f'{values.min():g}',
      f'name what stands for missing in {WHERE}.depth.invalid',
    )
  return values.astype(np.float32)[..., None]


def _normals(pattern, *, invalid) -> Map:
  invalid = tuple(invalid)
  if len(invalid) != 3:
    raise bad_option(
      'normals.invalid', 'three numbers, the vector or color', invalid
    )
  read = functools.partial(_read_normals, invalid=invalid)
  return Map(pattern, Label('normal'), read)


def _read_normals(path, *, invalid):
  array = files.read_array(_lossless(path))
  files.check_shape(path, array, (None, None, 3))
  missing = (array == np.array(invalid)).all(axis=-1)
  return files.as_vectors(path, array, missing)


def _read_map(path, *, finite=True):
  """An array [h w] of numbers."""
  array = files.read_array(_lossless(path), finite=finite)
  if array.ndim == 3:
    raise files.bad(
      path,
      'one number for each pixel, [h w]',
      f'{list(array.shape)}, as of a colored picture',
      'store the numbers, not a picture that shows them in colors',
    )
  return array


def _lossless(path):
  if path.suffix.lower() not in files.LOSSLESS:
    raise files.bad(
      path,
      f'a map in {" or ".join(files.LOSSLESS)}',
      f'{path.suffix!r}, whose numbers are changed by compression',
    )
  return path
