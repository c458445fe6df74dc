"""From the values in a few files to the kind of task that they label."""

from collections.abc import Mapping, Sequence
import pathlib
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import files
from mtl_kd_jax.errors import InputError

PICTURE = 'picture'
GRAY = 'gray'  # a picture, or a map of numbers
# More values than these are no ids of classes, and more colors no palette.
_MOST_CLASSES, _MOST_COLORS = 256, 64
_FEW_TONES = 64  # of a gray picture
_UNLABELED = 255
_LOSSY = ('.jpg', '.jpeg')
_ARRAYS = ('.npy', '.npz')
_DIGITS = np.array([1, 256, 65536])  # of red, green and blue
_FAR = 1000.0  # meters, what the largest number of CARLA stands for
_MANY_POINTS = 'arrays [n 2] or [n 3] of different lengths; points need one'
_LEAST_KNOWN = 0.1  # of the pixels of normals


class Guess(NamedTuple):
  """What files hold.

  Attributes:
    kind: of a task; `PICTURE`; `GRAY`; '' for nothing that is known.
    description: entries of the task's description, but 'files'.
    why: the reason, a sentence.
    size: (height, width) of the first file in pixels; (0, 0) where nothing is
      known, or what is in the files has no size.
    one_size: whether all files that were read have it.
    broken: path -> why it cannot be read.
  """

  kind: str
  description: dict[str, Any]
  why: str
  size: tuple[int, int] = (0, 0)
  one_size: bool = False
  broken: Mapping[pathlib.Path, str] = MappingProxyType({})


def guess_contents(
  paths: Sequence[pathlib.Path], others: Sequence[pathlib.Path] = ()
) -> Guess:
  """Guesses from some files of one group.

  Args:
    paths: of a few of them.
    others: of some more, which are read where none of the first can be.
  """
  read: dict[pathlib.Path, np.ndarray] = {}
  broken: dict[pathlib.Path, str] = {}
  for some in (paths, others):
    for path in () if read else some:
      try:
        read[path] = _read(path)
      except InputError as error:
        broken[path] = error.found
  if not read:
    found = next(iter(broken.values()), 'no file')
    return Guess('', {}, f'cannot be read: {found}', broken=broken)
  arrays = [*read.values()]
  if all(map(files.repeats_channel, read, arrays)):
    arrays = [array[..., 0] for array in arrays]
  size, suffix = arrays[0].shape[:2], next(iter(read)).suffix.lower()
  one_size = all(a.shape[:2] == size for a in arrays)
  if len({a.shape[2:] for a in arrays}) > 1:
    guess = Guess('', {}, 'files have different numbers of channels')
  elif arrays[0].ndim == 3:
    guess = _of_channels(arrays, suffix)
  elif suffix in _ARRAYS and {a.shape[1] for a in arrays} in ({2}, {3}):
    guess = _of_points(size) if one_size else Guess('', {}, _MANY_POINTS)
    return guess._replace(broken=broken)
  else:
    guess = _of_numbers(arrays)
  return guess._replace(size=size, one_size=one_size, broken=broken)


def _read(path: pathlib.Path) -> np.ndarray:
  jpeg = path.suffix.lower() in _LOSSY
  return files.read_array(path, finite=False, colors=jpeg, booleans=True)


def _of_points(shape: tuple[int, int]) -> Guess:
  count, each = shape
  third = ', and 0 where there is no label' if each == 3 else ''
  return Guess(
    'heatmap',
    {'points': count},
    f'an array [{count} {each}] in each file: x and y of {count} points in '
    f'pixels{third}',
  )


def _of_channels(arrays, suffix) -> Guess:
  count = arrays[0].shape[-1]
  pixels = np.concatenate([a.reshape(-1, count) for a in arrays])
  if suffix in _ARRAYS and pixels.dtype == np.uint8 and pixels.max() <= 1:
    return Guess(
      'multilabel',
      {'classes': tuple(f'class_{i}' for i in range(count))},
      f'0 and 1 in {count} channels: a mask for each class. Give them their '
      'names',
    )
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
      return _of_directions(pixels, 'colors of unit vectors, of 16 bits')
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
    return _of_directions(pixels, 'colors of unit vectors')
  return Guess(PICTURE, {}, f'{len(colors)} different colors')


def _are_directions(pixels) -> bool:
  """Whether nearly all colors are those of unit vectors, or of none."""
  known = pixels[pixels.any(axis=-1) & ~_is_middle(pixels)]
  if len(known) < _LEAST_KNOWN * len(pixels):
    return False
  largest = np.iinfo(pixels.dtype).max
  vectors = known.astype(np.float64) / (largest / 2) - 1
  near = np.abs(np.linalg.norm(vectors, axis=-1) - 1) < 0.05
  return near.mean() > 0.9


def _is_middle(pixels) -> np.ndarray:
  """Where colors are the gray that stands for a vector of length 0."""
  low = np.iinfo(pixels.dtype).max // 2
  return ((pixels == low) | (pixels == low + 1)).all(axis=-1)


def _of_directions(pixels, why: str) -> Guess:
  middle = pixels[_is_middle(pixels)]
  if not len(middle):
    return Guess('normals', {}, why)
  tones, counts = np.unique(middle, axis=0, return_counts=True)
  gray = tuple(map(int, tones[counts.argmax()]))
  return Guess('normals', {'invalid': gray}, f'{why}; {gray} is no label')


def _of_numbers(arrays) -> Guess:
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
  if distinct.max() < 0 and len(distinct) == 1:
    return Guess('', {}, f'nothing but {distinct[0]:g}: no label')
  if values.dtype == np.uint8 and _are_tones(arrays, distinct):
    return Guess(GRAY, {}, 'gray of 8 bits: a picture, or a map of numbers')
  ids = distinct[distinct >= 0]
  if (
    whole
    and len(ids)
    and len(distinct) <= _MOST_CLASSES
    and (ids.max() <= _UNLABELED)
  ):
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


def _are_tones(arrays, distinct) -> bool:
  """Whether bytes change from pixel to pixel, as ids of classes do not."""
  if len(distinct) <= _FEW_TONES or len(distinct) <= np.ptp(distinct) / 2:
    return False
  steps = [np.abs(np.diff(a.astype(int), axis=1)).ravel() for a in arrays]
  return np.median(np.concatenate(steps)) > 0


def _range(values) -> str:
  if not values.size:
    return 'none'
  return f'from {values.min():.4g} to {values.max():.4g}'


def _list(values) -> str:
  return ' and '.join(f'{v:g}' for v in values)
