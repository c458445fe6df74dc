"""FAMO: fast adaptive multitask optimization, from losses alone."""

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._learned import descend, init_learned
from mtl_kd_jax.balancing._vectors import SMALLEST_LOSS, from_losses
from mtl_kd_jax.balancing.base import Balancer


def make(
  learning_rate: float = 0.025,
  weight_decay: float = 1e-3,
  least_loss: float = 0.0,
) -> Balancer:
  """All losses should decrease at the same rate (Liu et al. 2023, algorithm 1).

  The step descends on sum_t z_t log(L_t - b) / c with z = softmax(s) and c =
  sum_t z_t / (L_t - b), so that the weights sum to 1. After it, s descends
  along (dz/ds)^T (log L_before - log L_after), with Adam: the losses of the
  same batch after the step replace K gradients, for one more forward pass.

  Args:
    learning_rate: of Adam on the logits s.
    weight_decay: gamma, added to the gradient as gamma * s; 1e-3 to 1e-2.
    least_loss: b, a lower bound of every loss.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(learning_rate, 'learning_rate', above=0)
  _checks.number(weight_decay, 'weight_decay', at_least=0)
  _checks.number(least_loss, 'least_loss')
  tx = optax.chain(
    optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)
  )

  def init(names):
    s = jnp.zeros(len(names), jnp.float32)
    return init_learned(tx, s) | {'before': s}

  def excess(step):
    return jnp.maximum(step.losses - least_loss, SMALLEST_LOSS)

  def rule(step, state):
    share = jax.nn.softmax(state['s'], where=step.present) / excess(step)
    weights = share / jnp.maximum(jnp.sum(share), SMALLEST_LOSS)
    return weights, state | {'before': jnp.log(excess(step))}

  def observe(step, state):
    change = state['before'] - jnp.log(excess(step))
    _, pullback = jax.vjp(
      lambda s: jax.nn.softmax(s, where=step.present), state['s']
    )
    (gradient,) = pullback(jnp.where(step.present, change, 0))
    return descend(tx, gradient, state, step.present)

  return from_losses(rule, init, observe)
