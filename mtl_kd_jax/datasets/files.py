"""Reads arrays from files, and checks their values."""

import pathlib

import numpy as np

from mtl_kd_jax.datasets import decode, decode_maps, paths
from mtl_kd_jax.errors import InputError

LOSSLESS = ('.npy', '.png')  # of pictures, and of maps:
MAPS = (*LOSSLESS, '.npz', '.tif', '.tiff', '.exr', '.flo')
SUFFIXES = (*LOSSLESS, '.jpg', '.jpeg')
_FORMATS = {'.tif': 'TIFF', '.tiff': 'TIFF'}
_LOADERS = {
  '.npy': decode.load_npy,
  '.npz': decode.load_npz,
  '.exr': decode_maps.load_exr,
  '.flo': decode_maps.load_flo,
}
# How far from 1 the length of a vector may be. Floats: float16 passes, and
# interpolated vectors do not. Integers: rounding all components to steps of
# 2/255 passes.
_LENGTH_TOLERANCE = {'f': 0.01, 'u': 0.03}


def read_lines(path: pathlib.Path) -> tuple[str, ...]:
  """The lines of a text file, without blanks around them and empty ones.

  Raises:
    InputError: it cannot be read, or is not in UTF-8.
  """
  try:
    # utf-8-sig: some editors begin a file with a mark.
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except (OSError, ValueError) as error:
    raise bad_file(path, 'a text file in UTF-8', f'{error}') from error
  return tuple(line.strip() for line in lines if line.strip())


def read_array(
  path: pathlib.Path,
  *,
  finite: bool = True,
  colors: bool = False,
  vectors: bool = False,
  booleans: bool = False,
) -> np.ndarray:
  """Reads a file: [h w] or [h w c] in the dtype that it is stored in.

  Images are read as viewers show them: those with an EXIF orientation are
  turned, be they pictures or maps.

  Args:
    path: the file. A gray image is [h w]; 16 bits are uint16.
    finite: whether NaN and infinity are errors.
    colors: whether to convert images to RGB of 8 bits, [h w 3], which may be
      JPEG then.
      If not, a palette PNG gives the indices of its colors, which is how label
      maps use it, and an image of 1 bit gives uint8, 0 and 1.
    vectors: whether the values are directions in the image. Turning an image
      does not turn them, so an EXIF orientation is an error.
    booleans: whether bool in .npy is read too, as uint8.

  Raises:
    InputError: the file is missing, damaged or in another format, or does not
      hold an array of numbers.
  """
  if found := paths.why_no_such_file(path):
    raise bad_file(path, 'a file', found)
  suffix = path.suffix.lower()
  suffixes = SUFFIXES if colors else MAPS
  if suffix not in suffixes:
    loss = ', whose compression changes the values' * (suffix in SUFFIXES)
    raise bad_file(
      path,
      f'a file in one of {", ".join(suffixes)}',
      f'{suffix!r}{loss}',
      'store it in one of these formats, without loss',
    )
  kind = 'a PNG or JPEG' if colors else f'a {_FORMATS.get(suffix, "PNG")}'
  try:
    if suffix in _LOADERS:
      kind = f'a {suffix}'
      array = _LOADERS[suffix](path)
    else:
      array = decode.load_image(path, colors=colors, turn=not vectors)
  except decode.CannotUse as error:
    raise bad_file(path, f'{kind} file', f'{error}', error.do) from error
  except Exception as error:
    # The parsers raise almost any exception for a damaged file.
    reason = getattr(error, 'strerror', None) or f'{error}'
    reason = reason or type(error).__name__
    raise bad_file(path, f'a readable {suffix} file', reason) from error
  if array.dtype == bool and (booleans or suffix not in ('.npy', '.npz')):
    array = array.astype(np.uint8)
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if array.ndim not in (2, 3) or not array.size:
    raise bad_file(path, 'an array [h w] or [h w c]', f'{list(array.shape)}')
  if array.dtype.kind not in 'fiu':
    raise bad_file(path, 'floats or integers', f'dtype {array.dtype}')
  if finite:
    check_finite(path, array)
  return array


def repeats_channel(path: pathlib.Path, array: np.ndarray) -> bool:
  """Whether an OpenEXR file has one number in all channels, as of renderers."""
  if array.ndim < 3 or path.suffix.lower() != '.exr':
    return False
  same = (array == array[..., :1]).all(axis=-1)
  return bool((same | np.isnan(array).all(axis=-1)).all())


