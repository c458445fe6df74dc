"""The names of what a step measures: the only file that makes and reads them.

  loss/<task>                   loss of a task, without weight
  alignment/<task>              loss of its distillation, without lambda
  <kind>/<name>                 any other term of the loss
  loss                          the sum that the step descends on
  weight/<objective>            weight that the balancer gave
  factor/<kind>/<name>          on the weight of a term, such as lambda, where
                                it changes over a training
  norm/<objective>              length of a gradient
  cosine/<one>/<other>          of two gradients
  conflict/<one>/<other>        1 where the cosine is below 0, else 0
  gradient_norm                 length of the gradient that is descended on
  teacher/<task>                headline metric of the network of a task alone,
  baseline/<task>               and of that of all tasks, of which the better
                                one teaches
  labeled/<task>, combined      flags, 0 or 1: whether what is said of a task,
                                or of gradients, means anything in a step

An objective is a task, or 'alignment/<task>' where distillation is balanced by
itself. In the log a line has the means over several steps, and no flags.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

# The lines of metrics.jsonl.
Log = Sequence[Mapping[str, Any]]

TASK_LOSS, ALIGNMENT = 'loss', 'alignment'
TOTAL, GRADIENT_NORM, COMBINED = 'loss', 'gradient_norm', 'combined'
WEIGHT, NORM, COSINE, CONFLICT = 'weight', 'norm', 'cosine', 'conflict'
LABELED, FACTOR = 'labeled', 'factor'
# The kind of lines with norms and cosines of gradients, of single steps.
OBSERVED = 'balance'
# That of a line with what teachers were chosen from.
CHOSEN, TEACHER, BASELINE = 'teachers', 'teacher', 'baseline'

_OF_GRADIENTS = (NORM, COSINE, CONFLICT)
_OF_OBJECTIVES = (WEIGHT, *_OF_GRADIENTS)
_FLAGS = (LABELED, COMBINED)


def key(kind: str, *names: str) -> str:
  """E.g. 'cosine/depth/alignment/depth' of ('cosine', 'depth', ...)."""
  return '/'.join((kind, *names))


def alignment(task: str) -> str:
  """The alignment of a task: its term, and its objective if it is one."""
  return key(ALIGNMENT, task)


def is_alignment(objective: str) -> bool:
  """Whether an objective is an alignment, and not a task."""
  return objective.startswith(f'{ALIGNMENT}/')


def task_of(objective: str) -> str:
  """The task of an objective, e.g. 'depth' of 'alignment/depth'."""
  return objective.removeprefix(f'{ALIGNMENT}/')


def kind_of(name: str) -> str:
  """E.g. 'cosine' of 'cosine/depth/normals'."""
  return name.partition('/')[0]


def of_kind(names, kind: str) -> list[str]:
  """The names of a kind that say of what they are, sorted."""
  return sorted(n for n in names if n.startswith(f'{kind}/'))


def objectives_of(name: str) -> tuple[str, ...]:
  """E.g. ('depth', 'alignment/depth') of 'cosine/depth/alignment/depth'.

  Of 'loss/depth' and 'alignment/depth' it is the task, ('depth',).
  """
  names, words = [], iter(name.split('/')[1:])
  for word in words:
    names.append(key(word, next(words)) if word == ALIGNMENT else word)
  return tuple(names)


def mean_of_steps(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The mean of every value over the steps in which it means something.

  What is said of a task counts where the batch had a label of it, and norms and
  angles where gradients were combined and weights not reused.

  Args:
    steps: values by name, flags among them where they are known.

  Returns:
    The means by name, NaN where no step counts; no flags.
  """
  names = [n for n in steps[0] if kind_of(n) not in _FLAGS]
  return {name: _mean(name, steps) for name in names}


def _mean(name, steps):
  kind, flags = kind_of(name), []
  if kind in _OF_OBJECTIVES or (kind == TASK_LOSS and name != TOTAL):
    flags += [key(LABELED, x) for x in objectives_of(name)]
  if kind in _OF_GRADIENTS:
    flags += [COMBINED]
  counts = [math.prod(step.get(f, 1.0) for f in flags) for step in steps]
  total = sum(c * step[name] for c, step in zip(counts, steps, strict=True))
  return total / sum(counts) if sum(counts) else math.nan


def lines_of(
  log: Log, stage: str
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
  """The lines of a stage with gradients, and those with weights.

  Gradients as they were observed or, where nothing was, as a gradient method
  combined them.
  """
  own = [e for e in log if e['stage'] == stage]
  train = [e for e in own if e['kind'] == 'train']
  seen = [e for e in own if e['kind'] == OBSERVED]
  gradients = seen or [e for e in train if of_kind(e, NORM)]
  return gradients, [e for e in train if of_kind(e, WEIGHT)]
