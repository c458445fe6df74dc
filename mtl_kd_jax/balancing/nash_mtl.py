"""Nash-MTL: the Nash bargaining solution."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  divide_by_norms,
  from_gram,
  safe_rsqrt,
  shared_only,
)
from mtl_kd_jax.balancing._solvers import proportional_fairness
from mtl_kd_jax.balancing.base import GradientBalancer


def make(max_norm: float = 1.0) -> GradientBalancer:
  """Weights with G w = 1 / w, w > 0 (Navon et al. 2022, claim 3.1).

  Invariant to the norms of the gradients: the direction always has norm
  sqrt(K), or `max_norm` where that is shorter. The paper solves it every n
  steps on some data sets: `update_every` in wrappers.py.

  Args:
    max_norm: a longer direction is shortened to this norm, as in the released
      code, which has 1; 0 for never.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(max_norm, 'max_norm', at_least=0)

  def rule(gram, step, state):
    del step
    alive = gram.norms > 0
    x = proportional_fairness(gram.cosines, jnp.ones_like(gram.norms), 1, alive)
    if max_norm:
      # The default precision, TF32 on GPUs and bfloat16 on TPUs, has 3 or 2
      # digits.
      along = jnp.matmul(gram.cosines, x, precision='highest')
      square = jnp.dot(x, along, precision='highest')
      x = x * jnp.minimum(1, max_norm * safe_rsqrt(square))
    return shared_only(divide_by_norms(x, gram.norms)), state

  return from_gram(rule)
