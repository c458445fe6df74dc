"""The kinds of tasks, and tasks made of labels.

To add a kind: a file with a `KIND`, and a line in kinds.py. To add a single
task of one's own: a file named as the task, with `make(label)`; or pass a
`Task` to `Trainer`, which needs no file here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
from typing import Any

from mtl_kd_jax.errors import InputError, check_type, hint
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import classes as semantic  # noqa: F401 (earlier name)
from mtl_kd_jax.tasks.augmentation import Augmentation, View, of_images, of_maps
from mtl_kd_jax.tasks.base import Colors, Form, Kind, Metric, Task
from mtl_kd_jax.tasks.kinds import (
  KINDS,
  Description,
  find_own,
  make_task,
  parse,
  with_options,
)

__all__ = [
  'KINDS',
  'TASKS',
  'Augmentation',
  'Colors',
  'Form',
  'Kind',
  'Metric',
  'Task',
  'View',
  'make_tasks',
  'of_images',
  'of_maps',
]

# Name -> make(label), of tasks that are made otherwise than their label says.
TASKS: dict[str, Callable[[Label], Task]] = {}


def make_tasks(
  names: Iterable[str],
  labels: Mapping[str, Label],
  *,
  dataset: str,
  described: Mapping[str, Any] | None = None,
) -> dict[str, Task]:
  """Makes tasks for a dataset's labels, in the order of `names`.

  A task is made by what is `described` of it; else by the entry of `TASKS`, or
  by the file of this folder, that has its name; else by the kind that its label
  has.

  Args:
    names: of the tasks, which are those of their labels.
    labels: what the dataset labels, `Dataset.labels`.
    dataset: its name, for messages.
    described: name -> a `Task`, or a description: 'kind', its options, 'head',
      'taps'.

  Raises:
    InputError: no task, one twice, one without labels, or one that cannot be
      made as it is described; of a task's description, the argument is
      'described.<name>.<key>'.
  """
  names, described = tuple(names), described or {}
  if not names or len(set(map(str, names))) < len(names):
    raise InputError(
      expected='one or more different tasks',
      found=f'{names}',
      argument='names',
      do=f'name some of: {", ".join(labels)}',
    )
  tasks = {}
  for name in names:
    check_type(
      name,
      str,
      expected='names of tasks',
      argument='names',
      do=f'give each by itself, such as {next(iter(labels), "depth")!r}',
    )
    if '/' in name or not name:
      raise InputError(
        expected="names of tasks without '/'",
        found=repr(name),
        argument='names',
        do='give the task another name',
      )
    if name not in labels:
      raise InputError(
        expected=f'a task that {dataset} has labels for: {", ".join(labels)}',
        found=repr(name),
        argument='names',
        do=f'leave {name!r} out, or choose another dataset{hint(name, labels)}',
      )
    with _named(name):
      tasks[name] = _make(name, labels[name], described.get(name))
  return tasks


def _make(name: str, label: Label, described: Any) -> Task:
  if isinstance(described, Task):
    return dataclasses.replace(described, name=name, label=label)
  description = parse(described) if described is not None else Description()
  if not description.kind:
    if own := TASKS.get(name) or find_own(name):
      task = dataclasses.replace(own(label), name=name, label=label)
      return dataclasses.replace(task, head=description.head or task.head)
  label = with_options(name, label, description)
  return make_task(name, label, description)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
  """Errors of a description name the task, too."""
  try:
    yield
  except InputError as error:
    raise InputError(
      expected=error.expected,
      found=error.found,
      where='' if error.where == f'argument {error.argument}' else error.where,
      do=error.do,
      argument=f'described.{name}.{error.argument}',
    ) from error
