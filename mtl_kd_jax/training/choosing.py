"""Teachers that are chosen: for every task the better one of two networks.

Where sharing helps, the network of all tasks overtakes those of single tasks,
and a student that imitates the latter is held back. There the network of all
tasks teaches (born-again networks, Clark et al. 2019, arXiv 1907.04829). Which
one is better is measured once, before the first step, on the split that
checkpoints are chosen on.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.features import taps_of
from mtl_kd_jax.models.network import FeatureShapes, Network
from mtl_kd_jax.tasks.base import Task
from mtl_kd_jax.training.adaptation import (
  BASELINE,
  check_baseline,
  check_held_out,
)
from mtl_kd_jax.training.evaluation import Metrics

CHOICES = ('single_task', 'best')


def needs_baseline(adapt: str, choose: str) -> bool:
  """Whether lambda follows the baseline, or it may teach."""
  return BASELINE in adapt or choose == 'best'


class Contest(NamedTuple):
  """What two networks scored in a task, by its headline metric.

  Attributes:
    teacher: of the network of this task alone.
    baseline: of the network of all tasks.
    baseline_wins: whether that one is better, and teaches.
  """

  teacher: float
  baseline: float
  baseline_wins: bool


def check_choice(
  choose: str,
  *,
  held_out: bool,
  baseline: Network | None,
  teachers: Mapping[str, Network],
  features: Callable[[Network], FeatureShapes],
) -> bool:
  """Checks that teachers can be chosen as asked.

  Args:
    choose: of `CHOICES`.
    held_out: whether checkpoints are chosen on another split than the one that
      is reported.
    baseline: the network of all tasks; None if there is none.
    teachers: task -> its network of that task alone.
    features: from a network to its shapes.

  Returns:
    Whether there is a choice.

  Raises:
    InputError: unknown, nothing to compare networks on, or networks of another
      kind than the baseline.
  """
  if choose not in CHOICES:
    raise InputError(
      expected=f'one of {", ".join(CHOICES)}',
      found=repr(choose),
      argument='choose',
      do="'single_task' is the paper's",
    )
  if choose == 'single_task':
    return False
  check_held_out(held_out, choose, argument='choose')
  check_baseline(baseline)
  shared = features(baseline)
  for task, network in teachers.items():
    alone = features(network)
    if (
      task not in baseline.channels
      or part_of(shared.variables, alone.variables) is None
      # With other strides, the same parameters are another network.
      or taps_of(alone.all, task) != taps_of(shared.all, task)
    ):
      raise InputError(
        expected=f'a teacher of {task} of the same kind as the baseline, which '
        'may take its place',
        found='another backbone, head, width or output stride',
        argument='choose',
        do="leave teacher.model as the student's, or choose 'single_task'",
      )
  return True


def part_of(variables: Any, wanted: Any) -> Any:
  """The part of a network's variables that another one has.

  Args:
    variables: of a network of several tasks.
    wanted: of a network of some of them, or their shapes.

  Returns:
    A tree like `wanted`; None where something of it is missing, or has another
    shape.
  """
  if isinstance(wanted, Mapping):
    if not isinstance(variables, Mapping):
      return None
    parts = {k: part_of(variables.get(k), x) for k, x in wanted.items()}
    return None if any(x is None for x in parts.values()) else parts
  if variables is None or isinstance(variables, Mapping):
    return None
  return variables if variables.shape == wanted.shape else None


def contests(
  baseline: Metrics,
  teachers: Mapping[str, Metrics],
  tasks: Mapping[str, Task],
) -> dict[str, Contest]:
  """Which network is better in each task; without scores, that of the task.

  Args:
    baseline: metrics of the network of all tasks.
    teachers: task -> metrics of the network of that task alone.
    tasks: the tasks; their headline metrics are compared.
  """
  found = {}
  for task, metrics in teachers.items():
    headline = tasks[task].headline
    ours = metrics.get(task, {}).get(headline, math.nan)
    theirs = baseline.get(task, {}).get(headline, math.nan)
    sign = 1 if tasks[task].higher_is_better else -1
    found[task] = Contest(ours, theirs, sign * theirs > sign * ours)
  return found
