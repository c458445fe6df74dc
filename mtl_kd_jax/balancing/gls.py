"""GLS: the geometric mean of the losses, which does not depend on units."""

import jax.numpy as jnp

from mtl_kd_jax.balancing._vectors import (
  SMALLEST_LOSS,
  from_losses,
  masked_mean,
)
from mtl_kd_jax.balancing.base import Balancer


def make() -> Balancer:
  """L = (prod_t L_t)^(1/K), so w_t = L / (K L_t).

  Geometric loss strategy, Chennupati et al. 2019. Losses must be positive.
  """

  def rule(step, state):
    logs = jnp.log(jnp.maximum(step.losses, SMALLEST_LOSS))
    mean = masked_mean(logs, step.present)
    return jnp.exp(mean - logs) / step.count, state

  return from_losses(rule)
