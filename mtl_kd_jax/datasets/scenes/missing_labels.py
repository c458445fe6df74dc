"""Which pixels of a rendered room have no label.

Every label has the gaps of the way it is usually come by: classes are drawn by
hand, depth is measured by a sensor with two eyes, normals follow from it.

  semantic  in most scenes a thin line at borders, in most a 'forgotten' patch
  depth     grazing surfaces, a strip beside the outline of nearer things, and
            patches
  normals   grazing surfaces, both sides of outlines, and a patch of their own
"""

import numpy as np

from mtl_kd_jax.datasets.scenes.raycast import Camera, View

# Below this cosine between surface and ray the depth sensor sees nothing.
_GRAZING = 0.13


def draw_gaps(
  camera: Camera,
  view: View,
  classes: np.ndarray,
  normals: np.ndarray,
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  """Draws which pixels of every task have no label.

  Args:
    camera: that took the picture.
    view: what it saw.
    classes: class ids, int [h w].
    normals: unit, camera frame [3 h w].
    rng: chance.

  Returns:
    Task -> bool [h w], True where the label is missing.
  """
  size = classes.shape
  x, y = camera.plane(size)
  x, y = x[None], y[:, None]
  ray = np.sqrt(x * x + y * y + 1)
  facing = -(normals[0] * x + normals[1] * y + normals[2]) / ray

  # Most annotators leave a thin line where they are not sure of the border.
  unsure = np.zeros(size, bool)
  if rng.random() < 0.7:
    unsure[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    unsure[1:] |= classes[1:] != classes[:-1]

  # Something near hides from one eye of the sensor what the other one sees: a
  # strip beside its outline, the wider, the further it stands out.
  jump = np.zeros(size, bool)
  inverse = 1 / view.depth
  reach = 0.05 * size[1] / camera.spread  # eyes 10 cm apart, in pixels
  for step in range(1, 1 + size[1] // 24):
    gap = (inverse[:, step:] - inverse[:, :-step]) * reach
    jump[:, :-step] |= gap > step
  lost = (facing < _GRAZING) | jump

  # Normals come from neighboring depths: none where these jump.
  torn = np.zeros(size, bool)
  for here, there in (
    ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ((slice(1, None),), (slice(None, -1),)),
  ):
    step = np.abs(inverse[here] - inverse[there]) * view.depth[here]
    outline = (view.index[here] != view.index[there]) & (step > 0.05)
    torn[here] |= outline
    torn[there] |= outline
  return {
    'semantic': unsure | _patches(rng, size, 1),
    'depth': lost | _patches(rng, size, 2),
    'normals': lost | torn | _patches(rng, size, 1),
  }


def _patches(rng, size, count):
  """Up to `count` round patches at random places [h w]."""
  height, width = size
  rows, columns = np.arange(height)[:, None], np.arange(width)
  covered = np.zeros(size, bool)
  for _ in range(count):
    top, left, radius, stretch, there = rng.random(5)
    radius = (0.03 + 0.07 * radius) * width
    y = (rows - top * height) * (0.6 + stretch)
    x = columns - left * width
    covered |= (y * y + x * x < radius * radius) & (there < 0.7)
  return covered
