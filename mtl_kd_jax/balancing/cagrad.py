"""CAGrad: the best worst case within a ball around the mean gradient."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import from_gram, shared_only
from mtl_kd_jax.balancing._solvers import simplex_minimum
from mtl_kd_jax.balancing.base import GradientBalancer

RESCALES = ('none', 'square', 'linear')


def make(c: float = 0.4, rescale: str = 'square') -> GradientBalancer:
  """Direction d with the largest min_t <g_t, d> in |d - g_0| <= c |g_0|.

  g_0 is the mean gradient. d = g_0 + c |g_0| / |g_w| g_w, where w minimizes
  g_w^T g_0 + c |g_0| |g_w| over the simplex and g_w = sum_t w_t g_t (Liu et al.
  2021, algorithm 1).

  Args:
    c: radius in [0, 1); 0 is the mean gradient, near 1 it comes close to MGDA.
      The paper has 0.4 for NYU-v2 and 0.2 for Cityscapes.
    rescale: d divided by 1 ('none'), 1 + c^2 ('square', as the released code)
      or 1 + c ('linear').

  Raises:
    InputError: unknown rescale, or c out of range.
  """
  _checks.number(c, 'c', at_least=0, below=1)
  _checks.choice(rescale, 'rescale', RESCALES)
  divisor = {'none': 1, 'square': 1 + c**2, 'linear': 1 + c}[rescale]

  def rule(gram, step, state):
    # A zero gradient has no worst case, but counts in the mean.
    alive = gram.norms > 0
    w, ratio = simplex_minimum(gram, alive, c)
    correction = jnp.where(ratio > 0, ratio * w, 0)
    share = jnp.sum(alive) / step.count
    mean = jnp.where(alive, 1, 0) / step.count
    return shared_only((mean + share * correction) / divisor), state

  return from_gram(rule)
