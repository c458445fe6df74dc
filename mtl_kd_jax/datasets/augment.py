"""Joint transforms that keep an image and its labels consistent."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.base import Sample
from mtl_kd_jax.labels import Label


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
) -> Sample:
  """Zooms into a random crop and mirrors at random.

  Args:
    sample: 'image' float32 [h w 3] and labels (labels.py).
    rng: random numbers of this sample.
    labels: name -> meaning of the label; determines how its values change.
    scales: zoom factors >= 1, drawn with equal probability. The literature uses
      (1.0, 1.2, 1.5).
    flip: whether to mirror half of the samples, at random.

  Returns:
    A new sample of the same keys, shapes and dtypes.
  """
  size = sample['image'].shape[:2]
  drawn = draw_change(rng, size, scales=scales, flip=flip)
  return apply_change(sample, drawn, labels=labels)


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
  sample: Sample, change: Change, *, labels: Mapping[str, Label]
) -> Sample:
  """The sample of a change, see `augment`."""
  if change.scale != 1:
    sample = zoom(sample, change.scale, change.corner, labels=labels)
  if change.mirror:
    sample = flip_horizontally(sample, labels=labels)
  return sample


def zoom(
  sample: Sample,
  scale: float,
  corner: tuple[float, float],
  *,
  labels: Mapping[str, Label],
) -> Sample:
  """Enlarges the crop [h/scale w/scale] at `corner` to the full size.

  What appears `scale` times as large is taken to be `scale` times as near:
  depth is divided by it, and disparity, an inverse depth, is *multiplied* (some
  published code divides both). The result is an image of the same scene at
  1/scale of its size, seen through a lens of `scale` times the focal length, so
  normals keep their direction. Labels, including normals, take the nearest
  pixel: interpolation would shorten normals and mix labeled with unlabeled
  pixels.

  Args:
    sample: as in `augment`.
    scale: zoom factor, >= 1.
    corner: (top, left) of the crop in pixels, may be fractional.
    labels: as in `augment`.
  """
  h, w = sample['image'].shape[:2]
  # Pixel centers: the crop's edges, not its outer pixels' centers, are mapped
  # onto the image's edges (align_corners=False).
  y = (np.arange(h) + 0.5) / scale + corner[0] - 0.5
  x = (np.arange(w) + 0.5) / scale + corner[1] - 0.5
  nearest = np.ix_(_index(np.round(y), h), _index(np.round(x), w))
  zoomed = {'image': _bilinear(sample['image'], y, x)}
  for task, label in labels.items():
    values = sample[task][nearest]
    if label.quantity == 'depth':
      values = values / np.float32(scale)
    elif label.quantity == 'disparity':
      values = values * np.float32(scale)
    zoomed[task] = values
  return zoomed


def flip_horizontally(sample: Sample, *, labels: Mapping[str, Label]) -> Sample:
  """Mirrors left and right; normals change the sign of their x."""
  flipped = {k: np.ascontiguousarray(v[:, ::-1]) for k, v in sample.items()}
  for task, label in labels.items():
    if label.quantity == 'normal':
      flipped[task] *= np.float32([-1, 1, 1])
  return flipped


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
