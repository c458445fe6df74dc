"""FairGrad: alpha-fair decreases of the losses."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import divide_by_norms, from_gram, shared_only
from mtl_kd_jax.balancing._solvers import proportional_fairness
from mtl_kd_jax.balancing.base import GradientBalancer


def make(alpha: float = 1.0) -> GradientBalancer:
  """Weights with G w = w^(-1/alpha), w > 0 (Ban & Ji 2024).

  Args:
    alpha: above 0. 1 is proportional fairness (the equation of Nash-MTL, not
      shortened), 2 minimum potential delay, toward infinity max-min fairness.
      The paper uses 1 and 2.

  Raises:
    InputError: alpha is out of range.
  """
  _checks.number(alpha, 'alpha', above=0)

  def rule(gram, step, state):
    del step
    alive = gram.norms > 0
    n = jnp.where(alive, gram.relative, 1)
    x = proportional_fairness(gram.cosines, n ** (1 / alpha - 1), alpha, alive)
    # In units of the largest norm s: w = s^(-2 alpha / (1 + alpha)) x / n.
    rest = gram.scale ** (-(alpha - 1) / (1 + alpha))
    return shared_only(divide_by_norms(x, gram.norms) * rest), state

  return from_gram(rule)
