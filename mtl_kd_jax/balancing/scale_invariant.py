"""SI: the logarithms of the losses, whose gradients do not depend on units."""

import jax.numpy as jnp

from mtl_kd_jax.balancing._vectors import SMALLEST_LOSS, from_losses
from mtl_kd_jax.balancing.base import Balancer


def make() -> Balancer:
  """L = sum_t log L_t, so w_t = 1 / L_t.

  The baseline SI of Navon et al. 2022. Losses must be positive.
  """

  def rule(step, state):
    return 1 / jnp.maximum(step.losses, SMALLEST_LOSS), state

  return from_losses(rule)
