"""Reads samples as they are, unchecked, and notes what is in them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import dataclasses
import hashlib

import numpy as np

from mtl_kd_jax.datasets.base import Dataset, Source
from mtl_kd_jax.datasets.inspect.geometry import facing, plane_votes
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

_KEPT_VALUES = 2000  # of each map, for the quantiles
_LENGTH_TOLERANCE = 0.01  # of unit vectors, stored in half precision or bytes


@dataclasses.dataclass(frozen=True)
class ImageFacts:
  """What is in one image.

  Attributes:
    size: (height, width).
    broken: number of NaN and infinite values.
    low, high: of the others.
    digest: of the picture in 8 bits; equal pictures have the same.
  """

  size: tuple[int, int]
  broken: int
  low: float
  high: float
  digest: str


@dataclasses.dataclass(frozen=True)
class LabelFacts:
  """What is in the label of one task, in one sample.

  Attributes:
    size: (height, width).
    broken: pixels with NaN or infinite values.
    known: pixels with a label.
    low, high: of their values.
    values: some of them, float [n].
    counts: class id -> pixels; for classes only.
    fractions: whether there are classes that are no whole numbers.
    planes: see `plane_votes`; for depth and disparity.
    odd: vectors whose length is not 1; for normals.
    facing: see `facing`; for normals.
  """

  size: tuple[int, int]
  broken: int
  known: int
  low: float
  high: float
  values: np.ndarray
  counts: Mapping[int, int] = dataclasses.field(default_factory=dict)
  fractions: bool = False
  planes: tuple[int, int] = (0, 0)
  odd: int = 0
  facing: tuple[float, float] = (0.0, 0.0)

  @property
  def pixels(self) -> int:
    """All pixels, with and without a label."""
    return self.size[0] * self.size[1]


@dataclasses.dataclass(frozen=True)
class SplitSurvey:
  """What was read of one split.

  Attributes:
    count: samples in the split.
    read: the indices of the samples that were read.
    images: of those that could be.
    labels: task -> the same for its labels.
    refused: index -> why a sample could not be read.
  """

  count: int
  read: Sequence[int]
  images: list[ImageFacts]
  labels: dict[str, list[LabelFacts]]
  refused: dict[int, str]

  @property
  def whole(self) -> bool:
    """Whether all samples were read."""
    return len(self.read) == self.count


def survey(
  dataset: Dataset,
  split: str,
  *,
  most: int,
  progress: Callable[[], None] = lambda: None,
) -> SplitSurvey:
  """Reads a split, or samples at even distances in it.

  Args:
    dataset: the dataset.
    split: name of the split.
    most: how many samples to read at most; 0 for all.
    progress: called after each sample.
  """
  source = dataset.source(split)
  read = spread(len(source), most or len(source))
  images, labels, refused = [], {task: [] for task in dataset.labels}, {}

  def examine(index):
    try:
      sample = read_unchecked(source, index)
    except InputError as error:
      return index, str(error), None
    facts = {t: _label(sample[t], x) for t, x in dataset.labels.items()}
    return index, _image(sample['image']), facts

  with futures.ThreadPoolExecutor(2) as pool:
    for index, image, facts in pool.map(examine, read):
      progress()
      if facts is None:
        refused[index] = image
        continue
      images.append(image)
      for task, fact in facts.items():
        labels[task].append(fact)
  return SplitSurvey(len(source), read, images, labels, refused)


def spread(count: int, most: int) -> list[int]:
  """At most `most` indices at even distances, the first and last among them."""
  if most == 1:
    return [0][:count]
  return sorted({int(i) for i in np.linspace(0, count - 1, min(most, count))})


def read_unchecked(source: Source, index: int) -> Mapping[str, np.ndarray]:
  """A sample as its files hold it, if the source can read without checking."""
  return getattr(source, 'unchecked', source.__getitem__)(index)


def _image(image: np.ndarray) -> ImageFacts:
  whole = np.isfinite(image)
  low, high = _range(image[whole])
  scaled = image if high > 2 else image * 255.0
  picture = np.rint(np.clip(np.where(whole, scaled, 0), 0, 255))
  digest = hashlib.sha1(repr(image.shape).encode())
  digest.update(picture.astype(np.uint8).tobytes())
  return ImageFacts(
    size=image.shape[:2],
    broken=int((~whole).sum()),
    low=low,
    high=high,
    digest=digest.hexdigest(),
  )


def _label(array: np.ndarray, label: Label) -> LabelFacts:
  axes = tuple(range(2, array.ndim))
  whole = np.isfinite(array).all(axes)
  known = label.known(array) & whole
  values = array[known]
  low, high = _range(values)
  facts = {}
  if label.quantity == 'class':
    ids, counts = np.unique(np.floor(values), return_counts=True)
    facts['counts'] = dict(zip(map(int, ids), map(int, counts), strict=True))
    facts['fractions'] = bool((values != np.floor(values)).any())
  elif label.quantity == 'normal':
    length = np.linalg.norm(values.astype(np.float64), axis=-1)
    facts['odd'] = int((np.abs(length - 1) > _LENGTH_TOLERANCE).sum())
    facts['facing'] = facing(array, known)
  else:
    above = known & (array[..., 0] > 0)
    facts['planes'] = plane_votes(
      array[..., 0], above, reach=max(1, min(array.shape[:2]) // 16)
    )
  flat = values.reshape(-1)
  return LabelFacts(
    size=array.shape[:2],
    broken=int((~whole).sum()),
    known=int(known.sum()),
    low=low,
    high=high,
    values=flat[:: max(1, len(flat) // _KEPT_VALUES)].astype(np.float64),
    **facts,
  )


def _range(values):
  if not values.size:
    return np.nan, np.nan
  return float(values.min()), float(values.max())
