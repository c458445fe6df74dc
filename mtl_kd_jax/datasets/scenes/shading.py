"""Shades what the rays hit: textures, lamps, shadows, sensor.

As in `shapes`, vectors are [3 ...], and pixels are computed with arithmetic and
square roots only: an image is the same on every machine. The gamma is 2, where
a camera would use 2.2.
"""

import numpy as np

from mtl_kd_jax.datasets.scenes import raycast
from mtl_kd_jax.datasets.scenes.rooms import Lamp, Material, Room

# The pixels of a tile of _TILE x _TILE each sample a different spot of a lamp.
# The mean over such a window is a soft shadow at the cost of a hard one.
_TILE = 4
_LATTICE = 64  # period of the random numbers of a texture, in cells


def photograph(
  room: Room, view: raycast.View, rng: np.random.Generator
) -> np.ndarray:
  """Renders the image.

  Args:
    room: materials, lamps and exposure.
    view: what its camera sees of `room.things`.
    rng: of textures, spots of the lamps and sensor noise.

  Returns:
    uint8 [h w 3].
  """
  lattice = rng.random((_LATTICE, _LATTICE), np.float32)
  point, normal, uv, depth = (
    x.astype(np.float32) for x in (view.point, view.normal, view.uv, view.depth)
  )
  to_eye = room.camera.position.astype(np.float32)[:, None, None] - point
  facing = _dot(to_eye, normal) / np.sqrt(_dot(to_eye, to_eye))
  pixel = np.float32(2 * room.camera.spread / depth.shape[1])
  blur = depth * pixel / np.maximum(facing, 0.05)

  color = light(room, view.index, point, normal, rng)
  flat, uv, blur = color.reshape(3, -1), uv.reshape(2, -1), blur.ravel()
  for i, here in raycast.pixels_of_each(view.index, len(room.things)):
    material = room.things[i].material
    flat[:, here] *= paint(material, uv[:, here], blur[here], lattice)
  return expose(color, room.exposure, rng)


def paint(
  material: Material, uv: np.ndarray, blur: np.ndarray, lattice: np.ndarray
) -> np.ndarray:
  """The colors of a surface.

  Args:
    material: its material.
    uv: texture coordinates [2 n], meters.
    blur: width of a pixel on the surface [n], meters; finer patterns fade to
      their mean, to avoid aliasing.
    lattice: random numbers in [0, 1] [64 64].

  Returns:
    Linear RGB albedo [3 n].
  """
  c, s = material.turn
  u, v = uv * np.float32(1 / material.scale)
  u, v = c * u + s * v + material.shift[0], c * v - s * u + material.shift[1]
  mix, mean = _PATTERNS[material.pattern](u, v, lattice)
  sharp = np.clip(1.4 - 1.6 * blur / material.scale, 0, 1)
  mix = mean + (mix - mean) * sharp
  first, second = np.array(material.colors, np.float32)[:, :, None]
  return first + (second - first) * mix


def _dot(a, b):
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _noise(u, v, lattice):
  """Smooth noise: interpolates random numbers at integer u, v."""
  left, top = np.floor(u), np.floor(v)
  u, v = u - left, v - top
  u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
  j, i = left.astype(int) % _LATTICE, top.astype(int) % _LATTICE
  j1, i1 = (j + 1) % _LATTICE, (i + 1) % _LATTICE
  upper = lattice[i, j] + (lattice[i, j1] - lattice[i, j]) * u
  lower = lattice[i1, j] + (lattice[i1, j1] - lattice[i1, j]) * u
  return upper + (lower - upper) * v


def _bricks(u, v, lattice):
  """Rows of bricks of 2x1, each with its own shade, and joints."""
  row = np.floor(v)
  u = u / 2 + row / 2
  brick = np.floor(u)
  tone = lattice[
      row.astype(int) % _LATTICE, brick.astype(int) % _LATTICE
  ]  # fmt: skip
  joint = (v - row < 0.1) | (u - brick < 0.05)
  return np.where(joint, 1, 0.6 * tone), 0.4


def _dots(u, v, lattice):
  del lattice
  u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
  return (u * u + v * v < 0.08).astype(np.float32), 0.25


def _marble(u, v, lattice):
  u = u + 2 * _noise(u, v, lattice)
  wave = np.abs(2 * (u - np.floor(u)) - 1)
  return wave * wave, 1 / 3


# name -> (u, v [n], lattice) -> weight of the second color [n], and its mean
_PATTERNS = {
  'plain': lambda u, v, lattice: (0 * u, 0.0),
  'checker': lambda u, v, lattice: ((np.floor(u) + np.floor(v)) % 2, 0.5),
  'stripes': lambda u, v, lattice: (np.floor(2 * u) % 2, 0.5),
  'bricks': _bricks,
  'dots': _dots,
  'clouds': lambda u, v, lattice: (
    (2 * _noise(u, v, lattice) + _noise(3 * u, 3 * v, lattice)) / 3,
    0.5,
  ),
  'marble': _marble,
}


