"""Weights that are given and do not change."""

from collections.abc import Mapping

from mtl_kd_jax.balancing._preference import with_preference
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import Balancer


def make(weights: Mapping[str, float] | None = None) -> Balancer:
  """L = sum_t w_t L_t.

  Args:
    weights: task -> w_t, at least 0; None or {} for 1.

  Raises:
    InputError: a weight is negative, all are 0, or (from `init`) a task has
      none.
  """

  def rule(step, state, w):
    del step
    return w, state

  return from_losses(*with_preference(weights, 'weights', rule))
