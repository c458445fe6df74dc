"""Names of features: shared by all tasks, or one per task."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar('T')


def task_tap(tap: str, task: str) -> str:
  """Names a task-specific feature, e.g. 'decoder/depth'."""
  return f'{tap}/{task}'


def taps_of(features: Mapping[str, T], task: str) -> dict[str, T]:
  """Selects the features that a task reads, under their plain names.

  Args:
    features: name -> feature (or its shape), shared or task-specific.
    task: The task.

  Returns:
    tap -> feature: the task-specific and the shared ones. A task-specific
    'decoder/depth' replaces a shared 'decoder'.
  """
  shared = {name: x for name, x in features.items() if '/' not in name}
  suffix = task_tap('', task)
  task_specific = {
    name.removesuffix(suffix): x
    for name, x in features.items()
    if name.endswith(suffix)
  }
  return shared | task_specific
