"""Losses that do not ask for units: their geometric mean, their logarithms."""

import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.vectors import SMALLEST_LOSS, from_losses, masked_mean


def make_gls() -> Balancer:
  """L = (prod_t L_t)^(1/K), so w_t = L / (K L_t).

  Geometric loss strategy, Chennupati et al. 2019. Losses must be positive.
  """

  def rule(step, state):
    logs = jnp.log(jnp.maximum(step.losses, SMALLEST_LOSS))
    mean = masked_mean(logs, step.present)
    return jnp.exp(mean - logs) / step.count, state

  return from_losses(rule)


def make_scale_invariant() -> Balancer:
  """L = sum_t log L_t, so w_t = 1 / L_t.

  The baseline SI of Navon et al. 2022. Losses must be positive.
  """

  def rule(step, state):
    return 1 / jnp.maximum(step.losses, SMALLEST_LOSS), state

  return from_losses(rule)
