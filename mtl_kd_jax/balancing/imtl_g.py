"""IMTL-G: impartial learning by equal projections on all gradients."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing._gram import Gram, from_gram, shared_only
from mtl_kd_jax.balancing._solvers import solve_cosines
from mtl_kd_jax.balancing.base import GradientBalancer


def make() -> GradientBalancer:
  """sum_t w_t g_t has equal projections on all unit gradients.

  w solves G w = const |g|, with sum 1 (Liu et al. 2021). Weights can be
  negative.
  """

  def rule(gram, step, state):
    del step
    return shared_only(equal_projections(gram)), state

  return from_gram(rule)


def equal_projections(gram: Gram) -> jax.Array:
  """The weights float32 [K] of the rule; 0 for a gradient of 0."""
  alive = gram.norms > 0
  # C x = 1 in unit vectors: the shares do not depend on the norms.
  x = solve_cosines(gram.cosines, jnp.ones_like(gram.norms), alive)
  shortest = jnp.min(jnp.where(alive, gram.norms, jnp.inf))
  w = jnp.where(alive, x * (shortest / jnp.where(alive, gram.norms, 1)), 0)
  # The step would diverge where the sum of the weights is close to 0.
  total, size = jnp.sum(w), jnp.sum(jnp.abs(w))
  floor = jnp.maximum(1e-4 * size, 1e-30)
  sign = jnp.where(total < 0, -1, 1)
  return w / (sign * jnp.maximum(jnp.abs(total), floor))
