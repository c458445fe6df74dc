"""MoDo: multi-objective gradients with double sampling."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._sampling import from_three_minibatches
from mtl_kd_jax.balancing._solvers import project_to_simplex
from mtl_kd_jax.balancing.base import GradientBalancer


def make(learning_rate: float = 1e-3, rho: float = 0.0) -> GradientBalancer:
  """Direction g_w, and a step w <- P(w - gamma (J_1 J_2^T + rho I) w).

  P projects onto the simplex (Chen et al. 2023, algorithm 1).

  Args:
    learning_rate: gamma.
    rho: pull of w toward equal weights.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(learning_rate, 'learning_rate', above=0)
  _checks.number(rho, 'rho', at_least=0)

  def learn(w, cross, step):
    slope = jnp.matmul(cross, w, precision='highest') + rho * w
    return project_to_simplex(w - learning_rate * slope, step.present)

  return from_three_minibatches(learn)
