"""PCGrad: projections of conflicting gradients."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import from_gram, shared_only
from mtl_kd_jax.balancing._surgery import operate, summed_weights
from mtl_kd_jax.balancing.base import GradientBalancer

REDUCTIONS = ('sum', 'mean')


def make(reduction: str = 'sum') -> GradientBalancer:
  """g_i loses its part along every g_j that it conflicts with (Yu et al. 2020).

  Args:
    reduction: 'sum' of the changed gradients, as in the paper, or 'mean'.

  Raises:
    InputError: unknown reduction.
  """
  _checks.choice(reduction, 'reduction', REDUCTIONS)

  def rule(gram, step, state):
    def change(x, i, j):
      along = jnp.sum(x * gram.cosines[j], axis=1)  # <g_i, unit g_j>
      return x.at[i, j].add(-jnp.minimum(along, 0)), along

    x, _ = operate(gram, step.key, change)
    w = summed_weights(x, gram)
    return shared_only(w / step.count if reduction == 'mean' else w), state

  return from_gram(rule)
