"""MGDA: the shortest convex combination, along which every loss falls."""

from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import from_gram, plain
from mtl_kd_jax.balancing.solvers import simplex_minimum


def make() -> GradientBalancer:
  """Weights with the least |sum_t w_t g_t|^2 on the simplex.

  Desideri 2012; Sener & Koltun 2018 (eq. 3), whose MGDA-UB is this rule on
  features. Favors tasks with small gradients; a task whose gradient is 0 gets
  all the weight and stops the others, which is what Pareto-stationary means.
  """

  def rule(gram, step, state):
    return plain(simplex_minimum(gram, step.present).weights), state

  return from_gram(rule)
