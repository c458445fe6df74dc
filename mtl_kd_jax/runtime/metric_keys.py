"""What one line of the log says of several steps, and how its keys are read.

Keys are 'loss/<task>', 'alignment/<task>', and of objectives 'weight/<one>',
'norm/<one>', 'cosine/<one>/<other>' and 'conflict/<one>/<other>', where an
objective is a task or 'alignment/<task>'. 'labeled/<task>' and 'combined' say
whether the others mean anything in a step, and are not logged.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

# The kind of lines with norms and cosines of gradients, of single steps.
OBSERVED = 'balance'
_OF_TASKS = ('loss', 'weight', 'norm', 'cosine', 'conflict')
_OF_GRADIENTS = ('norm', 'cosine', 'conflict')
_FLAGS = ('labeled', 'combined')


def objectives_of(key: str) -> tuple[str, ...]:
  """E.g. ('depth', 'alignment/depth') of 'cosine/depth/alignment/depth'."""
  names, parts = [], iter(key.split('/')[1:])
  for part in parts:
    names.append(f'{part}/{next(parts)}' if part == 'alignment' else part)
  return tuple(names)


def lines_of(log: Sequence[Mapping[str, Any]], stage: str) -> tuple[list, list]:
  """The lines of a stage with gradients, and those with weights."""
  own = [e for e in log if e['stage'] == stage]
  train = [e for e in own if e['kind'] == 'train']
  seen = [e for e in own if e['kind'] == OBSERVED]
  weights = [e for e in train if any(k.startswith('weight/') for k in e)]
  return seen or [
    e for e in train if any(k.startswith('norm/') for k in e)
  ], weights


def mean_of_steps(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The mean of every value over the steps in which it means something.

  What is said of a task counts where the batch had a label of it, and norms and
  angles where gradients were combined and weights not reused.

  Args:
    steps: values by name, flags among them where they are known.

  Returns:
    The means by name, NaN where no step counts; no flags.
  """
  return {
    name: _mean(name, steps)
    for name in steps[0]
    if name.split('/')[0] not in _FLAGS
  }


def _mean(name, steps):
  kind = name.split('/')[0]
  flags = []
  if kind in _OF_TASKS:
    flags += [f'labeled/{x}' for x in objectives_of(name)]
  if kind in _OF_GRADIENTS:
    flags += ['combined']
  counts = [math.prod(step.get(f, 1.0) for f in flags) for step in steps]
  total = sum(c * step[name] for c, step in zip(counts, steps, strict=True))
  return total / sum(counts) if sum(counts) else math.nan
