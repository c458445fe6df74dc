"""The tasks, by name. To add one: a file with `make(label)`, a line here."""

from collections.abc import Iterable, Mapping
import dataclasses

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import depth, normals, semantic
from mtl_kd_jax.tasks.base import Metric, Task

__all__ = ['TASKS', 'Metric', 'Task', 'make_tasks']

TASKS = {
  'semantic': semantic.make,
  'depth': depth.make,
  'normals': normals.make,
}


def make_tasks(
  names: Iterable[str], labels: Mapping[str, Label], *, dataset: str
) -> dict[str, Task]:
  """Makes the named tasks for a dataset's labels, in the order of `names`.

  Args:
    names: task names, keys of `TASKS`.
    labels: what the dataset labels, `Dataset.labels`.
    dataset: its name, for messages.

  Raises:
    InputError: no task, an unknown one, one twice, or one without labels.
  """
  names = tuple(names)
  if not names or len(set(names)) < len(names):
    raise InputError(
      expected='one or more different tasks',
      found=f'{names}',
      argument='names',
      do=f'name some of: {", ".join(TASKS)}',
    )
  for name in names:
    if name not in TASKS:
      raise InputError(
        expected=f'a known task: {", ".join(TASKS)}',
        found=repr(name),
        argument='names',
        do='correct the name, or add the task (docs/extending.md)',
      )
    if name not in labels:
      raise InputError(
        expected=f'a task that {dataset} has labels for: {", ".join(labels)}',
        found=repr(name),
        argument='names',
        do=f'leave {name!r} out, or choose another dataset',
      )
  return {
    name: dataclasses.replace(TASKS[name](labels[name]), label=labels[name])
    for name in names
  }
