"""Profiles a split: reads samples without checks, and summarizes them."""

import collections
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import dataclasses
import hashlib
import math

import numpy as np

from mtl_kd_jax.datasets.base import Dataset, Source
from mtl_kd_jax.datasets.inspect.geometry import (
  horizontal_facing,
  plane_votes,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

# How far image values may be below 0 or above 1.
ROUNDING = 1e-3
_MAX_VALUES = 2000  # of each map, for the quantiles
_LENGTH_TOLERANCE = 0.01  # of unit vectors in half precision or bytes


@dataclasses.dataclass(frozen=True)
class ImageProfile:
  """Summary of one image.

  Attributes:
    size: (height, width).
    non_finite: number of NaN and infinite values.
    low, high: range of the others.
    digest: hash of the image in 8 bits.
  """

  size: tuple[int, int]
  non_finite: int
  low: float
  high: float
  digest: str


@dataclasses.dataclass(frozen=True)
class LabelProfile:
  """Summary of one label of one sample.

  Attributes:
    size: (height, width); of points, their number; () of an image.
    non_finite: number of pixels with NaN or infinite values.
    known: number of labeled pixels.
    low, high: range of their values.
    values: a part of them, float [n].
    counts: of `Label.values`, number of each that occurs -> how often.
    fractions: whether some of these are not whole numbers.
    ends: range of every channel, float [c 2]; for numbers.
    outside: number of labeled points outside of the image.
    planes: see `plane_votes`; for depth and disparity.
    wrong_length: number of vectors whose length is not 1; for normals.
    facing: see `horizontal_facing`; for normals.
  """

  size: tuple[int, int]
  non_finite: int
  known: int
  low: float
  high: float
  values: np.ndarray
  counts: Mapping[int, int] = dataclasses.field(default_factory=dict)
  fractions: bool = False
  ends: np.ndarray | None = None
  outside: int = 0
  planes: tuple[int, int] = (0, 0)
  wrong_length: int = 0
  facing: tuple[float, float] = (0.0, 0.0)

  @property
  def pixels(self) -> int:
    """Number of all pixels, or of what else is labeled."""
    return math.prod(self.size)


@dataclasses.dataclass(frozen=True)
class SplitProfile:
  """Summary of one split.

  Attributes:
    count: number of samples in the split.
    indices: of the samples that were read.
    images: profiles of the images that could be read.
    labels: label name -> profiles, of the same samples.
    errors: index -> error message, of the samples that could not be read.
    remarks: what sources remark on samples (`Source`) -> on how many.
  """

  count: int
  indices: Sequence[int]
  images: list[ImageProfile]
  labels: dict[str, list[LabelProfile]]
  errors: dict[int, str]
  remarks: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def is_complete(self) -> bool:
    """Whether all samples were read."""
    return len(self.indices) == self.count


def profile_split(
  dataset: Dataset,
  split: str,
  *,
  max_samples: int,
  progress: Callable[[], None] = lambda: None,
) -> SplitProfile:
  """Reads evenly spaced samples of a split.

  Args:
    dataset: the dataset.
    split: name of the split.
    max_samples: the largest number of samples to read; 0 for all.
    progress: called after each sample.

  Raises:
    InputError: there is no such split. Errors of its samples are collected.
  """
  source = dataset.source(split)
  indices = evenly_spaced(len(source), max_samples or len(source))
  images, labels, errors = [], {name: [] for name in dataset.labels}, {}
  remarked = collections.Counter()

  def examine(index):
    try:
      sample, remarks = _read_with_remarks(source, index)
    except InputError as error:
      return str(error)
    with np.errstate(all='ignore'):  # whatever the values are
      by_name = {
        name: _profile_label(sample[name], label, sample['image'].shape)
        for name, label in dataset.labels.items()
      }
      return _profile_image(sample['image']), by_name, remarks

  with futures.ThreadPoolExecutor(2) as pool:
    results = zip(indices, pool.map(examine, indices), strict=True)
    for index, result in results:
      progress()
      if isinstance(result, str):
        errors[index] = result
        continue
      image, by_name, remarks = result
      remarked.update(remarks)
      images.append(image)
      for name, profile in by_name.items():
        labels[name].append(profile)
  return SplitProfile(len(source), indices, images, labels, errors, remarked)


def evenly_spaced(count: int, maximum: int) -> list[int]:
  """At most `maximum` of `count` indices, including the first and the last."""
  if maximum == 1:
    return [0][:count]
  spaced = np.linspace(0, count - 1, min(maximum, count))
  return sorted({int(i) for i in spaced})


def read_unchecked(source: Source, index: int) -> Mapping[str, np.ndarray]:
  """A sample as stored, if the source can read it without checks."""
  return getattr(source, 'unchecked', source.__getitem__)(index)


def _read_with_remarks(source, index):
  if hasattr(source, 'unchecked') or not hasattr(source, 'examine'):
    return read_unchecked(source, index), ()
  return source.examine(index)


def looks_like_bytes(low: float, high: float) -> bool:
  """Whether an image of this range has values from 0 to 255, and not to 1.

  Standardized images exceed 1 too, but they have negative values.
  """
  return low >= -ROUNDING and high > 2


def _profile_image(image: np.ndarray) -> ImageProfile:
  image = image.astype(np.float64)
  finite = np.isfinite(image)
  low, high = _range(image[finite])
  scaled = image if looks_like_bytes(low, high) else image * 255.0
  in_bytes = np.rint(np.clip(np.where(finite, scaled, 0), 0, 255))
  digest = hashlib.sha1(repr(image.shape).encode())
  digest.update(in_bytes.astype(np.uint8).tobytes())
  return ImageProfile(
    size=image.shape[:2],
    non_finite=int((~finite).sum()),
    low=low,
    high=high,
    digest=digest.hexdigest(),
  )


def _profile_label(
  array: np.ndarray, label: Label, image_shape: tuple[int, ...]
) -> LabelProfile:
  known = label.known(array)
  axes = tuple(range(known.ndim, array.ndim))
  finite = np.isfinite(array).all(axes)
  non_finite = int((known & ~finite).sum())  # NaN is no label of some
  known &= finite
  values = array[known]
  if label.quantity == 'points':
    values = values[..., :2]  # x, y
  details = {}
  if label.values:
    details['counts'] = _counts(values, label)
    details['fractions'] = bool((values != np.floor(values)).any())
    if label.num_channels:  # some flags of a pixel may be missing
      values = values[values != label.missing((1, 1)).flat[0]]
  elif label.quantity in ('regression', 'image_regression') and known.any():
    rows = values.reshape(-1, values.shape[-1])
    details['ends'] = np.stack([rows.min(0), rows.max(0)], axis=-1)
  elif label.quantity == 'points':
    height, width = image_shape[:2]
    # Points are numbered like the centers of pixels.
    inside = (values > -0.5) & (values < np.array([width, height]) - 0.5)
    details['outside'] = int((~inside.all(-1)).sum())
  elif label.quantity == 'normal':
    length = np.linalg.norm(values.astype(np.float64), axis=-1)
    details['wrong_length'] = int(
      (np.abs(length - 1) > _LENGTH_TOLERANCE).sum()
    )
    details['facing'] = horizontal_facing(array, known)
  elif label.quantity in ('depth', 'disparity'):
    above = known & (array[..., 0] > 0)
    details['planes'] = plane_votes(
      array[..., 0], above, step=max(1, min(array.shape[:2]) // 16)
    )
  flat = values.reshape(-1)
  low, high = _range(flat)
  return LabelProfile(
    size=known.shape,
    non_finite=non_finite,
    known=int(known.sum()),
    low=low,
    high=high,
    values=flat[:: max(1, len(flat) // _MAX_VALUES)].astype(np.float64),
    **details,
  )


def _counts(values: np.ndarray, label: Label) -> dict[int, int]:
  """How often each of `Label.values` occurs, also of numbers that are none."""
  if label.num_channels:  # 0 or 1 of each
    counts = (values > 0).reshape(-1, label.num_channels).sum(0)
    return {i: int(n) for i, n in enumerate(counts) if n}
  ids, counts = np.unique(np.floor(values), return_counts=True)
  return dict(zip(map(int, ids), map(int, counts), strict=True))


def _range(values):
  if not values.size:
    return np.nan, np.nan
  return float(values.min()), float(values.max())