def check_finite(path: pathlib.Path, array: np.ndarray) -> None:
  """Raises InputError for NaN and infinity."""
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    broken = int((~np.isfinite(array)).sum())
    raise bad_file(path, 'finite numbers', f'{broken} NaN or infinite values')


def check_shape(
  path: pathlib.Path, array: np.ndarray, shape: tuple[int | None, ...]
) -> None:
  """Raises InputError unless `array` has the shape; None is any length."""
  fits = len(shape) == array.ndim and all(
    want in (None, have) for want, have in zip(shape, array.shape, strict=True)
  )
  if not fits:
    axes = 'hwc'
    wanted = ' '.join(
      axes[i] if n is None else f'{n}' for i, n in enumerate(shape)
    )
    raise bad_file(path, f'an array [{wanted}]', f'{list(array.shape)}')


def read_image(path: pathlib.Path) -> np.ndarray:
  """Reads colors: uint8 [h w 3], or float32 [h w 3] in [0, 1].

  Raises:
    InputError: the file cannot be read, or holds something else.
  """
  array = read_array(path, colors=True)
  check_shape(path, array, (None, None, 3))
  if array.dtype == np.uint8:
    return array
  if array.dtype.kind != 'f':
    raise bad_file(path, 'bytes, or floats in [0, 1]', f'dtype {array.dtype}')
  check_range(path, array, 0, 1, 'colors in [0, 1]')
  return array.astype(np.float32)


def as_colors(image: np.ndarray) -> np.ndarray:
  """Converts uint8, or float32 in [0, 1], to float32 in [0, 1]."""
  if image.dtype == np.uint8:
    return image.astype(np.float32) / np.float32(255)
  return image


def as_vectors(
  path: pathlib.Path, array: np.ndarray, missing: np.ndarray | None = None
) -> np.ndarray:
  """Decodes unit vectors: floats as stored, integers v as v / (max / 2) - 1.

  Args:
    path: the file, for messages.
    array: float, uint8 or uint16 [h w 3].
    missing: bool [h w], which pixels have no vector. None for those that are
      stored as 0, 0, 0.

  Returns:
    float32 [h w 3], of length 1 up to rounding; 0, 0, 0 where missing.

  Raises:
    InputError: a vector does not have length 1.
  """
  check_shape(path, array, (None, None, 3))
  if array.dtype.kind == 'i':
    raise bad_file(path, 'floats, or unsigned integers', f'dtype {array.dtype}')
  if missing is None:
    missing = ~array.any(axis=-1)
  vectors = as_float32(array)
  if array.dtype.kind == 'u':
    vectors = vectors / np.float32(np.iinfo(array.dtype).max / 2) - 1
  with np.errstate(over='ignore'):
    length = np.linalg.norm(vectors, axis=-1)
  wrong = ~missing & (np.abs(length - 1) > _LENGTH_TOLERANCE[array.dtype.kind])
  if wrong.any():
    raise bad_file(
      path,
      'unit vectors, or 0, 0, 0 where missing',
      f'{int(wrong.sum())} vectors of other lengths, e.g. '
      f'{length[wrong][0]:.3f}',
    )
  if array.dtype.kind == 'u':
    vectors /= np.where(missing, 1, length)[..., None]
  vectors[missing] = 0
  return vectors


def as_directions(path: pathlib.Path, colors: np.ndarray) -> np.ndarray:
  """Unit vectors of colors that networks, or resizing, made; of any length.

  Args:
    path: the file, for messages.
    colors: uint8 [h w 3], v = 127.5 (n + 1).

  Returns:
    float32 [h w 3].
  """
  check_shape(path, colors, (None, None, 3))
  vectors = colors.astype(np.float32) / 127.5 - 1
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.maximum(length, 1e-6)


def as_float32(array: np.ndarray) -> np.ndarray:
  """Converts to float32; what is too large becomes infinity."""
  with np.errstate(over='ignore'):
    return array.astype(np.float32)


def check_range(path, array, low, high, expected) -> None:
  """Raises InputError for values outside of [low, high]."""
  if array.size and (array.min() < low or array.max() > high):
    found = f'values from {array.min():g} to {array.max():g}'
    raise bad_file(path, expected, found)


def bad_file(path, expected: str, found: str, do: str = '') -> InputError:
  """Makes the error for a file that cannot be used."""
  return InputError(
    expected=expected,
    found=found,
    where=paths.as_text(path),
    do=do or 'replace this file; docs/data.md says what it can contain',
  )
