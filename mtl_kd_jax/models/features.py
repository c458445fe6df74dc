"""Names of features: shared by all tasks, or one per task."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar('T')


def task_tap(tap: str, task: str) -> str:
  """The name of a feature that a task has for itself, e.g. 'decoder/depth'."""
  return f'{tap}/{task}'


def taps_of(features: Mapping[str, T], task: str) -> dict[str, T]:
  """What a task sees: its own features and the shared ones, by plain names.

  Args:
    features: name -> feature (or its shape); 'decoder/depth' is depth's own
      'decoder', and comes before a shared feature of that name.
    task: the task.
  """
  shared = {name: x for name, x in features.items() if '/' not in name}
  ending = task_tap('', task)
  own = {
    name.removesuffix(ending): x
    for name, x in features.items()
    if name.endswith(ending)
  }
  return shared | own
