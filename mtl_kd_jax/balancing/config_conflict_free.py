"""ConFIG (conflict-free inverse gradient): equal angles with all gradients.

Its registry key is 'config'. A file of that name would look like the settings
of this package.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing._gram import (
  divide_by_norms,
  from_gram,
  safe_rsqrt,
  shared_only,
)
from mtl_kd_jax.balancing._preference import with_preference
from mtl_kd_jax.balancing._solvers import solve_cosines
from mtl_kd_jax.balancing.base import GradientBalancer


def make(preference: Mapping[str, float] | None = None) -> GradientBalancer:
  """Direction (sum_t <g_t, v>) v, v the unit vector of U^+ p.

  U holds the unit gradients, and U^+ p = U^T C^+ p for their cosines C (Liu,
  Chu & Thuerey 2025).

  Args:
    preference: task -> p_t, the cosines of d up to a factor; None or {} for 1.

  Raises:
    InputError: a preference is negative, all are 0, or (from `init`) a task has
      none.
  """

  def rule(gram, step, state, p):
    del step
    x = solve_cosines(gram.cosines, p, gram.norms > 0)
    along = jnp.matmul(gram.cosines, x, precision='highest')
    inverse_norm = safe_rsqrt(jnp.dot(x, along, precision='highest'))
    length = jnp.sum(gram.relative * along) * inverse_norm
    # Norms in units of the largest: the product with its norm may overflow, and
    # the factor cancels.
    w = divide_by_norms(x, gram.relative)
    return shared_only(length * inverse_norm * w), state

  return from_gram(*with_preference(preference, 'preference', rule))
