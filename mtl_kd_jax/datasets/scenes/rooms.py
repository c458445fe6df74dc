"""Draws random rooms: walls, furniture, colors, lamps and a camera.

Colors and textures are independent of the objects, and the camera's height,
tilt and field of view vary: neither the color of a pixel nor its position in
the image predicts the class. Shape and context do.
"""

import colorsys
import dataclasses
import math

import numpy as np

from mtl_kd_jax.datasets.scenes import shapes
from mtl_kd_jax.datasets.scenes.raycast import Camera

CLASSES = (
    'floor', 'wall', 'ceiling', 'door', 'picture',
    'box', 'sphere', 'cylinder', 'cone',
)  # fmt: skip
PATTERNS = ('plain', 'checker', 'stripes', 'bricks', 'dots', 'clouds', 'marble')


@dataclasses.dataclass(frozen=True)
class Material:
  """The texture of a surface.

  Attributes:
    pattern: one of PATTERNS.
    colors: two linear RGB albedos in [0, 1], which the pattern mixes.
    scale: period of the pattern in meters.
    turn: cosine and sine of the angle the pattern is rotated by.
    shift: offset of the pattern in periods (u, v).
  """

  pattern: str
  colors: tuple[tuple[float, ...], tuple[float, ...]]
  scale: float
  turn: tuple[float, float]
  shift: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Thing:
  """One textured solid; `label` is its class id."""

  label: int
  shape: shapes.Shape
  material: Material


@dataclasses.dataclass(frozen=True)
class Lamp:
  """A horizontal square lamp.

  Attributes:
    center: [3] meters.
    side: of the square in meters; larger lamps cast softer shadows.
    color: linear RGB, relative to the other lamps.
  """

  center: tuple[float, float, float]
  side: float
  color: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Room:
  """A scene and its camera.

  Attributes:
    size: inner width (x), length (y) and height (z), meters.
    things: the six sides of the room, doors and pictures, and furniture.
    lamps: one or two.
    sky: direction of the brighter half of the ambient light, unit [3].
    ambient: ambient light relative to the lamps.
    exposure: mean brightness of the image, linear.
    camera: outside of all things.
  """

  size: tuple[float, float, float]
  things: tuple[Thing, ...]
  lamps: tuple[Lamp, ...]
  sky: tuple[float, float, float]
  ambient: float
  exposure: float
  camera: Camera


def draw_room(rng: np.random.Generator) -> Room:
  """Draws a room; the same generator state gives the same room."""
  size = tuple(_uniform(rng, (3.4, 3.8, 2.25), (5.4, 5.8, 2.75)))
  camera = _draw_camera(rng, size)
  painter = _Painter(rng)
  things = _draw_sides(painter, size)
  for side in range(4):
    things += _draw_hangings(rng, painter, size, side)
  things += _draw_furniture(rng, painter, size, camera)
  lamps = tuple(
    _draw_lamp(rng, size) for _ in range(1 + int(rng.random() < 0.4))
  )
  sky = rng.random(3) - (0.5, 0.5, -0.2)
  return Room(
    size=size,
    things=tuple(things),
    lamps=lamps,
    sky=tuple(sky / math.sqrt(sum(sky * sky) + 1e-9)),
    ambient=_uniform(rng, 0.2, 0.45),
    exposure=_uniform(rng, 0.22, 0.36),
    camera=camera,
  )


def _uniform(rng, low, high):
  # Only `random` and `integers` are used, the methods of a generator that have
  # returned the same numbers in all versions of NumPy.
  if not isinstance(low, tuple):
    return low + (high - low) * rng.random()
  shares = rng.random(len(low)).tolist()
  return [a + (b - a) * s for a, b, s in zip(low, high, shares, strict=True)]


