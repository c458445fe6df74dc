"""DualProj: the projection of the mean gradient onto the dual cone."""

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
  """sum_t v_t g_t with v = argmin v^T G v, v >= p.

  The projection of the mean gradient, as in GEM (Lopez-Paz & Ranzato 2017).

  Args:
    epsilon: as in UPGrad: the problem is solved with G / trace(G) + epsilon I,
      and 0 projects exactly.
    preference: task -> p_t; None or {} for 1/K.

  Raises:
    InputError: a number is out of range, all preferences are 0, or (from
      `init`) a task has none.
  """
  _checks.number(epsilon, 'epsilon', at_least=0)

  def rule(gram, step, state, p):
    p = coefficients(p, step, preference)
    g = regularized(gram, epsilon)
    slope = jnp.matmul(g, p[:, None], precision='highest')
    return shared_only(p + nonnegative_qp(g, -slope)[:, 0]), state

  return from_gram(*with_preference(preference, 'preference', rule))
