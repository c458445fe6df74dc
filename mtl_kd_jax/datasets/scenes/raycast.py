"""Casts rays from a camera or a light through a scene of solids.

The world is in meters with z up; the camera frame is x right, y down, z into
the scene. Vectors have their three components in front, [3 ...].
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.scenes.shapes import Shape

# A shadow ray ends at this fraction of its length, just before the surface:
# otherwise rounding would let surfaces shadow themselves.
_SHADOW_END = 1 - 2e-3
# The eight corners of a box: whether each is at the upper end of each axis.
_CORNERS = np.arange(8) >> np.arange(3)[:, None] & 1 > 0


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera with square pixels and a central principal point.

  Attributes:
    position: [3] meters, world frame.
    axes: [3 3]; the rows are right, down and forward in the world frame.
    spread: tangent of half the horizontal field of view.
  """

  position: np.ndarray
  axes: np.ndarray
  spread: float

  def plane(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers on the plane z = 1: x [w] and y [h], camera frame."""
    height, width = size
    x = (2 * np.arange(width) + 1 - width) / width * self.spread
    y = (2 * np.arange(height) + 1 - height) / width * self.spread
    return x, y

  def rays(self, size: tuple[int, int]) -> np.ndarray:
    """Directions [3 h w], world frame, of length 1 along the camera's z.

    With this length a multiple of the direction *is* the depth.
    """
    x, y = self.plane(size)
    right, down, forward = self.axes[:, :, None, None]
    return forward + x * right + y[:, None] * down

  def to_camera(self, vector: np.ndarray) -> np.ndarray:
    """Turns directions [3 ...] of the world frame into the camera frame."""
    # Written out: a matrix product may round differently from one BLAS to the
    # next.
    x, y, z = vector
    return np.stack([a[0] * x + a[1] * y + a[2] * z for a in self.axes])

  def window(self, shape: Shape, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns outside of which the shape is not visible."""
    everything = slice(0, size[0]), slice(0, size[1])
    if (bounds := shape.bounds()) is None:
      return everything
    low, high = (bound - self.position for bound in bounds)
    corners = np.where(_CORNERS, high[:, None], low[:, None])
    x, y, z = self.to_camera(corners)
    if z.max() <= 0:
      return slice(0), slice(0)
    if z.min() < 1e-3:  # extends behind the camera: its projection is unbounded
      return everything
    return (
      self._span((y / z).tolist(), size[0], size[1]),
      self._span((x / z).tolist(), size[1], size[1]),
    )

  def _span(self, at: list[float], count: int, width: int) -> slice:
    """The pixels of an axis whose centers lie between the ends of `at`."""
    first, last = (
      (end / self.spread * width + count - 1) / 2 for end in (min(at), max(at))
    )
    return slice(max(0, math.ceil(first)), max(0, math.floor(last) + 1))


class View(NamedTuple):
  """The surface that every pixel of a camera sees.

  Attributes:
    index: of the shape, int [h w]; -1 if there is none.
    depth: along the camera's z, float64 [h w] meters; inf if there is none.
    point: position of the surface, world frame, float64 [3 h w] meters.
    normal: of the surface, unit, outward, world frame, float64 [3 h w].
    uv: coordinates along the surface, float64 [2 h w] meters.
  """

  index: np.ndarray
  depth: np.ndarray
  point: np.ndarray
  normal: np.ndarray
  uv: np.ndarray


def cast(
  camera: Camera, shapes: Sequence[Shape], size: tuple[int, int]
) -> View:
  """Finds the nearest surface of every pixel.

  Args:
    camera: must be outside of all shapes.
    shapes: the scene.
    size: (height, width) in pixels.
  """
  rays = camera.rays(size)
  origin = camera.position[:, None, None]
  depth = np.full(size, np.inf)
  index = np.full(size, -1)
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    for i, shape in enumerate(shapes):
      window = camera.window(shape, size)
      if not depth[window].size:
        continue
      t = shape.hit(origin, rays[:, *window])
      nearer = t < depth[window]
      np.copyto(depth[window], t, where=nearer)
      np.copyto(index[window], i, where=nearer)

    point = origin + np.where(index >= 0, depth, 0) * rays
    normal, uv = np.zeros((3, depth.size)), np.zeros((2, depth.size))
    flat = point.reshape(3, -1)
    for i, here in pixels_of_each(index, len(shapes)):
      normal[:, here], uv[:, here] = shapes[i].skin(flat[:, here])
  return View(
    index, depth, point, normal.reshape(3, *size), uv.reshape(2, *size)
  )


def pixels_of_each(
  index: np.ndarray, count: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields every i < count in `index` [h w] with its flat positions."""
  for i in range(count):
    here = np.flatnonzero(index == i)
    if here.size:
      yield i, here


def is_shadowed(
  light: np.ndarray, point: np.ndarray, shapes: Sequence[Shape]
) -> np.ndarray:
  """Whether a shape is between light [3 ...] and point [3 ...], bool [...]."""
  direction = point - light
  shadowed = np.zeros(direction.shape[1:], bool)
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    for shape in shapes:
      shadowed |= shape.hit(light, direction) < _SHADOW_END
  return shadowed
