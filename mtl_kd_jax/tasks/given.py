"""Tasks that are given as objects, in place of those that labels say."""

from collections.abc import Mapping

from mtl_kd_jax.errors import InputError, check_type, hint
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks.base import Task


def check_given(given: Mapping[str, Task], labels: Mapping[str, Label]) -> None:
  """Checks tasks of one's own, which come as an argument `tasks`.

  Args:
    given: name -> task.
    labels: those that there are; each task needs the label of its name.

  Raises:
    InputError: they are no tasks by name, or one has a name without a label.
  """
  check_type(
    given,
    Mapping,
    expected="tasks of one's own by name",
    argument='tasks',
    do="give {'depth': task}; tasks of the data need no argument",
  )
  for name, task in given.items():
    if name not in labels:
      raise InputError(
        expected=f'a name that there are labels of: {", ".join(labels)}',
        found=repr(name),
        argument='tasks',
        do=f'correct the name{hint(str(name), labels)}',
      )
    check_type(
      task,
      Task,
      expected=f'a Task for {name}',
      argument=f'tasks.{name}',
      do='make one (docs/own_tasks.md), or leave it out for that of its label',
    )
