"""Decodes files that hold maps and no pictures: OpenEXR, and Middlebury flow.

As in decode.py, nothing is allocated because a header says so.
"""

import pathlib
import struct
from typing import Any

import numpy as np

from mtl_kd_jax.datasets.decode import CannotUse, check_start
from mtl_kd_jax.datasets.option_checks import MAX_PIXELS

# Channels of these names stand in this order, others after them.
_ORDER = 'RGBXYZUV'
_UNKNOWN_FLOW = 1e9  # of Middlebury: what is larger is no flow


def load_flo(path: pathlib.Path) -> np.ndarray:
  """Reads optical flow as Middlebury stores it (Baker et al. 2011).

  Returns:
    float32 [h w 2]: right and down, in pixels; NaN where it is unknown.

  Raises:
    CannotUse: it is no such file, or not all of it.
    OSError: it cannot be read.
  """
  with open(path, 'rb') as file:
    check_start(file, (b'PIEH',))
    header = file.read(12)
    width, height = struct.unpack('<ii', header[4:].ljust(8, b'\0'))
    if min(width, height) < 1:
      raise CannotUse('a damaged header')
    _check_size(height, width)
    flow = np.fromfile(file, '<f4', 2 * width * height)
  if flow.size < 2 * width * height:
    raise CannotUse(
      f'a file that is cut short: not all of {height} x {width} is in it',
      'copy or make it again',
    )
  flow = flow.reshape(height, width, 2).astype(np.float32)
  flow[(np.abs(flow) > _UNKNOWN_FLOW).any(axis=-1)] = np.nan
  return flow


def load_exr(path: pathlib.Path) -> np.ndarray:
  """Reads the channels of an OpenEXR file.

  Returns:
    [h w] or [h w c], float16, float32 or uint32. R, G and B, X, Y and Z, and U
    and V stand in this order, other channels in that of their names. Alpha is
    left out beside colors.

  Raises:
    CannotUse: the library is missing, or it is no file of one flat image.
    Exception: the library raises several types for damaged files.
  """
  library = _import_openexr()
  with open(path, 'rb') as file:
    check_start(file, (b'v/1\x01',))
  with library.File(str(path), header_only=True) as file:
    _check_header(library, file)
  with library.File(str(path), separate_channels=True) as file:
    found = {name: c.pixels for name, c in file.channels().items()}
  names = sorted(found, key=lambda name: (_place(name), name))
  if len({name.rpartition('.')[0] for name in names}) > 1:
    raise CannotUse(
      f'several layers: {", ".join(names)[:80]}', 'store one in each file'
    )
  if [_short(name) for name in names] == [*'RGBA']:
    names = names[:3]
  if len({found[name].shape for name in names}) > 1:
    raise CannotUse('channels of different sizes')
  arrays = [found[name] for name in names]
  return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)


def _check_header(library: Any, file: Any) -> None:
  """Raises CannotUse unless a header says that there is one flat image."""
  if len(file.parts) != 1:
    raise CannotUse(f'{len(file.parts)} parts', 'store one in each file')
  header = file.header()
  flat = library.scanlineimage, library.tiledimage
  if header.get('type', library.scanlineimage) not in flat:
    raise CannotUse('a deep image', 'flatten it')
  (low, high), (first, last) = header['dataWindow'], header['displayWindow']
  if tuple(low) != tuple(first) or tuple(high) != tuple(last):
    raise CannotUse(
      'pixels of a part of the picture: its data window is not its display '
      'window',
      'save the whole picture',
    )
  width, height = (int(b) - int(a) + 1 for a, b in zip(low, high, strict=True))
  _check_size(height, width)


def _short(name: str) -> str:
  """The name of a channel in capitals, without that of its layer."""
  return name.rpartition('.')[2].upper()


def _place(name: str) -> int:
  short = _short(name)
  return _ORDER.index(short) if short in set(_ORDER) else len(_ORDER)


def _check_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise CannotUse(f'{height} x {width}, more than {MAX_PIXELS} pixels')


def _import_openexr() -> Any:
  try:
    import OpenEXR
  except ImportError as error:
    raise CannotUse(
      f'no library that reads it ({error})', "pip install 'mtl_kd_jax[exr]'"
    ) from error
  return OpenEXR
