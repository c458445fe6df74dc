"""ConFIG: the same positive angle with every gradient."""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.fairness import over_norms, safe_rsqrt
from mtl_kd_jax.balancing.gram import from_gram, plain
from mtl_kd_jax.balancing.solvers import solve_cosines


def make(preference: Mapping[str, float] | None = None) -> GradientBalancer:
  """Direction (sum_t <g_t, v>) v, v the unit vector of U^+ p.

  U holds the unit gradients, and U^+ p = U^T C^+ p for their cosines C (Liu,
  Chu & Thuerey 2025).

  Args:
    preference: task -> p_t, the cosines of d up to a factor; None for 1.

  Raises:
    InputError: a task has no preference.
  """

  def rule(gram, step, state, p):
    x = solve_cosines(gram.cosines, p, gram.norms > 0)
    along = jnp.matmul(gram.cosines, x, precision='highest')
    unit = safe_rsqrt(jnp.dot(x, along, precision='highest'))
    length = jnp.sum(gram.relative * along) * unit
    # over_norms, times the largest norm, without a product that overflows.
    w = over_norms(x, gram._replace(norms=gram.relative))
    return plain(length * unit * w), state

  return from_gram(*checks.with_preference(preference, 'preference', rule))
