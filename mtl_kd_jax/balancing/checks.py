"""Checks of the options that the balancers are made with."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax.numpy as jnp

from mtl_kd_jax.errors import InputError


def number(
  value: float,
  name: str,
  *,
  above: float | None = None,
  least: float | None = None,
  below: float | None = None,
  most: float | None = None,
) -> None:
  """Checks that an option is a finite number within bounds.

  Raises:
    InputError: it is not.
  """
  bounds = [
    (above, 'above', lambda x, y: x > y),
    (least, 'at least', lambda x, y: x >= y),
    (below, 'below', lambda x, y: x < y),
    (most, 'at most', lambda x, y: x <= y),
  ]
  bounds = [b for b in bounds if b[0] is not None]
  wanted = ' and '.join(f'{words} {bound}' for bound, words, _ in bounds)
  good = isinstance(value, int | float) and math.isfinite(value)
  if not good or not all(holds(value, bound) for bound, _, holds in bounds):
    raise InputError(
      expected=f'a number {wanted}'.strip(),
      found=repr(value),
      where=f'option {name} of the balancer',
      do='correct it',
    )


def choice(value: Any, name: str, choices: Sequence[Any]) -> None:
  """Checks that an option is one of those there are; raises InputError."""
  if value not in choices:
    raise InputError(
      expected=f'one of {", ".join(map(str, choices))}',
      found=repr(value),
      where=f'option {name} of the balancer',
      do='correct it',
    )


def preference(by_task: Mapping[str, float] | None, name: str) -> None:
  """Checks weights by task that are not to be learned; None for none.

  Raises:
    InputError: a weight is negative or not a number, or all are 0.
  """
  if not by_task:
    return
  for task, value in by_task.items():
    number(value, f'{name}.{task}', least=0)
  if not any(by_task.values()):
    raise InputError(
      expected='a weight above 0 for some task',
      found='only zeros',
      where=f'option {name} of the balancer',
      do='give the tasks that matter a weight',
    )


def preference_vector(by_task, names, name: str):
  """The preferences [K] in the order of the names; ones for None or {}.

  Raises:
    InputError: a task has none.
  """
  if not by_task:
    return jnp.ones(len(names), jnp.float32)
  missing = sorted(set(names) - set(by_task))
  if missing:
    raise InputError(
      expected='a weight for every task',
      found=f'none for {", ".join(missing)}',
      where=f'option {name} of the balancer',
      do='add it',
    )
  return jnp.array([by_task[t] for t in sorted(names)], jnp.float32)


def with_preference(by_task, name: str, rule):
  """Gives a rule the preferences as a last argument, checked at the start.

  Args:
    by_task: the preferences, or None.
    name: of the option.
    rule: (..., preferences [K]) -> what a rule returns.

  Returns:
    (rule, init) for the adapters; the rule has no state.
  """
  preference(by_task, name)

  def start(names):
    preference_vector(by_task, names, name)
    return ()

  def whole(*args):
    step = args[-2]
    return rule(*args, preference_vector(by_task, step.names, name))

  return whole, start


def needed(value: Any, names: Sequence[str], what: str = 'gradients') -> Any:
  """Returns what a rule cannot do without; raises InputError for None."""
  if value is None:
    raise InputError(
      expected=f'the {what}, for this balancer',
      found='None',
      where=f'the balancer of {", ".join(sorted(names))}',
      do=f'give it {what}=...',
    )
  return value
