"""IMTL-L: impartial learning by scaled losses, from losses alone."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._learned import descend, init_learned
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import Balancer


def make(learning_rate: float = 1e-4) -> Balancer:
  """Minimizes sum_t e^(s_t) L_t - s_t over s as well (Liu et al. 2021).

  The minimum has e^(s_t) L_t = 1 for all tasks.

  Args:
    learning_rate: of Adam on s, which starts at 0; the network's in the paper.

  Raises:
    InputError: a number is out of range.
  """
  return from_losses(*scaling(learning_rate))


def scaling(learning_rate: float) -> tuple[Callable, Callable]:
  """(rule, init) for `from_losses`; IMTL-H scales its losses by it too."""
  _checks.number(learning_rate, 'learning_rate', above=0)
  tx = optax.adam(learning_rate)

  def init(names):
    return init_learned(tx, jnp.zeros(len(names), jnp.float32))

  def rule(step, state):
    weights = jnp.exp(state['s'])
    gradient = jnp.where(step.present, weights * step.losses - 1, 0)
    return weights, descend(tx, gradient, state, step.present)

  return rule, init
