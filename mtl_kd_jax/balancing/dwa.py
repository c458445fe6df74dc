"""Dynamic weight average: more weight where the loss falls more slowly."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.errors import InputError


def make(
  window: int = 25,
  temperature: float = 2.0,
  *,
  steps_per_epoch: int | None = None,
) -> Balancer:
  """w_t = K softmax(r / T)_t, with r_t = L_t(e - 1) / L_t(e - 2).

  L_t(e) is the task's mean loss over epoch e; the weights of the first two
  epochs are 1 (Liu, Johns & Davison 2019, eq. 7).

  Args:
    window: steps in an epoch of the rule; 0 for `steps_per_epoch`. 25 in the
      code of Nash-MTL, independently of the real epoch.
    temperature: T, higher is closer to equal weights; 2 in the paper, 1 in
      KD4MTL with SegNet.
    steps_per_epoch: optimizer steps in an epoch; needed for a window of 0.

  Raises:
    InputError: a number is out of range, or the epoch is not known.
  """
  _checks.number(window, 'window', at_least=0, integer=True)
  if window == 0:
    if steps_per_epoch is None:
      raise InputError(
        expected='at least 1 step, or steps_per_epoch with a window of 0',
        found='a window of 0, without steps_per_epoch',
        argument='window',
        do='set window to the number of steps in an epoch',
      )
    _checks.number(steps_per_epoch, 'steps_per_epoch', at_least=1, integer=True)
    window = steps_per_epoch
  _checks.number(temperature, 'temperature', above=0)

  def start(names):
    zeros = jnp.zeros(len(names), jnp.float32)
    # last, before: mean losses of the last two epochs in which the task had
    # labels; 0 where there is none yet.
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
    share = jax.nn.softmax(ratio / temperature, where=step.present)
    total = jnp.where(fresh, 0, state['sum'])
    count = jnp.where(fresh, 0, state['count'])
    return step.count * share, {
      'step': state['step'] + 1,
      'sum': total + jnp.where(step.present, step.losses, 0),
      'count': count + step.present,
      'last': last,
      'before': before,
    }

  return from_losses(rule, start)
