"""Surface normals from a depth map: planes fitted to inverse depth.

A plane n . P = d, seen at P = z r with the ray r = (x, y, 1), x = (u - c_x) /
f_x, y = (v - c_y) / f_y, has the inverse depth

    w = 1 / z = (n . r) / d,

which is *affine* in x and y: the least-squares fit w = a x + b y + c over a
window is exact on planes, and (a, b, c) points along n. Sensors that measure
disparity, as the Kinect does, have errors of one size in w everywhere, not in
z, so least squares in w is also the fit that fits their noise.

Since w > 0, the vector -(a, b, c) always has n . r < 0: it faces the camera.
"""

from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.resample import centers

# Inverse depth that misses the line through its two neighbors by more than
# this share is beside an outline. On a plane, however slanted, it lies on it.
_STEP = 0.04
# Windows with less valid pixels than this share say too little.
_SUPPORT = 0.5
# Windows whose pixels lie off the fitted plane by more than this share of the
# depth (root mean square) hold no one surface.
_MISFIT = 0.01


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
    """The camera of a picture without its first rows and columns."""
    return self._replace(cx=self.cx - left, cy=self.cy - top)


def normals_from_depth(
  depth: np.ndarray,
  camera: Camera,
  *,
  window: int,
  size: tuple[int, int] | None = None,
) -> np.ndarray:
  """Fits a plane to the window around every pixel.

  No normal is given where there is no depth; where less than half of the
  window has depth; where the window crosses an outline, i.e. a step of the
  depth by more than 4 %; and where its pixels miss the plane by more than 1 %
  of the depth (root mean square).

  Args:
    depth: float [h w], along z in any unit, 0 where missing.
    camera: that saw it; of the same pixels.
    window: side of the square window, pixels, odd.
    size: (height, width) of the result: the normals of the pixels that
      `resample.nearest` takes. None is that of `depth`.

  Returns:
    float32 [height width 3]: unit vectors in the camera's frame (x right, y
    down, z ahead) that face the camera; 0, 0, 0 where unreliable.
  """
  h, w = depth.shape
  pixels = centers((h, w), size or (h, w))
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
  # Second moments about the mean; 0 of missing pixels adds nothing.
  xx = total(x * x) / n - mx * mx
  yy = total(y * y) / n - my * my
  ww = total(inverse * inverse) / n - mw * mw
  xy = total(x * y) / n - mx * my
  xw = total(x * inverse) / n - mx * mw
  yw = total(y * inverse) / n - my * mw

  determinant = xx * yy - xy * xy
  solvable = determinant > 1e-6 * xx * yy  # not all in one line
  determinant = np.where(solvable, determinant, 1)
  a = (xw * yy - yw * xy) / determinant
  b = (yw * xx - xw * xy) / determinant
  misfit = np.sqrt(np.maximum(ww - a * xw - b * yw, 0))
  reliable = (
    valid[np.ix_(*pixels)]
    & solvable
    & (count >= _SUPPORT * window * window)
    & (misfit <= _MISFIT * mw)
    & (total(_outlines(inverse, valid)) < 0.5)
  )
  normal = -np.stack([a, b, mw - a * mx - b * my], axis=-1)
  length = np.linalg.norm(normal, axis=-1, keepdims=True)
  normal /= np.maximum(length, 1e-12)
  return np.where(reliable[..., None], normal, 0).astype(np.float32)


def _outlines(inverse, valid):
  """1 for pixels beside which the depth makes a step, else 0 [h w]."""
  torn = np.zeros(inverse.shape)
  for axis in (0, 1):
    w, known = np.swapaxes(inverse, 0, axis), np.swapaxes(valid, 0, axis)
    bend = np.abs(w[:-2] - 2 * w[1:-1] + w[2:]) > _STEP * w[1:-1]
    bend &= known[:-2] & known[1:-1] & known[2:]
    np.swapaxes(torn, 0, axis)[1:-1] += bend
  return torn


def _box_sum(values, window, pixels):
  """Sums over the windows around the rows x columns of `pixels`.

  Pixels beyond the edges count as 0.
  """
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
