"""Shared by UPGrad and DualProj, which project onto the dual cone.

The dual cone of the gradients is the set of all d with <g_t, d> >= 0 for all t:
directions that conflict with no gradient.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing._gram import Gram
from mtl_kd_jax.balancing._vectors import Step


def coefficients(
  p: jax.Array, step: Step, preference: Mapping[str, float] | None
) -> jax.Array:
  """The preferences of present tasks, float32 [K]; 1/K without preference."""
  p = jnp.where(step.present, p, 0)
  return p if preference else p / step.count


def regularized(gram: Gram, epsilon: float) -> jax.Array:
  """G / trace(G) + epsilon I, float32 [K K]."""
  g = gram.scaled
  trace = jnp.trace(g)
  g = g / jnp.where(trace > 0, trace, 1)
  # A row of zeros would leave its weight undetermined.
  ridge = jnp.where(gram.norms > 0, epsilon, 1)
  return g + jnp.diag(ridge)
