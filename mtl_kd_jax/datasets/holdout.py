"""Holds out a random part of a split as a split of its own."""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.errors import InputError

HELD_OUT = 'held_out'


def hold_out(
  dataset: Dataset, split: str, *, fraction: float, seed: int
) -> Dataset:
  """Moves a random part of a split to a new split, 'held_out'.

  Args:
    dataset: the dataset.
    split: the split to divide, e.g. 'train'.
    fraction: the part to hold out, above 0 and below 1; at least one sample.
    seed: selects the samples; both parts keep the order of the split.

  Returns:
    The same dataset with the smaller split and the new one.

  Raises:
    InputError: there is no such split, or no samples would remain in it.
  """
  count = len(dataset.source(split))
  valid = 0 < fraction < 1
  held = max(1, round(fraction * count)) if valid else count
  if held >= count:
    raise InputError(
      expected='a fraction that leaves samples to train on',
      found=f'{fraction} of the {count} samples of {split!r}',
      argument='fraction',
      do='choose a smaller fraction, or a larger split',
    )
  ranks = np.random.default_rng((seed, count)).permutation(count)
  sources = dict(dataset.sources)
  opened = sources[split]
  sources[split] = functools.partial(_open, opened, ranks >= held)
  sources[HELD_OUT] = functools.partial(_open, opened, ranks < held)
  return dataclasses.replace(dataset, sources=sources)


def _open(opened: Callable[[], Source], chosen: np.ndarray) -> '_Subset':
  return _Subset(opened(), np.flatnonzero(chosen))


@dataclasses.dataclass(frozen=True)
class _Subset:
  """Some samples of a source; picklable."""

  source: Source
  indices: np.ndarray

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Sample:
    return self.source[int(self.indices[index])]

  def examine(self, index: int) -> tuple[Sample, tuple[str, ...]]:
    """As that of the source, if it has one."""
    if not hasattr(self.source, 'examine'):
      return self[index], ()
    return self.source.examine(int(self.indices[index]))
