"""Projections onto the dual cone: directions that conflict with no gradient.

The dual cone of the gradients holds every d with <g_t, d> >= 0 for all t.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import from_gram, plain
from mtl_kd_jax.balancing.solvers import nonnegative_qp


def make_upgrad(
  epsilon: float = 1e-4, preference: Mapping[str, float] | None = None
) -> GradientBalancer:
  """Projects every gradient onto the dual cone, and takes the mean.

  The projection of p_i g_i is sum_t v_t g_t with v = argmin v^T G v, v >= p_i
  e_i (Quinton & Rey 2024, prop. 1).

  Args:
    epsilon: what is solved with is G / trace(G) + epsilon I, as in TorchJD. 0
      projects exactly; above 0 the result conflicts slightly with gradients
      that are more than 1 / sqrt(epsilon) times shorter than the longest.
    preference: task -> p_t; None for 1/K.

  Raises:
    InputError: epsilon is out of range, or a task has no preference.
  """
  checks.number(epsilon, 'epsilon', least=0)

  def rule(gram, step, state, p):
    p = _per_task(p, step, preference)
    g = _regularized(gram, epsilon)
    # v = p_i e_i + u, for all i at once.
    u = nonnegative_qp(g, -g * p[None, :])
    return plain(p + jnp.sum(u, 1)), state

  return from_gram(*checks.with_preference(preference, 'preference', rule))


def make_dualproj(
  epsilon: float = 1e-4, preference: Mapping[str, float] | None = None
) -> GradientBalancer:
  """Projects the mean gradient onto the dual cone (GEM, Lopez-Paz 2017).

  It is sum_t v_t g_t with v = argmin v^T G v, v >= p.

  Args:
    epsilon: as in `make_upgrad`.
    preference: task -> p_t; None for 1/K.

  Raises:
    InputError: epsilon is out of range, or a task has no preference.
  """
  checks.number(epsilon, 'epsilon', least=0)

  def rule(gram, step, state, p):
    p = _per_task(p, step, preference)
    g = _regularized(gram, epsilon)
    pull = jnp.matmul(g, p[:, None], precision='highest')
    return plain(p + nonnegative_qp(g, -pull)[:, 0]), state

  return from_gram(*checks.with_preference(preference, 'preference', rule))


def _per_task(p, step, preference):
  p = jnp.where(step.present, p, 0)
  return p if preference else p / step.count


def _regularized(gram, epsilon):
  g = gram.scaled
  trace = jnp.trace(g)
  g = g / jnp.where(trace > 0, trace, 1)
  # A row of zeros would leave its weight open.
  ridge = jnp.where(gram.norms > 0, epsilon, 1)
  return g + jnp.diag(ridge)
