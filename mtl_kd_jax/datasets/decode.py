"""Decodes .npy, .npz, PNG, TIFF and JPEG files from anywhere.

Nothing in a file is run: no pickled objects are read, and no format is tried
that Pillow would pass on to another program (EPS). Nothing is allocated, or
mapped into memory, because a header says so.
"""

from collections.abc import Iterator
import contextlib
import contextvars
import math
import os
import pathlib
import threading
from typing import BinaryIO
import zipfile

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mtl_kd_jax.datasets.option_checks import MAX_PIXELS

# NumPy parses the header of a file with `ast`, which is not thread-safe in
# Python 3.11.
_PARSING = threading.Lock()
_MAX_CHANNELS = 4  # of a pixel, for the size of an array
# How files begin, for messages about those that are not what they are called.
_SIGNATURES = (
  (b'\x89PNG', 'PNG'),
  (b'\xff\xd8\xff', 'JPEG'),
  (b'\x93NUMPY', 'NumPy (.npy)'),
  (b'PK\x03\x04', 'zip, as .npz is'),
  (b'\x89HDF', 'HDF5'),
  (b'GIF8', 'GIF'),
  (b'BM', 'BMP'),
  (b'II*\0', 'TIFF'),
  (b'MM\0*', 'TIFF'),
  (b'RIFF', 'WebP or another RIFF'),
  (b'%!PS', 'PostScript'),
  (
    b'version https://git-lfs',
    'Git LFS, of which `git lfs pull` makes the file',
  ),
  (b'<', 'text, such as a web page'),
)
# How Pillow reads colors of 16 bits, of which it keeps the upper eight; and how
# it can be told to keep the lower ones.
_LOW_BYTES = {'RGB;16B': 'RGB;16L', 'RGBA;16B': 'RGBA;16L'}
_BITS_OF_TIFF = 258  # a tag
# The files that were turned, while `turned_files` is entered in this thread.
_turned: contextvars.ContextVar[dict[pathlib.Path, int] | None] = (
  contextvars.ContextVar('turned', default=None)
)


class CannotUse(Exception):
  """A file is not what it should be; the message says what it is.

  Attributes:
    do: what can be done about it; '' for nothing in particular.
  """

  def __init__(self, found: str, do: str = ''):
    super().__init__(found)
    self.do = do


@contextlib.contextmanager
def turned_files() -> Iterator[dict[pathlib.Path, int]]:
  """Collects path -> EXIF orientation of the files that are turned inside."""
  found = {}
  token = _turned.set(found)
  try:
    yield found
  finally:
    _turned.reset(token)


def load_npy(path: pathlib.Path) -> np.ndarray:
  """Reads the array of a .npy file.

  Raises:
    CannotUse: there is no array that can be read.
    Exception: NumPy raises many types for damaged files.
  """
  # Not mapped: the process is killed (SIGBUS) if such a file gets shorter.
  with open(path, 'rb') as file:
    check_start(file, (b'\x93NUMPY',))
    shape, fortran_order, dtype = _read_header(file)
    count = math.prod(shape)
    there = os.fstat(file.fileno()).st_size - file.tell()
    array = None
    if there >= count * dtype.itemsize:
      array = np.fromfile(file, dtype, count)
  if array is None or array.size < count:  # it may have become shorter
    raise CannotUse(
      f'a file that is cut short: not all of {list(shape)} is in it',
      'copy or make it again',
    )
  return array.reshape(shape, order='F' if fortran_order else 'C')


