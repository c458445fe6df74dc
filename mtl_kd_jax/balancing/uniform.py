"""Weights that do not change: the plain sum of the losses, or a fixed one."""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.vectors import from_losses


def make() -> Balancer:
  """Every weight is 1: L = sum_t L_t, a sum and not a mean (KD4MTL, w = 1)."""

  def rule(step, state):
    return jnp.ones_like(step.losses), state

  return from_losses(rule)


def make_fixed(weights: Mapping[str, float] | None = None) -> Balancer:
  """L = sum_t w_t L_t.

  Args:
    weights: task -> w_t, at least 0; None for 1.

  Raises:
    InputError: a weight is negative, or (from `init`) a task has none.
  """

  def rule(step, state, w):
    return w, state

  return from_losses(*checks.with_preference(weights, 'weights', rule))