def light(
  room: Room,
  index: np.ndarray,
  point: np.ndarray,
  normal: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """The light that reaches the surface of every pixel, linear RGB [3 h w].

  Args:
    room: its lamps and things.
    index: the thing that a pixel shows [h w].
    point: its position in the world [3 h w] meters.
    normal: unit, world frame [3 h w].
    rng: of the spots of the lamps.
  """
  up = sum(n * s for n, s in zip(normal, room.sky, strict=True))
  ambient = (
    room.ambient * (0.75 + 0.25 * up) * _openness(room, index, point, normal)
  )
  total = np.repeat(ambient[None], 3, axis=0)
  solids = [room.things[i].shape for i in _solids(room)]
  smooth = _Smoother(index, normal)
  for lamp in room.lamps:
    spots = _spots(lamp, rng, index.shape)
    shade = smooth(raycast.is_shadowed(spots, point, solids))
    center = np.array(lamp.center, np.float32)[:, None, None]
    to_lamp = center - point
    square = _dot(to_lamp, to_lamp)
    # Falls off with the square of the distance, softened for a lamp with area.
    facing = np.maximum(_dot(to_lamp, normal), 0)
    fall = facing / (np.sqrt(square) * (0.6 + 0.25 * square))
    color = np.array(lamp.color, np.float32)[:, None, None]
    total += color * (2 * fall * (1 - shade))
  return total


def _spots(lamp: Lamp, rng, size):
  """A spot on the lamp for every pixel [3 h w], one for each cell of a tile."""
  cells = np.stack(np.meshgrid(np.arange(_TILE), np.arange(_TILE)))
  flat = (cells + rng.random((2, _TILE, _TILE))) / _TILE - 0.5
  tile = np.zeros((3, _TILE, _TILE), np.float32)
  tile[:2] = flat * lamp.side
  tile += np.array(lamp.center, np.float32)[:, None, None]
  repeats = (-(-size[0] // _TILE), -(-size[1] // _TILE))
  return np.tile(tile, (1, *repeats))[:, : size[0], : size[1]]


class _Smoother:
  """Averages over tiles, among pixels of the same smooth surface."""

  def __init__(self, index, normal):
    self._same = []
    for axis in (0, 1):
      for step in range(1, _TILE):
        here, there = _shifted(axis, step)
        bend = _dot(normal[:, *here], normal[:, *there])
        self._same.append((index[here] == index[there]) & (bend > 0.9))

  def __call__(self, values):
    same = iter(self._same)
    values = values.astype(np.float32)
    for axis in (0, 1):
      total, count = values * _TILE, np.full_like(values, _TILE)
      for step in range(1, _TILE):
        here, there = _shifted(axis, step)
        # Decreasing weights: every cell of the tile has the same weight.
        mask = next(same) * np.float32(_TILE - step)
        total[here] += values[there] * mask
        total[there] += values[here] * mask
        count[here] += mask
        count[there] += mask
      values = total / count
    return values


def _shifted(axis, step):
  """Slices of an array and of its copy shifted by `step` along `axis`."""
  here, there = [slice(None)] * 2, [slice(None)] * 2
  here[axis], there[axis] = slice(None, -step), slice(step, None)
  return tuple(here), tuple(there)


def _solids(room):
  """Bounds of things that cast shadows, by index: neither walls nor flat."""
  bounds = {i: thing.shape.bounds() for i, thing in enumerate(room.things)}
  return {
    i: (low, high)
    for i, (low, high) in ((i, b) for i, b in bounds.items() if b is not None)
    if min(high - low) > 0.15
  }


def _openness(room, index, point, normal):
  """Fraction of ambient light that corners and furniture let through [h w]."""
  openness = np.ones(index.shape, np.float32)
  for p, n, size in zip(point, normal, room.size, strict=True):
    distance = np.minimum(p, np.float32(size) - p)
    # A surface is not darkened by the wall that it is part of (n = 1).
    openness *= 1 - (1 - n * n) * (0.09 / (0.18 + np.maximum(distance, 0)))
  for i, (low, high) in _solids(room).items():
    radius = np.float32(min(high - low) / 2)
    center = (low + high) / 2
    center[2] = low[2] + radius
    to_ball = center.astype(np.float32)[:, None, None] - point
    square = _dot(to_ball, to_ball)
    facing = _dot(to_ball, normal)
    # A ball of that radius occludes this fraction of the hemisphere.
    hidden = np.maximum(facing, 0) * radius**2 / (square * np.sqrt(square))
    openness *= 1 - 0.8 * np.minimum(hidden, 1) * (index != i)
  return openness


def expose(radiance: np.ndarray, exposure: float, rng: np.random.Generator):
  """Simulates the sensor: linear RGB [3 h w] -> uint8 [h w 3].

  Args:
    radiance: light from the scene.
    exposure: mean brightness of the result, linear.
    rng: of the noise.
  """
  for axis in (1, 2):  # blur of the lens
    radiance = _soften(radiance, axis)
  gain = exposure / max(float(np.mean(radiance, dtype=np.float64)), 1e-6)
  level = radiance * np.float32(gain)
  level = np.sqrt(level * 1.7 / (1 + 0.7 * level))
  noise = rng.random((2, *level.shape), np.float32).sum(axis=0) - 1
  level += noise * np.float32(0.015)
  level = np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8)
  return np.ascontiguousarray(level.transpose(1, 2, 0))


def _soften(image, axis):
  padded = np.concatenate(
    [image.take([0], axis), image, image.take([-1], axis)], axis
  )
  n = image.shape[axis]
  lower, middle, upper = (
    padded[(slice(None),) * axis + (slice(k, k + n),)] for k in range(3)
  )
  return 0.14 * (lower + upper) + 0.72 * middle
