"""UPGrad: the mean of the gradients' projections onto their dual cone."""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._dual_cone import regularized
from mtl_kd_jax.balancing._gram import from_gram, shared_only
from mtl_kd_jax.balancing._preference import coefficients, with_preference
from mtl_kd_jax.balancing._solvers import nonnegative_qp
from mtl_kd_jax.balancing.base import GradientBalancer


def make(
  epsilon: float = 1e-4, preference: Mapping[str, float] | None = None
) -> GradientBalancer:
  """Projects every gradient onto the dual cone, and takes the mean.

  The projection of p_i g_i is sum_t v_t g_t with v = argmin v^T G v, v >= p_i
  e_i (Quinton & Rey 2024, prop. 1).

  Args:
    epsilon: the problem is solved with G / trace(G) + epsilon I, as in TorchJD.
      0 projects exactly; above 0 the result conflicts slightly with gradients
      that are more than 1 / sqrt(epsilon) times shorter than the longest.
    preference: task -> p_t; None or {} for 1/K.

  Raises:
    InputError: a number is out of range, all preferences are 0, or (from
      `init`) a task has none.
  """
  _checks.number(epsilon, 'epsilon', at_least=0)

  def rule(gram, step, state, p):
    p = coefficients(p, step, preference)
    g = regularized(gram, epsilon)
    # v = p_i e_i + u, for all i at once.
    u = nonnegative_qp(g, -g * p[None, :])
    return shared_only(p + jnp.sum(u, 1)), state

  return from_gram(*with_preference(preference, 'preference', rule))
