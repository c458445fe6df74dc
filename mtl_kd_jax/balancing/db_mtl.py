"""DB-MTL: logarithms of losses, and gradients of equal length."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  Weights,
  combined,
  from_gram,
  inner_products,
  weighted_sum,
)
from mtl_kd_jax.balancing._tracked import (
  by_name,
  cast_like,
  init_tracked,
  track,
)
from mtl_kd_jax.balancing._vectors import SMALLEST_LOSS, in_order, make_step
from mtl_kd_jax.balancing.base import GradientBalancer


def make(beta: float = 0.9, sigma: float = 0.0) -> GradientBalancer:
  """Sums max_j |y_j| / |y_t| y_t, y_t a running mean of grad log L_t.

  y <- b y + (1 - b) g / L with b = beta / k^sigma in step k (Lin et al. 2023).
  Heads descend on log L_t. Losses must be positive. The state holds a gradient
  for each task, unless beta is 0.

  Args:
    beta: in [0, 1); 0.9 in LibMTL. 0 for no running mean.
    sigma: decay of beta.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(beta, 'beta', at_least=0, below=1)
  _checks.number(sigma, 'sigma', at_least=0)
  if beta == 0:
    return from_gram(_without_memory)

  def init(names, gradients=None):
    del names
    _checks.required(gradients, 'gradients')
    return {'step': jnp.zeros((), jnp.int32), 'mean': init_tracked(gradients)}

  def update(
    losses,
    gradients,
    state,
    key,
    *,
    present=None,
    axis_name=None,
    values=None,
    probe=None,
  ):
    del values, probe
    step = make_step(losses, present, key)
    time = state['step'] + 1
    rate = 1 - beta / time.astype(jnp.float32) ** sigma
    inverse, ordered = _inverse(step), in_order(gradients)
    mean = track(state['mean'], ordered, step, factors=inverse, rate=rate)
    w = _to_longest(inner_products(mean, step.present, axis_name=axis_name))
    direction = cast_like(weighted_sum(w, mean), ordered[0])
    state = {'step': time, 'mean': by_name(step.names, mean)}
    return combined(step, Weights(w * inverse, inverse), direction), state

  return GradientBalancer(init, update, linear=False, on_features=False)


def _without_memory(gram, step, state):
  inverse = _inverse(step)
  gram = gram._replace(norms=inverse * gram.norms)
  return Weights(_to_longest(gram) * inverse, inverse), state


def _inverse(step):
  return 1 / jnp.maximum(step.losses, SMALLEST_LOSS)


def _to_longest(gram):
  """max_j |y_j| / |y_t|, 0 for a gradient of 0."""
  alive = gram.norms > 0
  return jnp.where(alive, 1 / jnp.where(alive, gram.relative, 1), 0)
