"""DB-MTL: logarithms of losses, and gradients of equal length."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import (
  Weights,
  combined,
  from_gram,
  in_order,
  inner_products,
  weighted_sum,
)
from mtl_kd_jax.balancing.moco import blank, cast, follow, to_dict_of
from mtl_kd_jax.balancing.vectors import SMALLEST_LOSS, make_step


def make(beta: float = 0.9, sigma: float = 0.0) -> GradientBalancer:
  """Sums max_j |y_j| / |y_t| y_t, y_t a running mean of grad log L_t.

  y <- b y + (1 - b) g / L with b = beta / k^sigma in step k (Lin et al. 2023).
  Heads descend on log L_t. Losses must be positive. The state holds a gradient
  for each task, unless beta is 0.

  Args:
    beta: in [0, 1); 0.9 in LibMTL.
    sigma: decay of beta.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(beta, 'beta', least=0, below=1)
  checks.number(sigma, 'sigma', least=0)
  if beta == 0:
    return from_gram(_without_memory)

  def start(names, gradients=None):
    checks.needed(gradients, names)
    return {'step': jnp.zeros((), jnp.int32), 'mean': blank(gradients)}

  def update(
    losses, gradients, state, key, *, present=None, axis_name=None, **unused
  ):
    del unused
    step = make_step(losses, present, key)
    time = state['step'] + 1
    rate = 1 - beta / time**sigma
    own, ordered = _inverse(step), in_order(gradients)
    mean = [
      follow(y, g, own[i], jnp.where(step.present[i], rate, 0))
      for i, (y, g) in enumerate(
        zip(in_order(state['mean']), ordered, strict=True)
      )
    ]
    w = _to_longest(inner_products(mean, step.present, axis_name=axis_name))
    direction = cast(weighted_sum(w, mean), ordered[0])
    state = {'step': time, 'mean': to_dict_of(step.names, mean)}
    return combined(step, Weights(w * own, own), direction), state

  return GradientBalancer(start, update, linear=False, on_features=False)


def _without_memory(gram, step, state):
  own = _inverse(step)
  gram = gram._replace(norms=own * gram.norms)
  return Weights(_to_longest(gram) * own, own), state


def _inverse(step):
  return 1 / jnp.maximum(step.losses, SMALLEST_LOSS)


def _to_longest(gram):
  """max_j |y_j| / |y_t|, 0 for a gradient of 0."""
  alive = gram.norms > 0
  return jnp.where(alive, 1 / jnp.where(alive, gram.relative, 1), 0)
