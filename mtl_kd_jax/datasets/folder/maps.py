"""Label maps of a user's folder: their options, and how one file is read.

Each map is described by a few plain values (docs/data.md, "Your own data"). A
`LabelMap` reads a file in the form of labels.py, at the size that it is stored
in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
import numbers
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import files, option_checks
from mtl_kd_jax.datasets.folder.rows import Row
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
# What programs that draw store for two classes: black and white.
_EXTREMES = (0, 255)
# Marks ids in such a table that are neither a class nor ignored.
_UNKNOWN = -2


@dataclasses.dataclass(frozen=True)
class LabelMap:
  """One label of a folder.

  Attributes:
    pattern: path of its files in the folder, with {split} and {frame}.
    label: what its values mean.
    read: path -> array in the form of labels.py; picklable. None for labels
      of a table.
    why_absent: (files, which may be all of the folder's) -> the likely reason
      that a class has no pixel in some of them; None if none is known.
    from_row: row -> array, for labels of a table; picklable.
  """

  pattern: str
  label: Label
  read: Callable[[pathlib.Path], np.ndarray] | None
  why_absent: Callable[[Iterable[pathlib.Path]], InputError | None]
  from_row: Callable[[Row], np.ndarray] | None = None


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
    ('normals', normals_map, NORMALS, normals),
  ):
    expected = f'options of {name}: {", ".join(defaults)}'
    if not hasattr(given, 'keys'):  # a ConfigDict is no Mapping
      raise bad_option(name, expected, given)
    for key in given:
      if key not in defaults:
        raise bad_option(f'{name}.{key}', expected, key)
    described = {**defaults, **given}
    pattern = described.pop('files')
    if pattern:
      maps[name] = make(pattern, **described)
  return maps


def bad_option(argument: str, expected: str, found: Any) -> InputError:
  """Makes the error for an option that cannot be used."""
  return InputError(
    expected=expected,
    found=repr(found),
    argument=argument,
    do='correct it (docs/data.md, "Your own data")',
  )


def _shown(name: str) -> str:
  """A description as it is written: folder.semantic, or task.road."""
  first, _, rest = name.partition('.')
  return f'task.{rest}' if first == 'maps' else f'folder.{name}'


def _make_semantic(pattern, *, classes, ids, ignore) -> LabelMap:
  names = option_checks.as_tuple(classes)
  valid = len(names) > 1 and all(isinstance(n, str) and n for n in names)
  if not valid or len(set(names)) < len(names):
    # Of one class, every prediction is right, and the loss is 0.
    raise bad_option(
      'semantic.classes',
      'two or more different names, in the order of ids',
      classes,
    )
  label = Label('class', classes=names)
  return class_map(pattern, label, ids=ids, ignore=ignore)


def class_map(
  pattern: str,
  label: Label,
  *,
  ids: Any,
  ignore: Any,
  name: str = 'semantic',
) -> LabelMap:
  """Makes a map of class ids.

  Args:
    pattern: of its files.
    label: what they mean.
    ids: the stored id of each class; () for 0, 1, 2 ...
    ignore: stored ids that mean unlabeled.
    name: of the description, for errors.

  Raises:
    InputError: an option cannot be used.
  """
  names = label.classes
  given = range(len(names))
  if not option_checks.is_empty(ids):
    given = option_checks.as_tuple(ids)
  if len(given) != len(names):
    raise bad_option(
      f'{name}.ids', f'an id for each of {len(names)} classes', ids
    )
  given, ignored = tuple(given), option_checks.as_tuple(ignore)
  if not ignored and not option_checks.is_empty(ignore):
    raise bad_option(f'{name}.ignore', 'a tuple of ids', ignore)
  all_ids = (*given, *ignored)
  valid = all(option_checks.is_whole(i) and -1 <= i <= _MAX_ID for i in all_ids)
  if not valid or len(set(all_ids)) < len(all_ids):
    raise bad_option(
      f'{name}.ids',
      f'different whole numbers from -1 to {_MAX_ID} in ids and ignore',
      all_ids,
    )
  # Index -1 is the last entry of the table.
  table = np.full(max(all_ids) + 2, _UNKNOWN, np.int32)
  table[list(given)] = np.arange(len(given))
  table[list(ignored)] = -1
  return LabelMap(
    pattern,
    label,
    functools.partial(
      _read_semantic, table=table, binary=len(names) == 2, name=name
    ),
    functools.partial(_why_absent, name=name)
    if len(names) == 2 and 255 in ignored
    else no_reason,
  )


def _read_semantic(path, *, table, binary, name='semantic'):
  stored = read_gray(path, booleans=True)
  in_table = (stored >= -1) & (stored < len(table) - 1)
  ids = np.where(in_table, stored, 0).astype(np.int64)
  if not np.array_equal(ids, np.where(in_table, stored, 0)):
    raise files.bad_file(path, 'whole numbers as ids', 'fractions')
  classes = table[ids]
  unknown = np.unique(stored[~in_table | (classes == _UNKNOWN)])
  if unknown.size:
    if binary and np.isin(stored, _EXTREMES).all():
      raise _black_and_white(path, name)
    raise files.bad_file(
      path,
      'the ids of the classes, or ignored ones',
      ', '.join(str(i) for i in unknown[:5])
      + (' ...' if unknown.size > 5 else ''),
      f'list every id: in {name}.ids with its class in {name}.classes, or '
      f'in {name}.ignore',
    )
  return classes


def no_reason(paths) -> None:
  """None: no class is missing for a known reason."""
  del paths


def _why_absent(paths, *, name) -> InputError | None:
  """Recognizes maps of 0 and 255, whose second class is taken for unlabeled."""
  found = None
  for path in paths:
    stored = np.unique(read_gray(path, booleans=True))
    if not np.isin(stored, _EXTREMES).all():
      return None
    if 255 in stored and found is None:
      found = path
  return found and _black_and_white(found, name)


def _black_and_white(path, name) -> InputError:
  return files.bad_file(
    path,
    'the ids of two classes, 0 and 1 by default',
    '0 and 255, black and white, in which 255 is not the id of a class',
    'if 255 is the second class, set\n'
    f'            {_shown(name)}.ids = (0, 255)\n'
    f'            {_shown(name)}.ignore = (-1,)',
  )


def _make_depth(pattern, *, quantity, unit, scale, invalid) -> LabelMap:
  if quantity not in ('depth', 'disparity'):
    raise bad_option('depth.quantity', "'depth' or 'disparity'", quantity)
  if not (unit and isinstance(unit, str)):
    raise bad_option('depth.unit', 'a unit, e.g. m', unit)
  check_scale('depth.scale', scale)
  check_numbers('depth.invalid', 'a tuple of stored values', invalid)
  read = functools.partial(
    read_depth, scale=scale, invalid=tuple(invalid), unit=unit
  )
  return LabelMap(pattern, Label(quantity, unit=unit), read, no_reason)


def is_one_of(stored: np.ndarray, values: Sequence[float]) -> np.ndarray:
  """Where an array has one of some values, as its dtype rounds them; bool."""
  if stored.dtype.kind == 'f':
    with np.errstate(over='ignore'):
      return np.isin(stored, np.asarray(values, stored.dtype))
  return np.isin(stored, values)


def read_depth(
  path: pathlib.Path,
  *,
  scale: float,
  invalid: tuple[float, ...],
  unit: str,
  name: str = 'depth',
  read: Callable[..., np.ndarray] | None = None,
) -> np.ndarray:
  """Reads numbers above 0, float32 [h w 1]; 0 where there is no label."""
  stored = (read or read_gray)(path, finite=False)
  missing = ~np.isfinite(stored) | is_one_of(stored, invalid)
  values = np.where(missing, 0, stored).astype(np.float64) * scale
  if values.min() < 0 or values.max() > np.finfo(np.float32).max:
    worst = values.min() if values.min() < 0 else values.max()
    raise files.bad_file(
      path,
      f'{unit} >= 0, or one of {invalid} for missing',
      f'{worst:g}',
      f'list the values that mean missing in {name}.invalid',
    )
  return values.astype(np.float32)[..., None]


def normals_map(
  pattern: str, *, invalid: Any, name: str = 'normals'
) -> LabelMap:
  """Makes a map of unit vectors; see `NORMALS`."""
  expected = 'the three components of a vector or color'
  check_numbers(f'{name}.invalid', expected, invalid)
  if len(invalid) != 3:
    raise bad_option(f'{name}.invalid', expected, invalid)
  read = functools.partial(_read_normals, invalid=tuple(invalid))
  return LabelMap(pattern, Label('normal'), read, no_reason)


def _read_normals(path, *, invalid):
  array = files.read_array(path, vectors=True)
  files.check_shape(path, array, (None, None, 3))
  missing = (array == np.array(invalid)).all(axis=-1)
  return files.as_vectors(path, array, missing)


def read_gray(
  path: pathlib.Path, *, finite: bool = True, booleans: bool = False
) -> np.ndarray:
  """One number for each pixel, [h w]."""
  array = files.read_array(path, finite=finite, booleans=booleans)
  if files.repeats_channel(path, array):
    array = array[..., 0]
  if array.ndim == 3:
    raise files.bad_file(
      path,
      'one number for each pixel, [h w]',
      f'{list(array.shape)}, as in a color image',
      'store the values themselves, not an image that shows them as colors; '
      'colors of classes need a palette (docs/own_tasks.md)',
    )
  return array


def is_number(value: Any) -> bool:
  """Whether a value is a number; bool is none."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_scale(argument: str, scale: Any) -> None:
  """Raises InputError unless a value is a finite factor above 0."""
  if not (is_number(scale) and scale > 0 and math.isfinite(scale)):
    raise bad_option(argument, 'a factor above 0', scale)


def check_numbers(argument: str, expected: str, values: Any) -> None:
  """Raises InputError unless values are a sequence of numbers."""
  if isinstance(values, str) or not isinstance(values, Iterable):
    raise bad_option(argument, expected, values)
  if not all(map(is_number, values)):
    raise bad_option(argument, expected, values)
