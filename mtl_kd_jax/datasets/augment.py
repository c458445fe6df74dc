"""Joint transforms that keep an image and its labels consistent.

What they do to a label is the rule of its kind (tasks/augmentation.py).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.base import Sample
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks.augmentation import Augmentation, View
from mtl_kd_jax.tasks.kinds import augmentation_of

Rules = Mapping[str, Augmentation]


class Change(NamedTuple):
  """What becomes of a sample.

  Attributes:
    scale: zoom factor, >= 1.
    corner: (top, left) in pixels of the crop that is enlarged.
    mirror: whether left and right change places, after that.
  """

  scale: float
  corner: tuple[float, float]
  mirror: bool


def augment(
  sample: Sample,
  rng: np.random.Generator,
  *,
  labels: Mapping[str, Label],
  scales: Sequence[float],
  flip: bool,
  rules: Rules | None = None,
) -> Sample:
  """Zooms into a random crop and mirrors at random.

  Args:
    sample: 'image' float32 [h w 3] and labels (labels.py).
    rng: random numbers of this sample.
    labels: name -> meaning of the label.
    scales: zoom factors >= 1, drawn with equal probability. The literature uses
      (1.0, 1.2, 1.5).
    flip: whether to mirror half of the samples, at random.
    rules: name -> its rule, for labels with another one than their kind.

  Returns:
    A new sample of the same keys, shapes and dtypes.
  """
  size = sample['image'].shape[:2]
  drawn = draw_change(rng, size, scales=scales, flip=flip)
  return apply_change(sample, drawn, labels=labels, rules=rules)


def draw_change(
  rng: np.random.Generator,
  size: tuple[int, int],
  *,
  scales: Sequence[float],
  flip: bool,
) -> Change:
  """What `augment` makes of a sample of a size, with these random numbers."""
  scale = float(rng.choice(scales))
  # Drawn even if unused: what follows in the stream must not depend on it.
  top, left = rng.random(2) * (1 - 1 / scale) * size
  mirror = bool(rng.random() < 0.5) and flip
  return Change(scale, (top, left), mirror)


def apply_change(
  sample: Sample,
  change: Change,
  *,
  labels: Mapping[str, Label],
  rules: Rules | None = None,
) -> Sample:
  """The sample of a change, see `augment`."""
  if change.scale != 1:
    sample = zoom(
      sample, change.scale, change.corner, labels=labels, rules=rules
    )
  if change.mirror:
    sample = flip_horizontally(sample, labels=labels, rules=rules)
  return sample


def zoom(
  sample: Sample,
  scale: float,
  corner: tuple[float, float],
  *,
  labels: Mapping[str, Label],
  rules: Rules | None = None,
) -> Sample:
  """Enlarges the crop [h/scale w/scale] at `corner` to the full size.

  What appears `scale` times as large is taken to be `scale` times as near. The
  result is an image of the same scene at 1/scale of its size, seen through a
  lens of `scale` times the focal length. Labels take the nearest pixel:
  interpolation would shorten normals and mix labeled with unlabeled pixels.

  Args:
    sample: as in `augment`.
    scale: zoom factor, >= 1.
    corner: (top, left) of the crop in pixels, may be fractional.
    labels: as in `augment`.
    rules: as in `augment`.
  """
  h, w = sample['image'].shape[:2]
  # Pixel centers: the crop's edges, not its outer pixels' centers, are mapped
  # onto the image's edges (align_corners=False).
  y = (np.arange(h) + 0.5) / scale + corner[0] - 0.5
  x = (np.arange(w) + 0.5) / scale + corner[1] - 0.5
  view = View(
    _index(np.round(y), h), _index(np.round(x), w), (scale, scale), corner
  )
  zoomed = {'image': _bilinear(sample['image'], y, x)}
  for name, label in labels.items():
    zoomed[name] = _rule(name, label, rules).zoom(sample[name], view, label)
  return zoomed


def flip_horizontally(
  sample: Sample,
  *,
  labels: Mapping[str, Label],
  rules: Rules | None = None,
) -> Sample:
  """Mirrors left and right, e.g. normals change the sign of their x."""
  width = sample['image'].shape[1]
  flipped = {'image': np.ascontiguousarray(sample['image'][:, ::-1])}
  for name, label in labels.items():
    flipped[name] = _rule(name, label, rules).mirror(sample[name], width, label)
  return flipped


def _rule(name: str, label: Label, rules: Rules | None) -> Augmentation:
  return (rules or {}).get(name) or augmentation_of(label)


def _index(position, size):
  return np.clip(position, 0, size - 1).astype(np.intp)


def _bilinear(image, y, x):
  """Samples [h w c] at all pairs of rows `y` and columns `x`, edges held."""
  rows = _between(image, y)
  return _between(rows.transpose(1, 0, 2), x).transpose(1, 0, 2).copy()


def _between(image, position):
  low = np.floor(position)
  part = (position - low).astype(np.float32)[:, None, None]
  size = len(image)
  below, above = image[_index(low, size)], image[_index(low + 1, size)]
  return below + part * (above - below)
