"""Which pixels of a rendered room have no label.

Missing pixels resemble those of real labels: classes are annotated by hand,
depth is measured by a stereo sensor, and normals are computed from depth.

  semantic  in most scenes a thin line at borders, and a forgotten patch
  depth     grazing surfaces, a strip beside the outlines of nearer objects, and
            patches
  normals   grazing surfaces, both sides of outlines, and a separate patch
"""

import numpy as np

from mtl_kd_jax.datasets.scenes.raycast import Camera, View

# Below this cosine of surface normal and ray the sensor measures nothing.
_GRAZING = 0.13


def draw_missing(
  camera: Camera,
  view: View,
  classes: np.ndarray,
  normals: np.ndarray,
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  """Draws which pixels of every label are missing.

  Args:
    camera: the camera.
    view: what it sees.
    classes: class ids, int [h w].
    normals: unit, camera frame [3 h w].
    rng: random numbers.

  Returns:
    Label name -> bool [h w], True where it is missing.
  """
  size = classes.shape
  x, y = camera.plane(size)
  x, y = x[None], y[:, None]
  ray = np.sqrt(x * x + y * y + 1)
  facing = -(normals[0] * x + normals[1] * y + normals[2]) / ray

  # Most annotators leave a thin line along borders.
  unannotated = np.zeros(size, bool)
  if rng.random() < 0.7:
    unannotated[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    unannotated[1:] |= classes[1:] != classes[:-1]

  # A near object occludes the background in only one of the sensor's two views:
  # a strip beside its outline, wider for larger steps in depth.
  occluded = np.zeros(size, bool)
  inverse = 1 / view.depth
  reach = 0.05 * size[1] / camera.spread  # baseline of 10 cm, in pixels
  for step in range(1, 1 + size[1] // 24):
    parallax = (inverse[:, step:] - inverse[:, :-step]) * reach
    occluded[:, :-step] |= parallax > step
  unmeasured = (facing < _GRAZING) | occluded

  # Normals are computed from neighboring depths: none across a step.
  outlines = np.zeros(size, bool)
  for here, there in (
    ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ((slice(1, None),), (slice(None, -1),)),
  ):
    step = np.abs(inverse[here] - inverse[there]) * view.depth[here]
    outline = (view.index[here] != view.index[there]) & (step > 0.05)
    outlines[here] |= outline
    outlines[there] |= outline
  return {
    'semantic': unannotated | _patches(rng, size, 1),
    'depth': unmeasured | _patches(rng, size, 2),
    'normals': unmeasured | outlines | _patches(rng, size, 1),
  }


def _patches(rng, size, count):
  """Up to `count` round patches at random places [h w]."""
  height, width = size
  rows, columns = np.arange(height)[:, None], np.arange(width)
  covered = np.zeros(size, bool)
  for _ in range(count):
    top, left, radius, stretch, exists = rng.random(5)
    radius = (0.03 + 0.07 * radius) * width
    y = (rows - top * height) * (0.6 + stretch)
    x = columns - left * width
    covered |= (y * y + x * x < radius * radius) & (exists < 0.7)
  return covered
