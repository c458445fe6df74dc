"""The dataset contract: what a dataset holds, in which unit, and where not.

A sample is a dictionary of NumPy arrays:

  image      float32 [h w 3], in [0, 1]
  <task>     the label of that task, in the form of its quantity (labels.py)

A task that has no label in a sample has an array of missing pixels: samples of
one dataset always have the same keys and shapes.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Protocol

import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

Sample = Mapping[str, np.ndarray]


class Source(Protocol):
  """Random access to the samples of one split; safe to call from threads.

  A source that checks its files may also have `unchecked(index)`, which gives
  what they hold as it is, in any dtype and size; for the data doctor.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Sample: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One dataset, opened.

  Attributes:
    name: as in the registry and in `config.data.name`.
    image_size: (height, width) of every sample, in pixels.
    labels: task name -> what its label means.
    sources: split name -> function that opens it. Samples are read from disk
      one at a time and never held as a whole.
  """

  name: str
  image_size: tuple[int, int]
  labels: Mapping[str, Label]
  sources: Mapping[str, Callable[[], Source]]

  def source(self, split: str) -> Source:
    """Opens a split; raises InputError when the dataset has none so named."""
    if split not in self.sources:
      raise InputError(
        expected=f'a split of {self.name}: {", ".join(self.sources)}',
        found=repr(split),
        where='config.data.{train_split,eval_split,select_split} or --split',
        do='name one of those splits',
      )
    return self.sources[split]()

  def missing_sample(self) -> Sample:
    """A black image without any label: fills up the last batch of a split."""
    image = np.zeros((*self.image_size, 3), np.float32)
    labels = {
      task: label.missing(self.image_size)
      for task, label in self.labels.items()
    }
    return {'image': image, **labels}
