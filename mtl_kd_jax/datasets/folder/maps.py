"""Label maps of a user's folder: their options, and how one file is read.

Each map is described by a few plain values (docs/data.md, "Your own data"). A
`LabelMap` reads a file in the form of labels.py, at the size that it is stored
in.
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

# The options of each map with their defaults. `files` is the pattern of its
# paths; '' if there are none.
SEMANTIC = {
  'files': '',
  # The class names.
  'classes': (),
  # The stored id of each class; () for 0, 1, 2 ...
  'ids': (),
  # Stored ids that mean unlabeled. Any other id is an error.
  'ignore': (-1, 255),
}
DEPTH = {
  'files': '',
  # 'depth', along the optical axis, or 'disparity', also for inverse depth.
  'quantity': 'depth',
  # After scaling, for the tables.
  'unit': 'm',
  # Stored values are multiplied by it: 0.001 for millimeters.
  'scale': 1.0,
  # Stored values that mean unlabeled, as NaN and infinity always do.
  'invalid': (0,),
}
NORMALS = {
  'files': '',
  # The stored vector or color that means unlabeled.
  'invalid': (0, 0, 0),
}

# The largest id in a lookup table: that of a 16-bit PNG.
_MAX_ID = 65535
# Marks ids in such a table that are neither a class nor ignored.
_UNKNOWN = -2


@dataclasses.dataclass(frozen=True)
class LabelMap:
  """One label of a folder.

  Attributes:
    pattern: path of its files in the folder, with {split} and {frame}.
    label: what its values mean.
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
) -> dict[str, LabelMap]:
  """Makes a map of every description that names files, by label name.

  Args:
    semantic: the options that differ from `SEMANTIC`.
    depth: the options that differ from `DEPTH`.
    normals: the options that differ from `NORMALS`.

  Raises:
    InputError: an option is unknown or cannot be used.
  """
  maps = {}
  for name, make, defaults, given in (
    ('semantic', _make_semantic, SEMANTIC, semantic),
    ('depth', _make_depth, DEPTH, depth),
    ('normals', _make_normals, NORMALS, normals),
  ):
    for key in given:
      if key not in defaults:
        expected = f'an option of {name}: {", ".join(defaults)}'
        raise bad_option(f'{name}.{key}', expected, key)
    options = {**defaults, **given}
    pattern = options.pop('files')
    if pattern:
      maps[name] = make(pattern, **options)
  return maps


def bad_option(argument: str, expected: str, found: Any) -> InputError:
  """Makes the error for an option that cannot be used."""
  return InputError(
    expected=expected,
    found=repr(found),
    argument=argument,
    do='correct it (docs/data.md, "Your own data")',
  )


def _make_semantic(pattern, *, classes, ids, ignore) -> LabelMap:
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
  all_ids = (*ids, *ignore)
  valid = all(isinstance(i, int) and -1 <= i <= _MAX_ID for i in all_ids)
  if not valid or len(set(all_ids)) < len(all_ids):
    raise bad_option(
      'semantic.ids',
      f'different whole numbers from -1 to {_MAX_ID} in ids and ignore',
      all_ids,
    )
  # Index -1 is the last entry of the table.
  table = np.full(max(all_ids) + 2, _UNKNOWN, np.int32)
  table[list(ids)] = np.arange(len(ids))
  table[list(ignore)] = -1
  read = functools.partial(_read_semantic, table=table)
  return LabelMap(pattern, Label('class', classes=classes), read)


def _read_semantic(path, *, table):
  stored = _read_gray(path)
  ids = stored.astype(np.int64)
  if not np.array_equal(ids, stored):
    raise files.bad_file(path, 'whole numbers as ids', 'fractions')
  in_table = (ids >= -1) & (ids < len(table) - 1)
  classes = table[np.where(in_table, ids, 0)]
  unknown = np.unique(ids[~in_table | (classes == _UNKNOWN)])
  if unknown.size:
    raise files.bad_file(
      path,
      'the ids of the classes, or ignored ones',
      ', '.join(str(i) for i in unknown[:5])
      + (' ...' if unknown.size > 5 else ''),
      'list every id: in semantic.ids with its class in semantic.classes, or '
      'in semantic.ignore',
    )
  return classes


def _make_depth(pattern, *, quantity, unit, scale, invalid) -> LabelMap:
  if quantity not in ('depth', 'disparity'):
    raise bad_option('depth.quantity', "'depth' or 'disparity'", quantity)
  if not unit:
    raise bad_option('depth.unit', 'a unit, e.g. m', unit)
  if not (scale > 0 and math.isfinite(scale)):
    raise bad_option('depth.scale', 'a factor above 0', scale)
  read = functools.partial(
    _read_depth, scale=scale, invalid=tuple(invalid), unit=unit
  )
  return LabelMap(pattern, Label(quantity, unit=unit), read)


def _read_depth(path, *, scale, invalid, unit):
  stored = _read_gray(path, finite=False)
  missing = ~np.isfinite(stored) | np.isin(stored, invalid)
  values = np.where(missing, 0, stored).astype(np.float64) * scale
  if values.min() < 0:
    raise files.bad_file(
      path,
      f'{unit} >= 0, or one of {invalid} for missing',
      f'{values.min():g}',
      'list the values that mean missing in depth.invalid',
    )
  return values.astype(np.float32)[..., None]


def _make_normals(pattern, *, invalid) -> LabelMap:
  invalid = tuple(invalid)
  if len(invalid) != 3:
    raise bad_option(
      'normals.invalid', 'the three components of a vector or color', invalid
    )
  read = functools.partial(_read_normals, invalid=invalid)
  return LabelMap(pattern, Label('normal'), read)


def _read_normals(path, *, invalid):
  _check_lossless(path)
  array = files.read_array(path)
  files.check_shape(path, array, (None, None, 3))
  missing = (array == np.array(invalid)).all(axis=-1)
  return files.as_vectors(path, array, missing)


def _read_gray(path, *, finite=True):
  """One number for each pixel, [h w]."""
  _check_lossless(path)
  array = files.read_array(path, finite=finite)
  if array.ndim == 3:
    raise files.bad_file(
      path,
      'one number for each pixel, [h w]',
      f'{list(array.shape)}, as in a color image',
      'store the values themselves, not an image that shows them as colors',
    )
  return array


def _check_lossless(path) -> None:
  if path.suffix.lower() not in files.LOSSLESS:
    raise files.bad_file(
      path,
      f'a map in {" or ".join(files.LOSSLESS)}',
      f'{path.suffix!r}, whose compression changes the values',
    )