class _Painter:
  """Draws materials of one color scheme, independent of their use."""

  def __init__(self, rng):
    self._rng = rng
    hue = rng.random()
    # A main hue, its neighbors, and complementary accents, at five levels from
    # dark to light. They are used in turn, so that consecutive materials
    # contrast.
    shifts = (0, 0.07, -0.09, 0.42, 0.56)
    order = np.argsort(rng.random((2, 5)), axis=1)
    self._hues = [hue + shifts[i] for i in order[0]]
    self._levels = [0.52 + 0.1 * int(i) for i in order[1]]
    self._next = 0

  def __call__(self) -> Material:
    rng = self._rng
    turn, self._next = self._next % 5, self._next + 1
    hue = self._hues[turn] + _uniform(rng, -0.03, 0.03)
    saturation = _uniform(rng, 0.05, 0.5)
    value = self._levels[turn] + _uniform(rng, -0.05, 0.05)
    # The second color is a darker or paler shade of the first, or an accent.
    other = self._hues[rng.integers(5)] if rng.random() < 0.15 else hue
    paler = saturation * _uniform(rng, 0.3, 1.2)
    darker = value * _uniform(rng, 0.6, 0.9)
    colors = (
      colorsys.hsv_to_rgb(hue % 1, saturation, value),
      colorsys.hsv_to_rgb(other % 1, min(paler, 1), darker),
    )
    angle = (rng.random() < 0.35) * _uniform(rng, 0, math.pi)
    return Material(
      pattern=PATTERNS[max(0, int(rng.integers(10)) - 3)],
      colors=tuple(tuple(c * c for c in color) for color in colors),
      scale=_uniform(rng, 0.18, 0.55),
      turn=(math.cos(angle), math.sin(angle)),
      shift=tuple(_uniform(rng, (0, 0), (64, 64))),
    )


def _draw_camera(rng, size):
  """A camera near a wall or corner that looks across the room."""
  heading = _uniform(rng, 0, 2 * math.pi)
  pitch = math.radians(_uniform(rng, -16, 0))  # down, up
  roll = math.radians(_uniform(rng, -2.5, 2.5))
  forward = np.array([math.cos(heading), math.sin(heading)])
  middle = np.array(size[:2]) * _uniform(rng, (0.38, 0.38), (0.62, 0.62))
  # As far back as the room allows, or up to a third closer.
  inner = np.array(size[:2]) / 2 - 0.35
  back = min(inner / np.maximum(np.abs(forward), 1e-9))
  position = middle - forward * back * _uniform(rng, 0.65, 1)
  position = np.clip(position, 0.35, np.array(size[:2]) - 0.35)
  height = _uniform(rng, 1.2, 1.65)

  cos, sin = math.cos(pitch), math.sin(pitch)
  ahead = np.array([forward[0] * cos, forward[1] * cos, sin])
  right = np.array([forward[1], -forward[0], 0])
  down = np.array([forward[0] * sin, forward[1] * sin, -cos])
  cos, sin = math.cos(roll), math.sin(roll)
  return Camera(
    position=np.array([*position, height]),
    axes=np.stack([cos * right + sin * down, cos * down - sin * right, ahead]),
    spread=math.tan(math.radians(_uniform(rng, 68, 80)) / 2),
  )


def _draw_sides(painter, size):
  """Floor, ceiling and four walls, one of them in another material."""
  labels = [CLASSES.index(name) for name in ('wall', 'wall', 'floor')]
  wall = painter()
  accent = painter()
  things = []
  for axis, label in enumerate(labels):
    low = shapes.Plane(axis, 0.0, 1)
    high = shapes.Plane(axis, size[axis], -1)
    if axis == 2:
      ceiling = CLASSES.index('ceiling')
      things += [Thing(label, low, painter()), Thing(ceiling, high, painter())]
    else:
      apart = accent if axis == 0 else wall
      things += [Thing(label, low, apart), Thing(label, high, wall)]
  return things


