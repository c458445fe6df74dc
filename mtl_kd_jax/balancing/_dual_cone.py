"""Shared by UPGrad and DualProj, which project onto the dual cone.

The dual cone of the gradients is the set of all d with <g_t, d> >= 0 for all t:
directions that conflict with no gradient.
"""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing._gram import Gram


def regularized(gram: Gram, epsilon: float) -> jax.Array:
  """G / trace(G) + epsilon I, float32 [K K]."""
  g = gram.scaled
  trace = jnp.trace(g)
  g = g / jnp.where(trace > 0, trace, 1)
  # A row of zeros would leave its weight undetermined.
  ridge = jnp.where(gram.norms > 0, epsilon, 1)
  return g + jnp.diag(ridge)
