"""Hides labels of a source, to train on partially labeled data.

Which labels a sample keeps depends on (seed, index) alone: they are the same in
every epoch, every stage of a run and every process, and the fraction of one
label does not affect the others.
"""

from collections.abc import Mapping
import dataclasses
import zlib

import numpy as np

from mtl_kd_jax.datasets.base import Sample, Source
from mtl_kd_jax.datasets.mixture import Mixed
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

ONE = 'one'
Fraction = str | float | Mapping[str, float]


def hide_labels(
  source: Source,
  *,
  labels: Mapping[str, Label],
  fraction: Fraction,
  seed: int,
) -> Source:
  """A source of the same samples, in which some labels are missing.

  Args:
    source: the samples.
    labels: name -> meaning of the label, for the labels that may be hidden.
    fraction: of the samples that keep a label, above 0 and up to 1; for all
      labels, or as {name: fraction}, which keeps every label that is not named.
      Counts are exact, rounded up. Or 'one': every sample keeps one label,
      drawn with equal probability from those that it has.
    seed: of the selection.

  Raises:
    InputError: `fraction` is none of these, or names a label that is not in
      `labels`, or hides every label of that name.
  """
  if isinstance(source, Mixed) and fraction != 1:
    raise InputError(
      expected='1 for a mixture of data sets, whose pictures have the labels '
      'of some tasks alone',
      found=repr(fraction),
      argument='fraction',
      do='leave it at 1',
    )
  if fraction == ONE:
    return _OneLabel(source, labels, seed)
  fractions = {
    name: part for name, part in _by_label(fraction, labels).items() if part < 1
  }
  if not fractions:
    return source
  count = len(source)
  kept = {}
  for name, part in fractions.items():
    # Ranks, not independent draws: counts are exact, and a larger fraction
    # keeps what a smaller one keeps.
    rank = _generator(seed, name).permutation(count)
    # 0.07 * 100 is a little more than 7.
    kept[name] = rank < np.ceil(round(part * count, 9))
  return _SomeLabels(source, labels, kept)


def _by_label(fraction, labels) -> dict[str, float]:
  if isinstance(fraction, Mapping):
    fractions = dict(fraction)
  elif isinstance(fraction, int | float):
    fractions = dict.fromkeys(labels, fraction)
  else:
    raise _bad_fraction(repr(fraction))
  for name, part in fractions.items():
    if name not in labels:
      raise InputError(
        expected=f'labels that are learned: {", ".join(labels)}',
        found=repr(name),
        argument='fraction',
        do='correct the name, or add the task to those that are learned',
      )
    if not (isinstance(part, int | float) and 0 < part <= 1):
      raise _bad_fraction(f'{part!r} for {name}')
  return fractions


def _bad_fraction(found) -> InputError:
  return InputError(
    expected="a fraction above 0 and up to 1, {'name': fraction, ...}, or "
    "'one'",
    found=found,
    argument='fraction',
    do='correct it; to hide all labels of a task, do not learn that task',
  )


@dataclasses.dataclass(frozen=True)
class _SomeLabels:
  """Keeps a label in the samples that `kept` selects; picklable."""

  source: Source
  labels: Mapping[str, Label]
  kept: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Sample:
    hidden = [name for name, kept in self.kept.items() if not kept[index]]
    return _without(self.source[index], hidden, self.labels)


@dataclasses.dataclass(frozen=True)
class _OneLabel:
  """Keeps one label of each sample; picklable."""

  source: Source
  labels: Mapping[str, Label]
  seed: int

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Sample:
    sample = self.source[index]
    # A number for each name, so that the order of the labels does not matter.
    order = sorted(
      self.labels, key=lambda name: _generator(self.seed, name, index).random()
    )
    # The first that the sample has.
    kept = next(
      (n for n in order if self.labels[n].known(sample[n]).any()), order[0]
    )
    return _without(sample, [n for n in order if n != kept], self.labels)


def _without(sample, hidden, labels) -> Sample:
  missing = {
    name: labels[name].missing(sample['image'].shape[:2]) for name in hidden
  }
  return {**sample, **missing}


def _generator(seed: int, name: str, *index: int) -> np.random.Generator:
  key = (zlib.crc32(name.encode()), *index)
  return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
