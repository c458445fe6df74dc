"""Bargaining and fair allocation: Nash-MTL and FairGrad, one equation."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import from_gram, plain
from mtl_kd_jax.balancing.solvers import proportional_fairness


def make_nash(max_norm: float = 1.0) -> GradientBalancer:
  """Weights with G w = 1 / w, w > 0 (Navon et al. 2022, claim 3.1).

  The Nash bargaining solution: invariant to the lengths of the gradients, and
  of length sqrt(K) whatever they are. The paper solves it anew every n steps on
  some data sets: `refreshed` in wrappers.py.

  Args:
    max_norm: the direction is shortened to it; 0 for never. 1 in the released
      code.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(max_norm, 'max_norm', least=0)

  def rule(gram, step, state):
    alive = gram.norms > 0
    x = proportional_fairness(gram.cosines, jnp.ones_like(gram.norms), 1, alive)
    if max_norm:
      square = jnp.dot(x, jnp.matmul(gram.cosines, x, precision='highest'))
      x = x * jnp.minimum(1, max_norm * safe_rsqrt(square))
    return plain(over_norms(x, gram)), state

  return from_gram(rule)


def make_fairgrad(alpha: float = 1.0) -> GradientBalancer:
  """Weights with G w = w^(-1/alpha), w > 0 (Ban & Ji 2024).

  alpha-fairness of the falls of the losses: 1 is proportional fairness (the
  equation of Nash-MTL, not shortened), 2 the least potential delay, toward
  infinity max-min.

  Args:
    alpha: above 0; 1 or 2 in the paper.

  Raises:
    InputError: alpha is out of range.
  """
  checks.number(alpha, 'alpha', above=0)

  def rule(gram, step, state):
    alive = gram.norms > 0
    n = jnp.where(alive, gram.relative, 1)
    x = proportional_fairness(gram.cosines, n ** (1 / alpha - 1), alpha, alive)
    # In units of the largest norm s: w = s^(-2 alpha / (1 + alpha)) x / n.
    rest = gram.scale ** (-(alpha - 1) / (1 + alpha))
    return plain(over_norms(x, gram) * rest), state

  return from_gram(rule)


def over_norms(x, gram):
  """Shares of unit gradients as weights of gradients; 0 where there is none."""
  alive = gram.norms > 0
  return jnp.where(alive, x / jnp.where(alive, gram.norms, 1), 0)


def safe_rsqrt(square):
  """1 / sqrt(x), 0 where x is not above 0."""
  good = square > 0
  return jnp.where(good, 1 / jnp.sqrt(jnp.where(good, square, 1)), 0)
