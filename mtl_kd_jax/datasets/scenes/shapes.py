"""Solids: intersection with rays, surface normals and texture coordinates.

The world is in meters with z up. Vectors have their three components along the
first axis, [3 ...], so that each component is a contiguous array.

Pixels are computed with +, -, *, / and sqrt only, whose results IEEE 754
specifies: a scene has the same labels on every machine. Angles along a curved
surface are therefore the 'diamond angle', which needs no arctangent.
"""

# ruff: noqa: D102  (the methods are documented once, in Shape)

import dataclasses
import math
from typing import NamedTuple, Protocol

import numpy as np


class Skin(NamedTuple):
  """Properties of a surface at some of its points.

  Attributes:
    normal: unit, outward, world frame [3 n].
    uv: texture coordinates along the surface in meters [2 n].
  """

  normal: np.ndarray
  uv: np.ndarray


class Shape(Protocol):
  """A solid that rays can hit."""

  def hit(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where rays enter the solid.

    Args:
      origin: [3 ...] meters, outside of the solid.
      direction: [3 ...], of any length.

    Returns:
      Distance from `origin` in multiples of `direction` [...]; inf for misses.
    """
    ...

  def skin(self, point: np.ndarray) -> Skin:
    """Normal and texture coordinates at surface points [3 n]."""
    ...

  def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper corner [3] of a bounding box; None if unbounded."""
    ...


@dataclasses.dataclass(frozen=True)
class Plane:
  """A floor, ceiling or wall: `point[axis] == offset`, seen from one side.

  Attributes:
    axis: 0, 1 or 2; the axis that is normal to the plane.
    offset: meters along that axis.
    side: +1 or -1; the direction of the normal along the axis.
  """

  axis: int
  offset: float
  side: int

  def hit(self, origin, direction):
    along = direction[self.axis]
    t = (self.offset - origin[self.axis]) / along
    return np.where(along * self.side < 0, t, np.inf)

  def skin(self, point):
    normal = np.zeros_like(point)
    normal[self.axis] = self.side
    u, v = (point[axis] for axis in range(3) if axis != self.axis)
    return Skin(normal, np.stack([u, v]))

  def bounds(self):
    return None


@dataclasses.dataclass(frozen=True)
class Box:
  """An upright box, rotated about the vertical.

  Attributes:
    center: [3] meters.
    half: half of its three sides, meters.
    turn: cosine and sine of the angle it is rotated by.
  """

  center: tuple[float, float, float]
  half: tuple[float, float, float]
  turn: tuple[float, float] = (1.0, 0.0)

  def _to_local(self, x, y, z):
    c, s = self.turn
    return c * x + s * y, c * y - s * x, z

  def hit(self, origin, direction):
    from_center = [o - c for o, c in zip(origin, self.center, strict=True)]
    near, far = -np.inf, np.inf
    for o, d, half in zip(
      self._to_local(*from_center),
      self._to_local(*direction),
      self.half,
      strict=True,
    ):
      inverse = 1 / d
      middle, reach = -o * inverse, np.abs(half * inverse)
      near = np.maximum(near, middle - reach)
      far = np.minimum(far, middle + reach)
    return np.where((near < far) & (near > 0), near, np.inf)

  def skin(self, point):
    center = np.array(self.center, point.dtype)[:, None]
    x, y, z = local = np.stack(self._to_local(*(point - center)))
    # The face is the one along whose axis the point lies furthest out.
    out = local / np.array(self.half, point.dtype)[:, None]
    face = np.argmax(np.abs(out), axis=0)
    normal = np.where(face == np.arange(3)[:, None], np.sign(out), 0)
    c, s = self.turn
    normal = np.stack(
        [c * normal[0] - s * normal[1], s * normal[0] + c * normal[1],
         normal[2]]
    )  # fmt: skip
    uv = np.stack([np.where(face == 0, y, x), np.where(face == 2, y, z)])
    return Skin(normal.astype(point.dtype), uv)

  def bounds(self):
    c, s = (abs(part) for part in self.turn)
    a, b, h = self.half
    reach = np.array([c * a + s * b, s * a + c * b, h])
    return np.array(self.center) - reach, np.array(self.center) + reach


@dataclasses.dataclass(frozen=True)
class Sphere:
  """A ball: `center` [3] and `radius`, meters."""

  center: tuple[float, float, float]
  radius: float

  def hit(self, origin, direction):
    x, y, z = (c - o for c, o in zip(self.center, origin, strict=True))
    dx, dy, dz = direction
    square = dx * dx + dy * dy + dz * dz
    closest = (x * dx + y * dy + z * dz) / square
    # By the point closest to the center, not by b^2 - a c: the difference of
    # two large squares would lose half of the digits.
    x, y, z = x - closest * dx, y - closest * dy, z - closest * dz
    inside = self.radius**2 - (x * x + y * y + z * z)
    t = closest - np.sqrt(np.maximum(inside, 0) / square)
    return np.where((inside > 0) & (t > 0), t, np.inf)

  def skin(self, point):
    center = np.array(self.center, point.dtype)[:, None]
    normal = (point - center) / point.dtype.type(self.radius)
    normal /= np.sqrt(np.sum(normal * normal, axis=0))
    around = _diamond_angle(normal[0], normal[1]) * self.radius
    return Skin(normal, np.stack([around, normal[2] * self.radius]))

  def bounds(self):
    center = np.array(self.center)
    return center - self.radius, center + self.radius


@dataclasses.dataclass(frozen=True)
class Cylinder:
  """An upright cylinder: middle of its `base` [3], `radius`, `height`, m."""

  base: tuple[float, float, float]
  radius: float
  height: float

  def hit(self, origin, direction):
    # A cylinder is the intersection of an infinite cylinder and a slab.
    x, y, z = (c - o for c, o in zip(self.base, origin, strict=True))
    dx, dy, dz = direction
    square = dx * dx + dy * dy
    closest = (x * dx + y * dy) / square
    x, y = x - closest * dx, y - closest * dy
    inside = self.radius**2 - (x * x + y * y)
    reach = np.sqrt(np.maximum(inside, 0) / square)
    half = self.height / 2
    middle, slab = (z + half) / dz, np.abs(half / dz)
    near = np.maximum(closest - reach, middle - slab)
    far = np.minimum(closest + reach, middle + slab)
    found = (inside > 0) & (near < far) & (near > 0)
    return np.where(found, near, np.inf)

  def skin(self, point):
    x, y, z = (p - c for p, c in zip(point, self.base, strict=True))
    ring = np.sqrt(x * x + y * y)
    half = self.height / 2
    level = (z - half) / half
    cap = np.abs(level) > ring / self.radius
    normal = np.stack(
      [
        np.where(cap, 0, x / ring),
        np.where(cap, 0, y / ring),
        np.where(cap, np.sign(level), 0),
      ]
    )
    around = _diamond_angle(x, y) * self.radius
    uv = np.stack([np.where(cap, x, around), np.where(cap, y, z)])
    return Skin(normal.astype(point.dtype), uv.astype(point.dtype))

  def bounds(self):
    return _round_bounds(self)


@dataclasses.dataclass(frozen=True)
class Cone:
  """An upright cone: middle of its `base` [3], `radius`, `height`, meters."""

  base: tuple[float, float, float]
  radius: float
  height: float

  def hit(self, origin, direction):
    x, y, z = (o - c for o, c in zip(origin, self.base, strict=True))
    dx, dy, dz = direction
    base = -z / dz
    at_x, at_y = x + base * dx, y + base * dy
    found = (base > 0) & (at_x * at_x + at_y * at_y < self.radius**2)
    best = np.where(found, base, np.inf)

    # x^2 + y^2 = slope^2 * depth^2, with depth measured down from the tip:
    # a t^2 + 2 b t + c = 0.
    slope2 = (self.radius / self.height) ** 2
    depth, deeper = self.height - z, -dz
    a = dx * dx + dy * dy - slope2 * deeper * deeper
    b = x * dx + y * dy - slope2 * depth * deeper
    c = x * x + y * y - slope2 * depth * depth
    root = b * b - a * c
    # q has no cancellation, so both roots are accurate.
    q = -(b + np.copysign(np.sqrt(np.maximum(root, 0)), b))
    for t in (q / a, c / q):
      reached = depth + t * deeper
      found = (root > 0) & (t > 0) & (reached > 0) & (reached < self.height)
      best = np.where(found, np.minimum(best, t), best)
    return best

  def skin(self, point):
    x, y, z = (p - c for p, c in zip(point, self.base, strict=True))
    ring = np.sqrt(x * x + y * y)
    slope = self.radius / self.height
    base = np.abs(z) < np.abs(ring - slope * (self.height - z))
    scale = 1 / (math.sqrt(1 + slope**2) * np.maximum(ring, 1e-9))
    normal = np.stack(
      [
        np.where(base, 0, x * scale),
        np.where(base, 0, y * scale),
        np.where(base, -1, slope * ring * scale),
      ]
    )
    around = _diamond_angle(x, y) * self.radius
    uv = np.stack([np.where(base, x, around), np.where(base, y, z)])
    return Skin(normal.astype(point.dtype), uv.astype(point.dtype))

  def bounds(self):
    return _round_bounds(self)


def _diamond_angle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Increases from -pi to pi around the circle, like atan2(y, x)."""
  ratio = x / np.maximum(np.abs(x) + np.abs(y), 1e-9)
  return np.copysign((1 - ratio) * (math.pi / 2), y)


def _round_bounds(shape: Cylinder | Cone) -> tuple[np.ndarray, np.ndarray]:
  base = np.array(shape.base)
  reach = np.array([shape.radius, shape.radius, 0])
  return base - reach, base + reach + np.array([0, 0, shape.height])
