"""Surface normals from a depth map, by fitting planes to inverse depth.

A plane n . P = d, seen at P = z r along the ray r = (x, y, 1), x = (u - c_x) /
f_x, y = (v - c_y) / f_y, has the inverse depth

    w = 1 / z = (n . r) / d,

which is *affine* in x and y: the least-squares fit w = a x + b y + c over a
window is exact on planes, and (a, b, c) is parallel to n. The noise of sensors
that measure disparity, such as the Kinect, is uniform in w and not in z, so
least squares in w is also the appropriate estimator.

Since w > 0, the vector -(a, b, c) always has n . r < 0: it faces the camera.
"""

from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.resize import nearest_indices

# A pixel is at an outline if its inverse depth differs from the mean of its two
# neighbors by more than this fraction. On a plane the difference is 0.
_STEP = 0.04
# The smallest fraction of valid pixels in a window.
_SUPPORT = 0.5
# The largest distance of a window's pixels from the fitted plane, as a fraction
# of the depth (root mean square). Beyond, they are not one surface.
_MAX_RESIDUAL = 0.01


class Camera(NamedTuple):
  """A pinhole camera: focal lengths and principal point, pixels.

  The center of the top left pixel is at (0, 0); x points right, y down, z
  ahead.
  """

  fx: float
  fy: float
  cx: float
  cy: float

  def cropped(self, top: int, left: int) -> 'Camera':
    """The camera of an image without its first rows and columns."""
    return self._replace(cx=self.cx - left, cy=self.cy - top)


def normals_from_depth(
  depth: np.ndarray,
  camera: Camera,
  *,
  window: int,
  size: tuple[int, int] | None = None,
) -> np.ndarray:
  """Fits a plane to the window around every pixel.

  A pixel has no normal if it has no depth, if less than half of the window has
  depth, if the window crosses an outline, i.e. a step of the depth by more than
  4 %, or if its pixels are off the plane by more than 1 % of the depth (root
  mean square).

  Args:
    depth: float [h w], along z in any unit, 0 where missing.
    camera: that of the depth map, in its pixels.
    window: side of the square window in pixels, odd.
    size: (height, width) of the result, which has the normals of the pixels
      that `resize.nearest` takes. None for the size of `depth`.

  Returns:
    float32 [height width 3]: unit vectors in the camera's frame (x right, y
    down, z ahead) that face the camera; 0, 0, 0 where unreliable.
  """
  h, w = depth.shape
  pixels = nearest_indices((h, w), size or (h, w))
  valid = depth > 0
  weight = valid.astype(np.float64)
  inverse = weight / np.where(valid, depth, 1)
  x = ((np.arange(w) - camera.cx) / camera.fx)[None] * weight
  y = ((np.arange(h) - camera.cy) / camera.fy)[:, None] * weight

  def total(values):
    return _box_sum(values, window, pixels)

  count = total(weight)
  n = np.maximum(count, 1)
  mx, my, mw = total(x) / n, total(y) / n, total(inverse) / n
  # Second moments about the mean; missing pixels are 0 and add nothing.
  xx = total(x * x) / n - mx * mx
  yy = total(y * y) / n - my * my
  ww = total(inverse * inverse) / n - mw * mw
  xy = total(x * y) / n - mx * my
  xw = total(x * inverse) / n - mx * mw
  yw = total(y * inverse) / n - my * mw

  determinant = xx * yy - xy * xy
  solvable = determinant > 1e-6 * xx * yy  # pixels are not collinear
  determinant = np.where(solvable, determinant, 1)
  a = (xw * yy - yw * xy) / determinant
  b = (yw * xx - xw * xy) / determinant
  residual = np.sqrt(np.maximum(ww - a * xw - b * yw, 0))
  reliable = (
    valid[np.ix_(*pixels)]
    & solvable
    & (count >= _SUPPORT * window * window)
    & (residual <= _MAX_RESIDUAL * mw)
    & (total(_outlines(inverse, valid)) < 0.5)
  )
  normal = -np.stack([a, b, mw - a * mx - b * my], axis=-1)
  length = np.linalg.norm(normal, axis=-1, keepdims=True)
  normal /= np.maximum(length, 1e-12)
  return np.where(reliable[..., None], normal, 0).astype(np.float32)


def _outlines(inverse, valid):
  """1 for pixels next to a step of the depth, else 0 [h w]."""
  outlines = np.zeros(inverse.shape)
  for axis in (0, 1):
    w, known = np.swapaxes(inverse, 0, axis), np.swapaxes(valid, 0, axis)
    bend = np.abs(w[:-2] - 2 * w[1:-1] + w[2:]) > _STEP * w[1:-1]
    bend &= known[:-2] & known[1:-1] & known[2:]
    np.swapaxes(outlines, 0, axis)[1:-1] += bend
  return outlines


def _box_sum(values, window, pixels):
  """Sums over the windows around the rows and columns `pixels`, 0 outside."""
  reach = window // 2
  for axis, at in enumerate(pixels):
    size = values.shape[axis]
    shape = [n + (a == axis) for a, n in enumerate(values.shape)]
    running = np.zeros(shape)
    inner = np.s_[1:] if axis == 0 else np.s_[:, 1:]
    np.cumsum(values, axis=axis, out=running[inner])
    upper = running.take(np.minimum(at + reach + 1, size), axis)
    values = upper - running.take(np.maximum(at - reach, 0), axis)
  return values
