"""Options that give every task a number: weights, preferences, leaks.

They are mappings from task to number. None and {} both stand for the same
default for all tasks, since a config holds {} where Python has None.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._vectors import Step
from mtl_kd_jax.errors import InputError


def check_preference(by_task: Mapping[str, float] | None, name: str) -> None:
  """Checks the values of such an option.

  Raises:
    InputError: a value is negative or not a number, all are 0, or there is no
      mapping.
  """
  for task, value in _checks.by_task(by_task, name).items():
    _checks.number(value, f'{name}.{task}', at_least=0)
  if by_task and not any(by_task.values()):
    raise InputError(
      expected='a value above 0 for some task',
      found='only zeros',
      argument=name,
      do='give the tasks that matter a value above 0',
    )


def preference_vector(
  by_task: Mapping[str, float] | None, names: Sequence[str], name: str
) -> jax.Array:
  """The values float32 [K] in the order of the names; ones for None or {}.

  Raises:
    InputError: a task has none.
  """
  if not by_task:
    return jnp.ones(len(names), jnp.float32)
  missing = sorted(set(names) - set(by_task))
  if missing:
    raise InputError(
      expected='a value for every task',
      found=f'none for {", ".join(missing)}',
      argument=name,
      do=f'add {", ".join(missing)} to {name}',
    )
  return jnp.array([by_task[t] for t in sorted(names)], jnp.float32)


def coefficients(
  p: jax.Array, step: Step, by_task: Mapping[str, float] | None
) -> jax.Array:
  """The preferences p [K] of the present tasks; 1/K for None or {}."""
  p = jnp.where(step.present, p, 0)
  return p if by_task else p / step.count


def with_preference(
  by_task: Mapping[str, float] | None, name: str, rule: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Binds the option to a stateless rule, and checks it in `make` and `init`.

  Args:
    by_task: the option.
    name: of the option.
    rule: (..., Step, state, preferences [K]) -> what a rule returns.

  Returns:
    (rule, init) for `from_losses` or `from_gram`.

  Raises:
    InputError: as `check_preference`.
  """
  check_preference(by_task, name)

  def init(names):
    preference_vector(by_task, names, name)
    return ()

  def bound(*args):
    *_, step, _ = args
    return rule(*args, preference_vector(by_task, step.names, name))

  return bound, init
