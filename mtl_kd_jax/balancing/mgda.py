"""MGDA: the shortest convex combination, along which every loss decreases."""

from mtl_kd_jax.balancing._gram import from_gram, shared_only
from mtl_kd_jax.balancing._solvers import simplex_minimum
from mtl_kd_jax.balancing.base import GradientBalancer


def make() -> GradientBalancer:
  """Weights with the least |sum_t w_t g_t|^2 on the simplex.

  Desideri 2012; Sener & Koltun 2018 (eq. 3), whose MGDA-UB is this rule on
  features. Favors tasks with small gradients. A task whose gradient is 0 gets
  all the weight, and the step is 0: the point is Pareto-stationary.
  """

  def rule(gram, step, state):
    return shared_only(simplex_minimum(gram, step.present).weights), state

  return from_gram(rule)
