"""Several datasets as one: each has pictures of its own, and labels of its own.

    road    photos with masks of the road
    depth   other photos, with depth

A picture has the labels of its dataset, and lacks those of the others, as in
partially labeled data: a task learns from its own pictures, while teachers say
something of all. Datasets may label the same kind of thing in different domains
(day and night) as tasks of different names.

Every training batch has pictures of all of them, by a rate; a small dataset
begins anew while a large one is still read. An epoch has as many samples as all
datasets together.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets import resize
from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks.augmentation import View
from mtl_kd_jax.tasks.kinds import augmentation_of


class Part(NamedTuple):
  """One of the datasets.

  Attributes:
    dataset: it.
    labels: task -> the label of the dataset that it learns.
    rate: its share of a batch, relative to those of the others.
  """

  dataset: Dataset
  labels: Mapping[str, str]
  rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Subset:
  """Some samples of a source; picklable.

  Attributes:
    source: all samples.
    indices: of those that are meant, int [n].
  """

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


class Mixed:
  """The samples of one split of all parts; picklable."""

  def __init__(self, parts: Sequence[Source], rates: Sequence[float]):
    """Takes the sources of the parts, one after another.

    Args:
      parts: sources whose samples have the same keys and shapes.
      rates: of the parts; they need not sum to 1.
    """
    self.parts, self.rates = tuple(parts), tuple(rates)
    self._ends = np.cumsum([len(part) for part in parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Sample:
    part, index = self._find(index)
    return part[index]

  def examine(self, index: int) -> tuple[Sample, tuple[str, ...]]:
    """As that of the source it is from."""
    part, index = self._find(index)
    return part.examine(index)

  def subset(self, chosen: np.ndarray) -> 'Mixed':
    """Some samples of every part.

    Args:
      chosen: bool [n], of all samples.

    Raises:
      InputError: a part would have none.
    """
    begins = [0, *self._ends[:-1]]
    parts = [
      Subset(part, np.flatnonzero(chosen[begin:end]))
      for part, begin, end in zip(self.parts, begins, self._ends, strict=True)
    ]
    if not all(map(len, parts)):
      raise InputError(
        expected='samples of every data set',
        found=f'none of number {[*map(len, parts)].index(0) + 1}, of which '
        f'there are {min(map(len, self.parts))}',
        argument='fraction',
        do='choose another fraction, or add samples to it',
      )
    return Mixed(parts, self.rates)

  def _find(self, index):
    if not -len(self) <= index < len(self):
      raise IndexError(index)
    index %= len(self)
    part = int(np.searchsorted(self._ends, index, side='right'))
    return self.parts[part], index - int(self._ends[part - 1] if part else 0)


def mix(
  parts: Mapping[str, Part], *, image_size: tuple[int, int] | None = None
) -> Dataset:
  """Mixes datasets.

  Args:
    parts: name -> dataset, with what is taken of it.
    image_size: (height, width) in pixels that all are brought to; None if they
      have the same.

  Returns:
    A dataset of all labels, under the names of the tasks that learn them, with
    the splits that any of them has. A split that one of them lacks is an error
    when it is opened.

  Raises:
    InputError: two datasets describe a label differently, one has no label of
      that name or none at all, sizes differ, or rates are none.
  """
  _check_rates(parts)
  size = image_size or _common_size(parts)
  labels: dict[str, Label] = {}
  for name, part in parts.items():
    for task, label in _labels(name, part).items():
      if labels.setdefault(task, label) != label:
        raise InputError(
          expected=f'one meaning of {task}',
          found=f'{labels[task]} and, in {name!r}, {label}',
          argument=f'{name}.labels',
          do='let one of them learn it under another name',
        )
  splits = dict.fromkeys(s for p in parts.values() for s in p.dataset.sources)
  described = {
    task: part.dataset.described[label]
    for part in parts.values()
    for task, label in part.labels.items()
    if label in part.dataset.described
  }
  return Dataset(
    name=' + '.join(parts),
    image_size=size,
    labels=labels,
    sources={
      split: functools.partial(_open, parts, split, labels, size)
      for split in splits
    },
    notes=tuple(
      f'{name}: {note}'
      for name, part in parts.items()
      for note in part.dataset.notes
    ),
    described=described,
    why_absent=functools.partial(_why_absent, parts),
  )


def _check_rates(parts: Mapping[str, Part]) -> None:
  rates = [part.rate for part in parts.values()]
  for name, rate in zip(parts, rates, strict=True):
    if not (0 <= rate < math.inf):
      raise _bad_rate(f'{name}.rate', f'{rate!r}')
  if not sum(rates) > 0:
    raise _bad_rate('rate', 'only 0')
  if idle := [name for name, part in parts.items() if not part.rate]:
    raise _bad_rate(f'{idle[0]}.rate', '0')


def _bad_rate(argument: str, found: str) -> InputError:
  return InputError(
    expected='rates above 0, the shares of a batch relative to each other',
    found=found,
    argument=argument,
    do='correct it, or leave the data set out',
  )


def _common_size(parts: Mapping[str, Part]) -> tuple[int, int]:
  sizes = {name: tuple(p.dataset.image_size) for name, p in parts.items()}
  if len(set(sizes.values())) > 1:
    listed = ', '.join(f'{n} {h} x {w}' for n, (h, w) in sizes.items())
    raise InputError(
      expected='data sets whose pictures have one size, or the size that all '
      'are to be brought to',
      found=f'{listed} (height x width)',
      argument='image_size',
      do='say the size',
    )
  return next(iter(sizes.values()))


def _labels(name: str, part: Part) -> dict[str, Label]:
  known = part.dataset.labels
  if not part.labels:
    raise InputError(
      expected=f'tasks that learn the labels of {name}: {", ".join(known)}',
      found='none',
      argument=f'{name}.labels',
      do="name them: {'task': 'label'}",
    )
  for label in part.labels.values():
    if label not in known:
      raise InputError(
        expected=f'labels of {name}: {", ".join(known)}',
        found=repr(label),
        argument=f'{name}.labels',
        do='name some of those',
      )
  return {task: known[label] for task, label in part.labels.items()}


def _open(
  parts: Mapping[str, Part],
  split: str,
  labels: Mapping[str, Label],
  size: tuple[int, int],
) -> Mixed:
  sources = []
  for name, part in parts.items():
    if split not in part.dataset.sources:
      raise _no_split(name, part.dataset, split, 'no such split')
    source = part.dataset.source(split)
    if not len(source):
      raise _no_split(name, part.dataset, split, 'no picture in it')
    sources.append(_Adapted(source, part.labels, labels, size))
  return Mixed(sources, [part.rate for part in parts.values()])


def _no_split(name, dataset, split, found) -> InputError:
  return InputError(
    expected=f'pictures in the split {split!r} of every data set',
    found=f'{found} in {name}, which has {", ".join(dataset.sources)}',
    argument='split',
    do='add some, or hold a share of the training split out (val_fraction)',
  )


def _why_absent(parts: Mapping[str, Part], task: str) -> InputError | None:
  for part in parts.values():
    if task in part.labels:
      return part.dataset.why_absent(part.labels[task])
  return None


@dataclasses.dataclass(frozen=True)
class _Adapted:
  """A source whose samples have the labels of all tasks; picklable.

  Attributes:
    source: of one dataset.
    names: task -> its label in there.
    labels: task -> label, of all tasks.
    size: (height, width) of the samples.
  """

  source: Source
  names: Mapping[str, str]
  labels: Mapping[str, Label]
  size: tuple[int, int]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Sample:
    return self._adapted(self.source[index])

  def examine(self, index: int) -> tuple[Sample, tuple[str, ...]]:
    """As that of the source, if it has one."""
    examine: Callable | None = getattr(self.source, 'examine', None)
    if examine is None:
      return self[index], ()
    sample, remarks = examine(index)
    return self._adapted(sample), remarks

  def _adapted(self, sample: Sample) -> Sample:
    labels = {
      task: sample[self.names[task]]
      if task in self.names
      else label.missing(self.size)
      for task, label in self.labels.items()
    }
    image = sample['image']
    if image.shape[:2] != self.size:
      view = _view_of_all(image.shape[:2], self.size)
      image = resize.area(image, self.size)
      for task in self.names:
        rule = augmentation_of(self.labels[task])
        labels[task] = rule.resize(labels[task], view, self.labels[task])
    return {'image': image, **labels}


def _view_of_all(old: tuple[int, int], new: tuple[int, int]) -> View:
  rows, columns = resize.nearest_indices(old, new)
  return View(rows, columns, (new[0] / old[0], new[1] / old[1]))
