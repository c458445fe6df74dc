"""The dataset contract: labels, units, splits and the form of a sample.

A sample is a dictionary of NumPy arrays:

  image      float32 [h w 3], in [0, 1]
  <label>    the label of that name, in the form of its quantity (labels.py)

It says something of every pixel, of points, or of the image as a whole. A label
that a sample lacks is an array of missing values: all samples of a dataset have
the same keys and shapes.

The registered datasets are one way to get a `Dataset`. Any other one, made from
your own sources, is used in the same way.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

if TYPE_CHECKING:
  from mtl_kd_jax.tasks import Task

Sample = Mapping[str, np.ndarray]


class Source(Protocol):
  """Random access to the samples of one split; must be thread-safe.

  A list of samples is a source. A source may have two more methods:
  `unchecked(index)` returns the contents of its files as stored, of any dtype
  and size, where reading them validates them; dataset inspection uses it.
  `examine(index)` returns the sample and remarks on it, a tuple of sentences in
  the plural ('pictures are ...'), which checks count and print.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Sample: ...


_NAMED = ('class', 'image_class')  # the quantities of one class of several


def _no_reason(name: str) -> None:
  del name


@dataclasses.dataclass(frozen=True)
class Dataset:
  """An open dataset.

  Attributes:
    name: its name, in messages and reports.
    image_size: (height, width) of every sample, in pixels.
    labels: name -> what that label means. Each can be learned, as a task of
      that name.
    sources: split name -> function that opens it. Samples are read one at a
      time, and a split is never held in memory as a whole.
    options: what it was opened with, for the record; set by `datasets.make`.
    notes: what was found while it was opened and is no error, such as files
      that are not used; printed when it is checked.
    described: name of a label -> description of the task that learns it, where
      the data set says more than its label (docs/own_tasks.md).
    why_absent: name of a label with classes -> the likely reason that one of
      them has no pixel in a split; None if it may be so.

  Raises:
    InputError: a label is called 'image', or has fewer than two classes.
  """

  name: str
  image_size: tuple[int, int]
  labels: Mapping[str, Label]
  sources: Mapping[str, Callable[[], Source]]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()
  described: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )
  why_absent: Callable[[str], InputError | None] = _no_reason

  def __post_init__(self):
    """Checks the labels, whose names share a dictionary with images."""
    for name, label in self.labels.items():
      if label.quantity in _NAMED and len(label.classes) < 2:
        # Of one class, every prediction is right, and the loss is 0.
        raise InputError(
          expected=f'two or more classes of {name}',
          found=f'{label.classes}',
          argument='labels',
          do='name all classes, also that of everything else; pixels that '
          'belong to none are -1',
        )
    if 'image' in self.labels:
      raise InputError(
        expected='labels of other names than that of the image',
        found="'image'",
        argument='labels',
        do='rename that label',
      )

  def __repr__(self) -> str:
    """Without the sources, which may list thousands of files."""
    height, width = self.image_size
    labels = [f'{n} {x.unit}'.rstrip() for n, x in self.labels.items()]
    return (
      f'Dataset({self.name!r}, {height}x{width}: {", ".join(labels)}; splits '
      f'{", ".join(self.sources) or "none"})'
    )

  def source(self, split: str) -> Source:
    """Opens a split; raises InputError if the dataset does not have it."""
    if split not in self.sources:
      raise InputError(
        expected=f'a split of {self.name}: {", ".join(self.sources)}',
        found=repr(split),
        argument='split',
        do='name one of those splits',
      )
    return self.sources[split]()

  def tasks(self, *names: str) -> 'dict[str, Task]':
    """Makes the tasks that learn this dataset's labels.

    Args:
      *names: of labels; none for all.

    Returns:
      name -> task, in the order of `names`.

    Raises:
      InputError: a task is named twice, or has no labels here.
    """
    # Imported here because tasks need JAX and reading data does not.
    from mtl_kd_jax.tasks import make_tasks

    return make_tasks(
      names or tuple(self.labels),
      self.labels,
      dataset=self.name,
      described=self.described,
    )

  def missing_sample(self) -> Sample:
    """A black image without labels, which pads the last batch of a split."""
    image = np.zeros((*self.image_size, 3), np.float32)
    labels = {
      name: label.missing(self.image_size)
      for name, label in self.labels.items()
    }
    return {'image': image, **labels}
