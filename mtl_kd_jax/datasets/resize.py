"""Resizing of images and labels.

All functions map the edges of the input onto the edges of the output, so that
images and labels stay aligned, whatever the two sizes are.
"""

import numpy as np
from PIL import Image


def area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Averages over the part of the image that each new pixel covers.

  Pillow does this where every new pixel covers whole pixels. Elsewhere its BOX
  filter gives each pixel the weight 0 or 1, not its covered share: from 426x560
  to 288x384 that moves an image by up to 0.34 pixels against its labels.

  Args:
    image: uint8 or float [h w c].
    size: (height, width) of the result, in pixels.

  Returns:
    [height width c]: uint8 of bytes, rounded to the nearest; float32 of floats.
    May be read-only.
  """
  factors = tuple(
    old // new if old % new == 0 else 0
    for old, new in zip(image.shape[:2], size, strict=True)
  )
  if image.dtype == np.uint8 and all(factors):
    return np.asarray(Image.fromarray(image).reduce(factors[::-1]))
  rows = _average_rows(image.astype(np.float64, order='C'), size[0])
  columns = _average_rows(np.ascontiguousarray(rows.swapaxes(0, 1)), size[1])
  result = columns.swapaxes(0, 1)
  if image.dtype == np.uint8:
    result = np.rint(result)
  dtype = np.uint8 if image.dtype == np.uint8 else np.float32
  return result.astype(dtype, order='C')


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Takes the pixel under the center of each new pixel; nothing is blended.

  Args:
    array: labels of any dtype [h w] or [h w c].
    size: (height, width) of the result, in pixels.

  Returns:
    A new array of the same dtype, [height width] or [height width c].
  """
  return array[np.ix_(*nearest_indices(array.shape[:2], size))]


def nearest_indices(
  old: tuple[int, int], new: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Rows [height] and columns [width] of the pixels that `nearest` takes.

  Args:
    old: (height, width) of the input, in pixels.
    new: (height, width) of the result, in pixels.
  """
  rows, columns = (
    ((np.arange(after) + 0.5) * before / after).astype(np.intp)
    for before, after in zip(old, new, strict=True)
  )
  return rows, columns


def valid_mean(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Averages the valid pixels of every block, for measurements with holes.

  A block of which less than half is valid is not valid. The share of valid
  pixels thus stays about the same, and invalid pixels are never averaged.

  Args:
    values: uint16 [h w], 0 where not valid.
    size: (height, width) of the result, in pixels; they divide h and w.

  Returns:
    float32 [height width], 0 where not valid.
  """
  (height, width), (h, w) = values.shape, size
  fy, fx = height // h, width // w
  # Rows first: they are contiguous in memory.
  rows = values.reshape(h, fy, width)
  total = rows.sum(axis=1, dtype=np.uint32).reshape(h, w, fx)
  count = (rows > 0).sum(axis=1, dtype=np.uint32).reshape(h, w, fx)
  total = total.sum(axis=-1, dtype=np.uint64)
  count = count.sum(axis=-1, dtype=np.uint64)
  valid = 2 * count >= fy * fx
  mean = total / np.maximum(count, 1)
  return np.where(valid, mean, 0).astype(np.float32)


def _average_rows(image, new):
  """Averages over `new` equal parts of the first axis, float64 [new w c]."""
  part = len(image) / new
  edges = np.arange(new + 1) * part
  whole = np.minimum(edges.astype(np.intp), len(image) - 1)
  # The integral from the first row to every edge; float64 because it grows.
  running = np.zeros((len(image) + 1, *image.shape[1:]))
  np.cumsum(image, axis=0, out=running[1:])
  integral = running[whole] + (edges - whole)[:, None, None] * image[whole]
  return np.diff(integral, axis=0) / part
