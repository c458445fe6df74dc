"""Holds out a random part of a split as a split of its own."""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from mtl_kd_jax.datasets.base import Dataset, Source
from mtl_kd_jax.datasets.mixture import Mixed, Subset
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


def _open(opened: Callable[[], Source], chosen: np.ndarray) -> Source:
  source = opened()
  if isinstance(source, Mixed):
    return source.subset(chosen)
  return Subset(source, np.flatnonzero(chosen))
