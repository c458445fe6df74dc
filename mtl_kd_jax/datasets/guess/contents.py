"""From the values in a few files to the kind of task that they label."""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import files
from mtl_kd_jax.errors import InputError

PICTURE = 'picture'
# More values than these are no ids of classes, and more colors no palette.
_MOST_CLASSES, _MOST_COLORS = 256, 64
_UNLABELED = 255
_LOSSY = ('.jpg', '.jpeg')
_DIGITS = np.array([1, 256, 65536])  # of red, green and blue
_FAR = 1000.0  # meters, what the largest number of CARLA stands for


class Guess(NamedTuple):
  """What files hold.

  Attributes:
    kind: of a task; `PICTURE`; '' for nothing that is known.
    description: entries of the task's description, but 'files'.
    why: the reason, a sentence.
    size: (height, width) of the files in pixels.
  """

  kind: str
  description: dict[str, Any]
  why: str
  size: tuple[int, int] = (0, 0)


def guess_contents(paths: Sequence[pathlib.Path]) -> Guess:
  """Guesses from some files of one group.

  Args:
    paths: of a few of them.
  """
  arrays = []
  for path in paths:
    try:
      arrays.append(_read(path))
    except InputError as error:
      return Guess('', {}, f'cannot be read: {error.found}')
  if all(map(files.repeats_channel, paths, arrays)):
    arrays = [array[..., 0] for array in arrays]
  first = arrays[0]
  size = first.shape[:2]
  if any(a.shape[2:] != first.shape[2:] for a in arrays):
    return Guess('', {}, 'files have different numbers of channels', size)
  guess = _of_channels if first.ndim == 3 else _of_numbers
  return guess(arrays, paths[0].suffix.lower())._replace(size=size)


def _read(path: pathlib.Path) -> np.ndarray:
  jpeg = path.suffix.lower() in _LOSSY
  return files.read_array(path, finite=False, colors=jpeg)


def _of_channels(arrays, suffix) -> Guess:
  count = arrays[0].shape[-1]
  pixels = np.concatenate([a.reshape(-1, count) for a in arrays])
  if count in (3, 4) and pixels.dtype == np.uint8:
    if suffix not in _LOSSY and all(map(_are_24_bits, arrays)):
      return Guess(
        'depth',
        {'unit': 'm', 'encoding': 'rgb24', 'scale': _FAR},
        'numbers of 24 bits in three colors, as CARLA stores depth: taken for '
        f"shares of {_FAR:g} m. If it is something else, correct 'scale'",
      )
    return _of_colors(pixels[:, :3], suffix)
  if count == 3 and pixels.dtype == np.uint16:
    if pixels[:, 2].max() <= 1:
      return Guess(
        'vectors',
        {'encoding': 'kitti'},
        'three numbers of 16 bits, of which the last is 0 or 1: flow as KITTI '
        'stores it',
      )
    if _are_directions(pixels):
      return Guess('normals', {}, 'colors of unit vectors, of 16 bits')
  known = pixels[np.isfinite(pixels).all(axis=-1)]
  if count == 3 and pixels.dtype.kind == 'f' and len(known):
    length = np.linalg.norm(known.astype(np.float64), axis=-1)
    unit = np.abs(length - 1) < 0.02
    if (unit | (length < 1e-6)).mean() > 0.99 and unit.any():
      return Guess('normals', {}, 'three numbers that are unit vectors')
    if known.min() >= 0 and known.max() <= 1:
      return Guess(PICTURE, {}, 'three numbers from 0 to 1')
  if count == 2 and pixels.dtype.kind == 'f':
    return Guess(
      'vectors', {}, 'two numbers in each pixel; flow, right and down in pixels'
    )
  return Guess(
    'regression',
    {'channels': count},
    f'{count} numbers in each pixel, {_range(known)}',
  )


def _are_24_bits(array) -> bool:
  """Whether colors are digits of one number, of which red is the lowest.

  That one looks like noise, and the number does not.
  """
  red, number = array[..., 0].astype(int), array[..., :3] @ _DIGITS
  low = np.median(np.abs(np.diff(red, axis=1)))
  return low > 16 and np.median(np.abs(np.diff(number, axis=1))) < 0.02 * max(
    np.ptp(number), 1
  )


def _of_colors(pixels, suffix) -> Guess:
  coded = pixels.astype(np.int64) @ (65536, 256, 1)
  colors = np.unique(coded)
  if suffix not in _LOSSY and len(colors) <= _MOST_COLORS:
    palette = {
      f'color_{c:06x}': (int(c) >> 16, int(c) >> 8 & 255, int(c) & 255)
      for c in colors
    }
    return Guess(
      'classes',
      {'classes': tuple(palette), 'palette': palette},
      f'{len(colors)} different colors: each is taken for a class. Give the '
      'classes their names',
    )
  if suffix not in _LOSSY and _are_directions(pixels):
    return Guess('normals', {}, 'colors of unit vectors')
  return Guess(PICTURE, {}, f'{len(colors)} different colors')


def _are_directions(pixels) -> bool:
  """Whether nearly all colors are those of unit vectors."""
  largest = np.iinfo(pixels.dtype).max
  vectors = pixels.astype(np.float64) / (largest / 2) - 1
  near = np.abs(np.linalg.norm(vectors, axis=-1) - 1) < 0.05
  return near.mean() > 0.9


def _of_numbers(arrays, suffix) -> Guess:
  del suffix
  values = np.concatenate([a.ravel() for a in arrays])
  finite = values[np.isfinite(values)]
  if not finite.size:
    return Guess('', {}, 'no number in it')
  distinct = np.unique(finite)
  whole = (distinct == np.round(distinct)).all()
  if set(distinct.tolist()) <= {0, 1} or set(distinct.tolist()) <= {0, 255}:
    return Guess('binary', {}, f'nothing but {_list(distinct)}')
  if values.dtype == np.uint16 and distinct.max() > 255:
    scale = 0.001 if distinct.max() < 2**16 - 1 or len(distinct) > 1000 else 1.0
    return Guess(
      'depth',
      {'unit': 'm', 'scale': scale},
      f'16 bits, {_range(finite)}: taken for millimeters. If it is disparity '
      "or another unit, correct 'kind' and 'scale'",
    )
  ids = distinct[distinct >= 0]
  if whole and len(distinct) <= _MOST_CLASSES and ids.max() <= _UNLABELED:
    count = int(ids[ids < _UNLABELED].max(initial=1)) + 1
    names = tuple(f'class_{i}' for i in range(count))
    unlabeled = ' (255 is no label)' if _UNLABELED in distinct else ''
    return Guess(
      'classes',
      {'classes': names},
      f'{len(distinct)} different whole numbers up to '
      f'{count - 1}{unlabeled}: ids of classes. Give them their names',
    )
  if finite.min() >= 0:
    return Guess(
      'depth',
      {'unit': 'm'},
      f'numbers, {_range(finite)}: taken for meters. If they are something '
      "else, 'kind' is 'disparity' or 'regression'",
    )
  return Guess('regression', {}, f'numbers, {_range(finite)}')


def _range(values) -> str:
  if not values.size:
    return 'none'
  return f'from {values.min():.4g} to {values.max():.4g}'


def _list(values) -> str:
  return ' and '.join(f'{v:g}' for v in values)
