"""Readers of labels that have a file for each picture: maps.

Functions of a name, a label and the folder; their other parameters are entries
of a description (readers.py).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np

from mtl_kd_jax.datasets import files
from mtl_kd_jax.datasets.folder import maps
from mtl_kd_jax.datasets.folder import palette as palettes
from mtl_kd_jax.datasets.folder.reader import Reader
from mtl_kd_jax.labels import Label

_RGB24 = 'rgb24'
_POWERS = np.array([1, 256, 65536], np.int64)
_KITTI = 'kitti'


def classes(
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


def binary(
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


def multilabel(
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


def measured(
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


def numbers(
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
  return _numbers(label, scale, invalid, _packed_channel if encoding else None)


def vectors(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  scale: float = 1.0,
  invalid: Sequence[float] = (),
  encoding: str = '',
) -> Reader:
  """Two numbers, right and down in pixels of the file."""
  del root
  _check_scale(name, scale, invalid, encoding, known=_KITTI)
  return _numbers(label, scale, invalid, _flow_of_kitti if encoding else None)


def _numbers(label, scale, invalid, read) -> Reader:
  """Of all channels; `read` is of an encoding, or None."""
  return Reader(
    label,
    functools.partial(
      _read_numbers,
      scale=scale,
      invalid=tuple(invalid),
      read=read
      or functools.partial(_channels, count=label.num_channels, finite=False),
    ),
  )


def _read_numbers(path, *, scale, invalid, read):
  stored = read(path)
  missing = ~np.isfinite(stored) | maps.is_one_of(stored, invalid)
  values = np.where(missing, 0, stored).astype(np.float64) * scale
  if np.abs(values).max() > np.finfo(np.float32).max:
    raise files.bad_file(path, 'numbers of float32', _span(values))
  unlabeled = missing.any(axis=-1, keepdims=True)
  return np.where(unlabeled, np.nan, values).astype(np.float32)


def normals(
  name: str,
  label: Label,
  root: pathlib.Path | None,
  *,
  invalid: Sequence[float] = (0, 0, 0),
) -> Reader:
  """Unit vectors, or the colors that show them."""
  del root
  return Reader(label, maps.normals_map('', invalid=invalid, name=name).read)


def heatmaps(
  name: str, label: Label, root: pathlib.Path | None, *, scale: float = 0.0
) -> Reader:
  """Heat maps; bytes are divided by 255, and 16 bits by their largest."""
  del root
  if not (maps.is_number(scale) and scale >= 0):
    raise maps.bad_option(f'{name}.scale', 'a factor above 0, or 0', scale)
  return Reader(
    label,
    functools.partial(_read_heatmaps, scale=scale, count=label.num_channels),
  )


def _read_heatmaps(path, *, scale, count):
  stored = _channels(path, count, finite=False)
  whole = stored.dtype.kind in 'iu'
  if whole and stored.dtype.itemsize > 2 and not scale:
    raise files.bad_file(
      path,
      'floats from 0 to 1, or whole numbers of 8 or 16 bits',
      f'{stored.dtype}, {_span(stored)}',
      'say what they are multiplied with: scale, such as 1 / 255',
    )
  factor = scale or (1 / np.iinfo(stored.dtype).max if whole else 1)
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


def _packed_channel(path) -> np.ndarray:
  return _packed(path)[..., None]


def _flow_of_kitti(path) -> np.ndarray:
  """Flow as KITTI stores it (Geiger et al. 2012), float64 [h w 2].

  Its PNG has three channels of 16 bits: 64 u + 2^15, 64 v + 2^15, and whether
  there is a label.
  """
  array = files.read_array(path)
  files.check_shape(path, array, (None, None, 3))
  if array.dtype != np.uint16 or array[..., 2].max() > 1:
    raise files.bad_file(
      path,
      'three channels of 16 bits, the last of which is 0 or 1',
      f'{array.dtype}, up to {array[..., 2].max()} in the last',
    )
  flow = (array[..., :2].astype(np.float64) - 2**15) / 64
  flow[array[..., 2] == 0] = np.nan
  return flow


def _check_scale(name, scale, invalid, encoding, known=_RGB24) -> None:
  maps.check_scale(f'{name}.scale', scale)
  maps.check_numbers(f'{name}.invalid', 'a tuple of stored values', invalid)
  if encoding not in ('', known):
    raise maps.bad_option(f'{name}.encoding', f"'' or {known!r}", encoding)


def _span(values) -> str:
  known = values[np.isfinite(values)]
  return f'{known.min():g} to {known.max():g}' if known.size else 'no number'
