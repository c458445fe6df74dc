"""Other sizes for images and labels: areas for colors, one pixel for labels.

Both map the edges of the picture onto the edges of the new one, so that image
and labels stay aligned whatever the two sizes are.
"""

import numpy as np


def by_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Means over the part of the image that each new pixel covers.

  Args:
    image: uint8 or float [h w c].
    size: (height, width) wanted, pixels.

  Returns:
    float32 [height width c] in the unit of `image`. Source pixels that are
    covered in part count in part; when enlarging, the result has steps.
  """
  tall = _mean_along_rows(image.astype(np.float64, order='C'), size[0])
  wide = _mean_along_rows(np.ascontiguousarray(tall.swapaxes(0, 1)), size[1])
  return wide.swapaxes(0, 1).astype(np.float32, order='C')


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The pixel under the center of each new pixel; nothing is blended.

  Args:
    array: labels of any dtype [h w] or [h w c].
    size: (height, width) wanted, pixels.

  Returns:
    A new array of the same dtype, [height width] or [height width c].
  """
  return array[np.ix_(*centers(array.shape[:2], size))]


def centers(old: tuple[int, int], new: tuple[int, int]) -> tuple:
  """Rows and columns of the pixels that `nearest` takes, int [height], [width].

  Args:
    old: (height, width) of the source, pixels.
    new: (height, width) wanted, pixels.
  """
  return tuple(
    ((np.arange(after) + 0.5) * before / after).astype(np.intp)
    for before, after in zip(old, new, strict=True)
  )


def _mean_along_rows(image, new):
  """Means over `new` equal parts of the first axis [new w c]."""
  part = len(image) / new
  edges = np.arange(new + 1) * part
  whole = np.minimum(edges.astype(np.intp), len(image) - 1)
  # The integral from the first row to every edge; doubles, since it grows.
  running = np.zeros((len(image) + 1, *image.shape[1:]))
  np.cumsum(image, axis=0, out=running[1:])
  integral = running[whole] + (edges - whole)[:, None, None] * image[whole]
  return np.diff(integral, axis=0) / part
