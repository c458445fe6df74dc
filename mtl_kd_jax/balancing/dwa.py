"""Dynamic weight average: more weight where the loss falls more slowly."""

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.vectors import from_losses, masked_softmax


def make(window: int = 25, temperature: float = 2.0) -> Balancer:
  """w_t = K softmax(r / T)_t, with r_t = L_t(e - 1) / L_t(e - 2).

  L_t(e) is the task's mean loss over epoch e; the weights of the first two
  epochs are 1 (Liu, Johns & Davison 2019, eq. 7).

  Args:
    window: steps in an epoch. 25, whatever the epoch, in the code of Nash-MTL.
    temperature: T; 2 in the paper, KD4MTL has 1 with SegNet.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(window, 'window', least=1)
  checks.number(temperature, 'temperature', above=0)

  def start(names):
    zeros = jnp.zeros(len(names), jnp.float32)
    # Means of the last two epochs in which the task had labels; 0: none yet.
    return {
      'step': jnp.zeros((), jnp.int32),
      'sum': zeros,
      'count': zeros,
      'last': zeros,
      'before': zeros,
    }

  def rule(step, state):
    fresh = (state['step'] > 0) & (state['step'] % window == 0)
    mean = state['sum'] / jnp.maximum(state['count'], 1)
    seen = fresh & (state['count'] > 0)
    before = jnp.where(seen, state['last'], state['before'])
    last = jnp.where(seen, mean, state['last'])
    ratio = jnp.where(before > 0, last / jnp.where(before > 0, before, 1), 1)
    weights = step.count * masked_softmax(ratio / temperature, step.present)
    # In sums, for one division: the means of an epoch.
    total = jnp.where(fresh, 0, state['sum'])
    count = jnp.where(fresh, 0, state['count'])
    return weights, {
      'step': state['step'] + 1,
      'sum': total + jnp.where(step.present, step.losses, 0),
      'count': count + step.present,
      'last': last,
      'before': before,
    }

  return from_losses(rule, start)