def _draw_hangings(rng, painter, size, side):
  """Doors and pictures: thin boxes on one of the four walls."""
  axis, high = divmod(side, 2)
  length = size[1 - axis]
  slots = int(length / 1.25)
  things = []
  for slot in range(slots):
    kind = rng.random()
    if kind < 0.3:
      label = CLASSES.index('door')
      width, height, depth = _uniform(rng, (0.85, 1.9, 0.05), (1.15, 2.1, 0.1))
      bottom = 0.0
    elif kind < 0.6:
      label = CLASSES.index('picture')
      width, height, depth = _uniform(rng, (0.7, 0.5, 0.03), (1.15, 1.0, 0.08))
      bottom = _uniform(rng, 1.35, 1.75) - height / 2
    else:
      continue
    pitch = length / slots
    middle = pitch * (slot + 0.5)
    middle += (pitch - width) * _uniform(rng, -0.45, 0.45)
    center, half = [0.0, 0.0, bottom + height / 2], [0.0, 0.0, height / 2]
    center[axis] = size[axis] - depth / 2 if high else depth / 2
    center[1 - axis] = middle
    half[axis], half[1 - axis] = depth / 2, width / 2
    shape = shapes.Box(tuple(center), tuple(half))
    things.append(Thing(label, shape, painter()))
  return things


def _draw_furniture(rng, painter, size, camera):
  """Boxes, spheres, cylinders and cones in view of the camera."""
  things, taken = [], []
  for _ in range(int(rng.integers(4, 7))):
    reach = _uniform(rng, 0.34, 0.62)
    if (spot := _free_spot(rng, size, camera, reach, taken)) is None:
      continue
    taken.append((*spot, reach))
    # A few float, most stand on the floor.
    bottom = _uniform(rng, 1.4, size[2] - 0.6) if rng.random() < 0.1 else 0.0
    low = bottom > 0 or rng.random() < 0.5
    height = _uniform(rng, 0.3, 0.75) if low else _uniform(rng, 0.6, 1.5)
    label, shape, top = _draw_solid(rng, (*spot, bottom), reach, height)
    things.append(Thing(label, shape, painter()))
    if not isinstance(shape, shapes.Box) or top > 1.1 or rng.random() < 0.4:
      continue
    # A box may carry something smaller.
    reach = min(shape.half[:2]) * _uniform(rng, 0.6, 0.95)
    height = reach * _uniform(rng, 1.2, 2.6)
    label, shape, _ = _draw_solid(rng, (*spot, top), reach, height)
    things.append(Thing(label, shape, painter()))
  return things


def _free_spot(rng, size, camera, reach, taken):
  """A free position on the floor in view of the camera, or None."""
  right, _, ahead = camera.axes[:, :2]
  eye = camera.position[:2]
  for _ in range(20):
    far = _uniform(rng, reach + 1.0, 5.0)
    aside = far * camera.spread * _uniform(rng, -0.95, 0.95)
    x, y = eye + far * ahead + aside * right
    if not all(
      reach + 0.11 < at < side - reach - 0.11
      for at, side in zip((x, y), size[:2], strict=True)
    ):
      continue
    near = [(*eye, 0.8), *taken]
    if all(math.hypot(x - a, y - b) > reach + r for a, b, r in near):
      return float(x), float(y)
  return None


def _draw_solid(rng, base, reach, height):
  """A solid on `base` [3] within `reach` of it: class, shape, top in meters."""
  x, y, z = base
  name = ('box', 'sphere', 'cylinder', 'cone')[rng.integers(4)]
  label = CLASSES.index(name)
  if name == 'sphere':
    return label, shapes.Sphere((x, y, z + reach), reach), z + 2 * reach
  if name == 'box':
    angle, corner = _uniform(rng, (0, 0.55), (math.pi, 0.83))
    shape = shapes.Box(
      center=(x, y, z + height / 2),
      half=(
        reach * corner,
        reach * math.sqrt(1 - corner * corner),
        height / 2,
      ),
      turn=(math.cos(angle), math.sin(angle)),
    )
  else:
    solid = shapes.Cylinder if name == 'cylinder' else shapes.Cone
    slimmest = 0.6 if name == 'cylinder' else 0.9
    shape = solid((x, y, z), reach * _uniform(rng, slimmest, 1), height)
  return label, shape, z + height


def _draw_lamp(rng, size):
  at = _uniform(rng, (0.2, 0.2, 0.75), (0.8, 0.8, 0.95))
  warm = _uniform(rng, -0.12, 0.12)
  strength = _uniform(rng, 0.6, 1.4)
  return Lamp(
    center=tuple(share * side for share, side in zip(at, size, strict=True)),
    side=_uniform(rng, 0.2, 0.6),
    color=(strength * (1 + warm), strength, strength * (1 - warm)),
  )
