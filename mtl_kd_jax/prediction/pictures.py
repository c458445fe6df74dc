"""Reads pictures for a network: from a path, a Pillow image or an array.

Pictures are upright, as viewers show them. Gray ones become three equal
channels, and palettes their colors. Alpha is dropped: the colors under it are
used as they are stored.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import decode, files, paths
from mtl_kd_jax.errors import InputError

Picture: TypeAlias = 'str | os.PathLike[str] | Image.Image | np.ndarray'

# name in Pillow -> how such files begin
_FORMATS = {
  'PNG': (b'\x89PNG',),
  'JPEG': (b'\xff\xd8\xff',),
  'WEBP': (b'RIFF',),
  'TIFF': (b'II*\0', b'MM\0*'),
  'BMP': (b'BM',),
}
SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.tif', '.tiff'),
  *('.bmp', '.npy'),
)


def read_picture(image: Picture, *, white: float | None = None) -> np.ndarray:
  """The colors of a picture, float32 [h w 3] in [0, 1].

  Args:
    image: the path of a PNG, JPEG, WebP, TIFF, BMP or .npy file; a Pillow
      image; or an array [h w 3] of bytes, or of floats in [0, 1].
    white: the value that is white in pictures of more than 8 bits, such as
      65535 or 4095, and in arrays of other numbers than bytes. Without, these
      pictures are refused, since they do not say it, and floats are in [0, 1].
      In bytes, 255 is white.

  Raises:
    InputError: it is no picture, or one with values above `white`.
  """
  check_white(white)
  if isinstance(image, str | os.PathLike):
    return _read_file(paths.local(image, argument='image', kind='file'), white)
  try:
    if isinstance(image, Image.Image):
      array = _pixels(image, white)
    else:
      array = np.asarray(image)
  except decode.CannotUse as error:
    raise _no_picture(f'{error}', error.do) from error
  except Exception as error:
    # Pillow and NumPy raise many types, as for a file that is cut short.
    raise _no_picture(f'{error}' or type(error).__name__) from error
  try:
    return _as_colors(array, white)
  except decode.CannotUse as error:
    raise _no_picture(f'{error}', error.do) from error


def check_white(white: Any) -> None:
  """Raises InputError unless it can be the value of white."""
  if white is None:
    return
  number = isinstance(white, int | float | np.number)
  if isinstance(white, bool) or not number or not 0 < white < float('inf'):
    raise InputError(
      expected='the value that is white, a number above 0',
      found=repr(white),
      argument='white',
      do='65535 for 16 bits, 4095 for 12 bits that are stored in 16',
    )


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
  """The picture files of a folder, by name; not of folders in it.

  Raises:
    InputError: there is none, or the folder cannot be listed.
  """
  try:
    found = sorted(p for p in folder.iterdir() if is_picture_name(p))
  except OSError as error:
    raise _no_pictures_in(folder, f'{error.strerror}') from error
  if not found:
    raise _no_pictures_in(folder, paths.contents(folder))
  return found


def is_picture_name(path: pathlib.Path) -> bool:
  """Whether a file has the name of a picture, and is not hidden."""
  hidden = path.name.startswith('.')
  return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes float32 [h w c], smoothly where it gets smaller."""
  if pixels.shape[:2] == tuple(size):
    return pixels
  planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
  bilinear = Image.Resampling.BILINEAR
  return np.stack(
    [
      np.asarray(Image.fromarray(plane).resize(size[::-1], bilinear))
      for plane in planes
    ],
    axis=-1,
  )


def _read_file(path: pathlib.Path, white: float | None) -> np.ndarray:
  if path.suffix.lower() == '.npy':
    array = files.read_array(path, colors=True)
    return _named(path, 'a .npy file', lambda: _as_colors(array, white))
  if found := paths.why_no_such_file(path):
    raise _bad_file(path, 'a picture', found)
  return _named(
    path,
    'a PNG, JPEG, WebP, TIFF or BMP file',
    lambda: _as_colors(_decode(path, white), white),
  )


def _named(path, kind, read) -> np.ndarray:
  try:
    return read()
  except decode.CannotUse as error:
    raise _bad_file(path, kind, f'{error}', error.do) from error
  except Image.DecompressionBombError as error:
    raise _bad_file(
      path,
      f'{kind}, of at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels',
      'a larger one',
      'cut it into parts, or make it smaller',
    ) from error
  except Exception as error:
    # The parsers raise almost any exception for a damaged file.
    reason = getattr(error, 'strerror', None) or f'{error}'
    reason = reason or type(error).__name__
    raise _bad_file(path, f'a readable {path.suffix} file', reason) from error


def _decode(path: pathlib.Path, white: float | None) -> np.ndarray:
  starts: Sequence[bytes] = [s for group in _FORMATS.values() for s in group]
  with open(path, 'rb') as file:
    decode.check_start(file, tuple(starts))
    with Image.open(file, formats=tuple(_FORMATS)) as image:
      if white is None or not decode.mode_of_low_bytes(image):
        return _pixels(image, white)
  return decode.load_image(path, colors=False)[..., :3]  # all 16 bits


def _pixels(image: Image.Image, white: float | None) -> np.ndarray:
  """uint8 [h w 3]; of more than 8 bits, where white is known, numbers."""
  if decode.mode_of_low_bytes(image) and white is not None:
    raise decode.CannotUse(
      'an open image with colors of 16 bits', 'give the path of its file'
    )
  if white is not None and image.mode.startswith(('I', 'F')):
    gray = np.array(decode.upright(image))
    return np.repeat(gray[..., None], 3, axis=-1)
  try:
    return decode.pixels(image, colors=True)
  except decode.CannotUse as error:
    raise decode.CannotUse(
      f'{error}', f'say which value is white, as in white=65535; or {error.do}'
    ) from error


def _as_colors(array: np.ndarray, white: float | None) -> np.ndarray:
  found = f'{array.dtype} {list(array.shape)}'
  if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
    raise decode.CannotUse(found)
  if array.dtype == np.uint8:
    return files.as_colors(array)
  if array.dtype.kind not in ('f' if white is None else 'fiu'):
    deep = array.dtype.kind in 'iu'
    raise decode.CannotUse(
      found, 'say which value is white, as in white=65535' if deep else ''
    )
  if not np.isfinite(array).all():
    raise decode.CannotUse(f'{found} with NaN or infinite values')
  if array.min() < 0 or array.max() > (white or 1):
    raise decode.CannotUse(
      f'{found} from {array.min():g} to {array.max():g}',
      f'white={white:g} is too small: say the value that is white'
      if white
      else '',
    )
  return (array / (white or 1)).astype(np.float32)


def _no_picture(found: str, do: str = '') -> InputError:
  return InputError(
    expected='a path, a PIL image, or an array [h w 3] of bytes, or of floats '
    'in [0, 1]',
    found=found,
    argument='image',
    do=do or 'convert it; for several pictures, give a list of them',
  )


def _bad_file(path, expected: str, found: str, do: str = '') -> InputError:
  return InputError(
    expected=expected,
    found=found,
    where=paths.as_text(path),
    argument='image',
    do=do or 'convert the file, or leave it out',
  )


def _no_pictures_in(folder: pathlib.Path, found: str) -> InputError:
  return InputError(
    expected=f'a folder with pictures: {", ".join(SUFFIXES)}',
    found=found,
    where=paths.as_text(folder),
    argument='image',
    do='name another folder, or the pictures themselves',
  )
