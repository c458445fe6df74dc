"""Hides labels of a source, so that its samples are labeled in part.

What a sample keeps depends on (seed, index) alone: it is the same in every
epoch, in every stage of a run and in every process, and another task's share
does not change it.
"""

from collections.abc import Mapping
import dataclasses
import zlib

import numpy as np

from mtl_kd_jax.datasets.base import Sample, Source
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

ONE = 'one'
Keep = str | float | Mapping[str, float]

_WHERE = 'config.data.keep_labels'


def hide_labels(
  source: Source, *, labels: Mapping[str, Label], keep: Keep, seed: int
) -> Source:
  """A source of the same samples, in which some labels are missing.

  Args:
    source: the samples.
    labels: task -> meaning of its label, for the tasks that may lose labels.
    keep: the share of samples that keep their label, 0 to 1, for all tasks or
      as {task: share}, where a task that is not named keeps all; the numbers
      are exact, rounded up. Or 'one': every sample keeps the label of one task,
      drawn with equal chance among those that have any in it.
    seed: of the draw.

  Raises:
    InputError: `keep` is none of these, or names a task that is not in `labels`
      or leaves a task without any label.
  """
  if keep == ONE:
    return _OneLabel(source, labels, seed)
  shares = {
    task: share for task, share in _shares(keep, labels).items() if share < 1
  }
  if not shares:
    return source
  count = len(source)
  kept = {}
  for task, share in shares.items():
    # Ranks, not coins: a share is exact, and a larger one adds samples only.
    rank = _generator(seed, task).permutation(count)
    kept[task] = rank < np.ceil(share * count)
  return _SomeLabels(source, labels, kept)


def _shares(keep, labels) -> dict[str, float]:
  if isinstance(keep, Mapping):
    shares = dict(keep)
  elif isinstance(keep, int | float):
    shares = dict.fromkeys(labels, keep)
  else:
    raise _bad(repr(keep))
  for task, share in shares.items():
    if task not in labels:
      raise InputError(
        expected=f'tasks that are learned: {", ".join(labels)}',
        found=repr(task),
        where=_WHERE,
        do='correct the name, or add the task to config.tasks',
      )
    if not (isinstance(share, int | float) and 0 < share <= 1):
      raise _bad(f'{share!r} for {task}')
  return shares


def _bad(found) -> InputError:
  return InputError(
    expected="a share above 0 and up to 1, {'task': share, ...}, or 'one'",
    found=found,
    where=_WHERE,
    do='correct it; to learn without a task, leave it out of config.tasks',
  )


@dataclasses.dataclass(frozen=True)
class _SomeLabels:
  """Keeps a task's label where `kept` says so; picklable."""

  source: Source
  labels: Mapping[str, Label]
  kept: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Sample:
    hidden = [task for task, kept in self.kept.items() if not kept[index]]
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
    # A number for each task, so that the order of tasks does not matter.
    order = sorted(
      self.labels, key=lambda t: _generator(self.seed, t, index).random()
    )
    # Where a frame lacks labels of its own, one of the others.
    first = next(
      (t for t in order if self.labels[t].known(sample[t]).any()), order[0]
    )
    return _without(sample, [t for t in order if t != first], self.labels)


def _without(sample, tasks, labels) -> Sample:
  missing = {
    task: labels[task].missing(sample['image'].shape[:2]) for task in tasks
  }
  return {**sample, **missing}


def _generator(seed: int, task: str, *index: int) -> np.random.Generator:
  key = (zlib.crc32(task.encode()), *index)
  return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
