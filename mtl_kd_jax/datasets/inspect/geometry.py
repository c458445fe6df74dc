"""What projected geometry says of a map, whatever its scale and its camera."""

import numpy as np

# A line of pixels counts when its farthest value is that many times its
# nearest, for only then the two kinds of map differ ...
_RATIO = 1.5
# ... and when one kind fits to this part of its rise, and the other is at
# least so many times as far off.
_FLAT, _MARGIN = 0.01, 3.0


def plane_votes(
  values: np.ndarray, known: np.ndarray, *, reach: int
) -> tuple[int, int]:
  """Counts lines over planes on which a map behaves like depth, or disparity.

  On the picture of a plane 1 / depth is an affine function of the pixel, under
  any camera and at any scale, and depth is not: of five pixels in a row at the
  same distances either the values lie on a straight line or their inverses do.
  Lines that are no plane fit neither and do not count.

  Args:
    values: float [h w], above 0 where known.
    known: bool [h w].
    reach: pixels from one of the five to the next.

  Returns:
    How many lines say depth, and how many say disparity (inverse depth).
  """
  five = _lines(np.where(known, values, 1).astype(np.float64), known, reach)
  five = five[five.max(-1) > _RATIO * five.min(-1)]
  as_disparity, as_depth = _misfit(five), _misfit(1 / five)
  better = np.minimum(as_disparity, as_depth)
  worse = np.maximum(as_disparity, as_depth)
  clear = (better < _FLAT) & (worse > _MARGIN * better)
  depth = int((clear & (as_depth < as_disparity)).sum())
  return depth, int(clear.sum()) - depth


def _lines(values, known, reach):
  """All rows and columns of five known values, [n 5]."""
  lines = [np.zeros((0, 5))]
  for v, k in ((values, known), (values.T, known.T)):
    count = len(v) - 4 * reach
    if count > 0:
      parts = [slice(i * reach, i * reach + count) for i in range(5)]
      whole = np.stack([k[p] for p in parts]).all(0)
      lines.append(np.stack([v[p] for p in parts], -1)[whole])
  return np.concatenate(lines)


def _misfit(five):
  """Distance from a straight line relative to its rise, [n]."""
  t = np.arange(-2, 3)
  slope = five @ t / 10
  off = five - five.mean(-1, keepdims=True) - slope[:, None] * t
  rise = np.maximum(np.abs(4 * slope), 1e-12)
  return np.sqrt((off * off).mean(-1)) / rise


def facing(normals: np.ndarray, known: np.ndarray) -> tuple[float, float]:
  """How far normals turn toward the middle of the picture.

  What is seen faces the camera: on the left of the picture surfaces turn to the
  right, on the right to the left. So the normals' first component, which points
  right in every convention, falls from left to right.

  Args:
    normals: float [h w 3].
    known: bool [h w].

  Returns:
    The sum over pixels of component times column, and what it is at most: their
    quotient, a correlation, is negative when the normals face the camera. Sums
    of several pictures may be added before they are divided.
  """
  x = np.where(known, normals[..., 0], 0).astype(np.float64)
  column = np.linspace(-1, 1, normals.shape[1])[None]
  total = float((x * column).sum())
  most = np.sqrt((x * x).sum() * (known * column**2).sum())
  return total, float(most)
