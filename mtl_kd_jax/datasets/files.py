"""One array from one file: .npy, PNG or JPEG; and what its numbers mean."""

import pathlib
import threading

import numpy as np
from PIL import Image

from mtl_kd_jax.errors import InputError

LOSSLESS = ('.npy', '.png')
SUFFIXES = (*LOSSLESS, '.jpg', '.jpeg')
# NumPy parses a file's header with `ast`, which in Python 3.11 fails now and
# then when several threads are in it.
_PARSING = threading.Lock()
# How far from 1 the length of a vector may be. Floats: float16 passes, blended
# vectors do not. Colors: three roundings to a step of 2/255 pass.
_LENGTH_TOLERANCE = {'f': 0.01, 'u': 0.03}


def read_array(
  path: pathlib.Path, *, finite: bool = True, colors: bool = False
) -> np.ndarray:
  """Reads a file: [h w] or [h w c] of its own dtype.

  Args:
    path: the file. Gray pictures are [h w], of 16 bits uint16.
    finite: whether NaN and infinity are refused.
    colors: whether pictures are meant as such: always [h w 3]. Otherwise a
      palette PNG gives the numbers of its colors, which is what it is used for
      in label maps.

  Raises:
    InputError: the file is missing, damaged or of another format; or holds no
      array of numbers.
  """
  if not path.is_file():
    raise bad(path, 'a file', 'no such file')
  suffix = path.suffix.lower()
  if suffix not in SUFFIXES:
    raise bad(path, f'one of {", ".join(SUFFIXES)}', repr(suffix))
  try:
    array = _load_npy(path) if suffix == '.npy' else _load_picture(path, colors)
  except Exception as error:
    # A damaged file makes the parsers raise almost anything.
    reason = str(error) or type(error).__name__
    raise bad(path, f'a readable {suffix} file', reason) from error
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if array.ndim not in (2, 3) or not array.size:
    raise bad(path, 'an array [h w] or [h w c]', f'{list(array.shape)}')
  if array.dtype.kind not in 'fiu':
    raise bad(path, 'floats or integers', f'dtype {array.dtype}')
  if finite:
    check_finite(path, array)
  return array


def _load_npy(path):
  with _PARSING:
    mapped = np.lib.format.open_memmap(path, mode='r')
  return np.array(mapped)


def _load_picture(path, colors):
  with Image.open(path) as picture:
    # Of 16 bits, Pillow's conversion would keep the lowest 8.
    if colors and not picture.mode.startswith(('I', 'F')):
      picture = picture.convert('RGB')
    array = np.array(picture)
  return array.astype(np.uint8) if array.dtype == bool else array


def check_finite(path: pathlib.Path, array: np.ndarray) -> None:
  """Raises InputError for NaN and infinity."""
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    broken = int((~np.isfinite(array)).sum())
    raise bad(path, 'finite numbers', f'{broken} NaN or infinite values')


def check_shape(
  path: pathlib.Path, array: np.ndarray, shape: tuple[int | None, ...]
) -> None:
  """Raises InputError unless `array` has the shape; None fits any length."""
  fits = len(shape) == array.ndim and all(
    want in (None, have) for want, have in zip(shape, array.shape, strict=True)
  )
  if not fits:
    axes = 'hwc'
    wanted = ' '.join(
      axes[i] if n is None else f'{n}' for i, n in enumerate(shape)
    )
    raise bad(path, f'an array [{wanted}]', f'{list(array.shape)}')


def read_colors(path: pathlib.Path) -> np.ndarray:
  """Bytes, or floats in [0, 1], of [h w 3]: float32 in [0, 1].

  Raises:
    InputError: the file cannot be read, or holds something else.
  """
  array = read_array(path, colors=True)
  check_shape(path, array, (None, None, 3))
  if array.dtype == np.uint8:
    return array.astype(np.float32) / np.float32(255)
  if array.dtype.kind != 'f':
    raise bad(path, 'bytes, or floats in [0, 1]', f'dtype {array.dtype}')
  check_range(path, array, 0, 1, 'colors in [0, 1]')
  return array.astype(np.float32)


def as_vectors(
  path: pathlib.Path, array: np.ndarray, missing: np.ndarray | None = None
) -> np.ndarray:
  """Floats as they are, or colors as v / (max / 2) - 1: unit, [h w 3].

  Args:
    path: for messages.
    array: float, uint8 or uint16 [h w 3].
    missing: bool [h w], where there is no vector. None: where a float vector,
      or the color, is 0, 0, 0.

  Returns:
    float32 [h w 3], of length 1 within rounding; 0, 0, 0 where missing.

  Raises:
    InputError: a vector has another length.
  """
  check_shape(path, array, (None, None, 3))
  if array.dtype.kind == 'i':
    raise bad(path, 'floats, or unsigned integers', f'dtype {array.dtype}')
  if missing is None:
    missing = ~array.any(axis=-1)
  vectors = array.astype(np.float32)
  if array.dtype.kind == 'u':
    vectors = vectors / np.float32(np.iinfo(array.dtype).max / 2) - 1
  length = np.linalg.norm(vectors, axis=-1)
  odd = ~missing & (np.abs(length - 1) > _LENGTH_TOLERANCE[array.dtype.kind])
  if odd.any():
    raise bad(
      path,
      'unit vectors, or 0, 0, 0 where missing',
      f'{int(odd.sum())} vectors of another length, e.g. {length[odd][0]:.3f}',
    )
  if array.dtype.kind == 'u':
    vectors /= np.where(missing, 1, length)[..., None]
  vectors[missing] = 0
  return vectors


def check_range(path, array, low, high, expected) -> None:
  """Raises InputError, saying what was expected, for numbers outside."""
  if array.size and (array.min() < low or array.max() > high):
    found = f'values from {array.min():g} to {array.max():g}'
    raise bad(path, expected, found)


def bad(path, expected: str, found: str, do: str = '') -> InputError:
  """The error for a file that cannot be used."""
  return InputError(
    expected=expected,
    found=found,
    where=f'{path}',
    do=do or 'replace this file; docs/data.md says what it may hold',
  )
