"""What looks wrong with a dataset."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mtl_kd_jax.datasets.inspect.profile import LabelProfile
from mtl_kd_jax.labels import Label


class Defect(NamedTuple):
  """What looks wrong with a label, wherever it is.

  Attributes:
    what: was found.
    do: the likely cause, and what to do about it.
  """

  what: str
  do: str


class Finding(NamedTuple):
  """A likely defect.

  Attributes:
    where: split and label, e.g. 'train: depth'.
    what: was found.
    do: the likely cause, and what to do about it.
  """

  where: str
  what: str
  do: str


# (name of the task, profiles of its label in a split, label) -> defects. Some
# of the profiles have a known value.
Check = Callable[[str, Sequence[LabelProfile], Label], Iterator[Defect]]


def range_of(facts: Sequence[LabelProfile]) -> tuple[float, float]:
  """The lowest and the highest known value of some profiles."""
  known = [f for f in facts if f.known]
  return min(f.low for f in known), max(f.high for f in known)
