"""Uniform weights: the plain sum of the task losses, the usual baseline."""

import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Balancer


def make() -> Balancer:
  """Every weight is 1: L = sum_t L_t, a sum and not a mean (KD4MTL, w = 1)."""

  def init(names):
    del names
    return ()

  def update(losses, state, key):
    del key
    return {name: jnp.ones((), jnp.float32) for name in losses}, state

  return Balancer(init, update)