def _read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Shape, order and type of an array; raises CannotUse for a strange one."""
  with _PARSING:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
      raise CannotUse(f'version {version} of the format, for records')
    shape, fortran_order, dtype = _HEADERS[version](file)
  if dtype.hasobject:
    raise CannotUse(
      'Python objects, which are not read: they can run code',
      'save the numbers alone: np.save(path, array.astype(np.float32))',
    )
  if min(shape, default=0) < 0:
    raise CannotUse(f'a damaged header, with the shape {list(shape)}')
  if math.prod(shape) > _MAX_CHANNELS * MAX_PIXELS:
    raise CannotUse(f'{list(shape)} values, more than {MAX_PIXELS} pixels')
  return shape, fortran_order, dtype


def load_npz(path: pathlib.Path) -> np.ndarray:
  """Reads the only array of a .npz file.

  Raises:
    CannotUse: there is no array that can be read, or there are several.
    Exception: NumPy and zipfile raise many types for damaged files.
  """
  with open(path, 'rb') as file:
    check_start(file, (b'PK\x03\x04',))
    with zipfile.ZipFile(file) as archive:
      names = archive.namelist()
      if len(names) != 1:
        raise CannotUse(
          f'{len(names)} arrays: {", ".join(names)[:80]}',
          'save one array in each file: np.savez_compressed(path, array)',
        )
      with archive.open(names[0]) as member:
        shape, fortran_order, dtype = _read_header(member)
        count = math.prod(shape)
        # No more than the header says, whatever the archive unpacks to.
        content = member.read(count * dtype.itemsize)
  if len(content) < count * dtype.itemsize:
    raise CannotUse(
      f'a file that is cut short: not all of {list(shape)} is in it',
      'copy or make it again',
    )
  array = np.frombuffer(content, dtype).copy()
  return array.reshape(shape, order='F' if fortran_order else 'C')


_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def load_image(
  path: pathlib.Path, *, colors: bool, turn: bool = True
) -> np.ndarray:
  """Decodes a PNG or TIFF, or if it has colors a JPEG, upright.

  Args:
    path: the file, of any name.
    colors: whether to convert to RGB.
    turn: whether it may have an EXIF orientation, and is turned then.

  Returns:
    [h w] or [h w c], of the dtype of the file; bool of 1 bit. Pictures with
    colors of 16 bits lose the lower eight.

  Raises:
    CannotUse: it is another kind of file, may not be turned and should be, or
      is a map of which Pillow would drop bits.
    Exception: Pillow raises many types for damaged files.
  """
  formats = {'PNG': (b'\x89PNG',)}
  if path.suffix.lower() in ('.tif', '.tiff'):
    formats = {'TIFF': (b'II*\0', b'MM\0*')}
  elif colors:
    formats['JPEG'] = (b'\xff\xd8\xff',)
  with open(path, 'rb') as file:
    check_start(file, tuple(s for signs in formats.values() for s in signs))
    with Image.open(file, formats=tuple(formats)) as image:
      low_bytes = '' if colors else mode_of_low_bytes(image)
      spread = 1 if colors else _factor_of_bits(image)
      if not colors and getattr(image, 'n_frames', 1) > 1:
        raise CannotUse(f'{image.n_frames} pages', 'store one map in each file')
      image.load()  # or reading the tags would, and hide its errors
      number = orientation(image)
      if number != 1:
        if not turn:
          raise CannotUse(
            f'an EXIF orientation ({number}), which says to turn the image but '
            'not what to do with its vectors',
            'turn the vectors with their pixels, and remove the tag',
          )
        if (turned := _turned.get()) is not None:
          turned[path] = number
      array = pixels(image, colors=colors)
  if spread > 1:
    return array // spread
  if not low_bytes:
    return array
  with Image.open(path, formats=tuple(formats)) as image:
    image.tile = [tile._replace(args=low_bytes) for tile in image.tile]
    return array.astype(np.uint16) << 8 | pixels(image, colors=False)


def _factor_of_bits(image: Image.Image) -> int:
  """What Pillow multiplies numbers of a gray image with that is not loaded.

  It spreads those of 2 and 4 bits over a byte. Those of 1 bit become bool.
  """
  if image.format == 'TIFF':
    bits = image.tag_v2.get(_BITS_OF_TIFF, (8,))[0] if image.mode == 'L' else 8
  else:
    bits = {'L;2': 2, 'L;4': 4}.get(f'{image.tile[0].args}', 8)
  return {2: 85, 4: 17}.get(bits, 1)


def mode_of_low_bytes(image: Image.Image) -> str:
  """How to read what Pillow drops of an image that is not loaded; '' for none.

  Raises:
    CannotUse: it cannot be read.
  """
  if image.mode.startswith(('I', 'F')) or not getattr(image, 'tile', ()):
    return ''  # whose numbers Pillow keeps, or that is decoded already
  if image.format == 'TIFF':
    deep = max(image.tag_v2.get(_BITS_OF_TIFF, (8,))) > 8
    mode = ''
  else:
    raw = f'{image.tile[0].args}'
    deep, mode = raw.endswith(';16B'), _LOW_BYTES.get(raw, '')
  if deep and not mode:
    raise CannotUse(
      f'channels of more than 8 bits in a {image.format}',
      'store them as .npy, or .npz with one array',
    )
  return mode


def pixels(image: Image.Image, *, colors: bool) -> np.ndarray:
  """The pixels of a Pillow image, upright; see `load_image`.

  Raises:
    CannotUse: it has colors in a form that does not say what is white.
    Exception: Pillow raises many types for damaged or closed files.
  """
  image = upright(image)
  if colors:
    image = _as_rgb(image)
  return np.array(image)


def upright(image: Image.Image) -> Image.Image:
  """The image as viewers show it: turned where its EXIF orientation says so."""
  image.load()
  if orientation(image) != 1:
    return ImageOps.exif_transpose(image)
  return image


def orientation(image: Image.Image) -> int:
  """The EXIF orientation of an image, 2 to 8 if it is to be turned, else 1."""
  try:
    number = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # cameras and programs write all sorts of damaged tags
    return 1
  return number if number in range(2, 9) else 1


def _as_rgb(image):
  if image.mode.startswith(('I', 'F')):
    # Pillow converts them to RGB by cutting off what is above 255.
    low, high = image.getextrema()
    bits = f'{16 if high < 2**16 else 32} bits'
    kind = 'floats' if image.mode[0] == 'F' else bits
    raise CannotUse(
      f'a gray image of {kind}, with values from {low} to {high}',
      'convert it to 8 bits; or store it as .npy, of floats in 0 to 1: each '
      'value divided by the largest that the camera gives, e.g. 65535 or 4095',
    )
  if image.mode == 'P' and 'transparency' in image.info:
    image = image.convert('RGBA')  # or Pillow warns
  return image.convert('RGB')


def check_start(file: BinaryIO, wanted: tuple[bytes, ...]) -> None:
  """Raises CannotUse unless a file begins with one of the signatures."""
  start = file.read(32)
  file.seek(0)
  if start.startswith(wanted):
    return
  if not start:
    raise CannotUse('an empty file')
  known = [name for sign, name in _SIGNATURES if start.startswith(sign)]
  if start[4:8] == b'ftyp':
    known = ['HEIC, AVIF or a video']
  raise CannotUse(
    f'a file of another kind: {(known or ["unknown"])[0]}',
    'convert it, or get it again: the ending of its name is not enough',
  )
