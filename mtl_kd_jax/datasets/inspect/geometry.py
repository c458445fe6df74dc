"""Tests of maps by projective geometry, for any scale and camera."""

import numpy as np

# A line of pixels counts if its largest value is at least so many times its
# smallest, because only then do the two quantities differ ...
_RATIO = 1.5
# ... if one of them is straight up to this fraction of its range, and if the
# deviation of the other is at least so many times as large.
_STRAIGHT, _MARGIN = 0.01, 3.0


def plane_votes(
  values: np.ndarray, known: np.ndarray, *, step: int
) -> tuple[int, int]:
  """Counts lines of pixels along which a map behaves like depth or disparity.

  In the image of a plane, 1 / depth is an affine function of the pixel, for any
  camera and scale, and depth is not: along five equidistant pixels either the
  values are on a straight line or their inverses are. Lines that do not lie on
  a plane fit neither, and do not count.

  Args:
    values: float [h w], above 0 where known.
    known: bool [h w].
    step: distance of neighbors among the five, in pixels.

  Returns:
    Number of lines that indicate depth, and disparity (inverse depth).
  """
  five = _lines(np.where(known, values, 1).astype(np.float64), known, step)
  five = five[five.max(-1) > _RATIO * five.min(-1)]
  as_disparity, as_depth = _deviation(five), _deviation(1 / five)
  better = np.minimum(as_disparity, as_depth)
  worse = np.maximum(as_disparity, as_depth)
  clear = (better < _STRAIGHT) & (worse > _MARGIN * better)
  depth = int((clear & (as_depth < as_disparity)).sum())
  return depth, int(clear.sum()) - depth


def _lines(values, known, step):
  """All rows and columns of five known values, [n 5]."""
  lines = [np.zeros((0, 5))]
  for v, k in ((values, known), (values.T, known.T)):
    count = len(v) - 4 * step
    if count > 0:
      parts = [slice(i * step, i * step + count) for i in range(5)]
      whole = np.stack([k[p] for p in parts]).all(0)
      lines.append(np.stack([v[p] for p in parts], -1)[whole])
  return np.concatenate(lines)


def _deviation(five):
  """Deviation from a straight line relative to its range, [n]."""
  t = np.arange(-2, 3)
  slope = five @ t / 10
  off = five - five.mean(-1, keepdims=True) - slope[:, None] * t
  span = np.maximum(np.abs(4 * slope), 1e-12)
  return np.sqrt((off * off).mean(-1)) / span


def horizontal_facing(
  normals: np.ndarray, known: np.ndarray
) -> tuple[float, float]:
  """Correlation of the horizontal component of normals with the column.

  Visible surfaces face the camera: those at the left of an image turn to the
  right, and vice versa. The first component of normals, which points right in
  every convention, therefore decreases from left to right.

  Args:
    normals: float [h w 3].
    known: bool [h w].

  Returns:
    The sum over pixels of component times column, and its upper bound. Their
    quotient, a correlation, is negative if the normals face the camera. Both
    add up over images.
  """
  x = np.where(known, normals[..., 0], 0).astype(np.float64)
  column = np.linspace(-1, 1, normals.shape[1])[None]
  total = float((x * column).sum())
  bound = np.sqrt((x * x).sum() * (known * column**2).sum())
  return total, float(bound)
