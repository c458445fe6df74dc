"""FAMO: fast adaptive multitask optimization, from losses alone."""

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.uncertainty import descend
from mtl_kd_jax.balancing.vectors import (
  SMALLEST_LOSS,
  from_losses,
  masked_softmax,
)


def make(
  learning_rate: float = 0.025,
  weight_decay: float = 1e-3,
  least_loss: float = 0.0,
) -> Balancer:
  """All losses shall fall at the same rate (Liu et al. 2023, algorithm 1).

  The step descends on sum_t z_t log(L_t - b) / c with z = softmax(s) and c =
  sum_t z_t / (L_t - b), so that the weights sum to 1. After it, s follows
  (dz/ds)^T (log L_before - log L_after) down, with Adam: the losses of the same
  batch after the step take the place of K gradients. They cost a forward pass.

  Args:
    learning_rate: of Adam on s.
    weight_decay: gamma, added to the gradient as gamma * s; 1e-3 to 1e-2.
    least_loss: b, below every loss.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(learning_rate, 'learning_rate', above=0)
  checks.number(weight_decay, 'weight_decay', least=0)
  checks.number(least_loss, 'least_loss')
  tx = optax.chain(
    optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)
  )

  def start(names):
    s = jnp.zeros(len(names), jnp.float32)
    return {'s': s, 'opt_state': tx.init(s), 'before': s}

  def excess(step):
    return jnp.maximum(step.losses - least_loss, SMALLEST_LOSS)

  def rule(step, state):
    share = masked_softmax(state['s'], step.present) / excess(step)
    weights = share / jnp.maximum(jnp.sum(share), SMALLEST_LOSS)
    return weights, state | {'before': jnp.log(excess(step))}

  def observe(step, state):
    fall = jnp.where(step.present, state['before'] - jnp.log(excess(step)), 0)
    _, pullback = jax.vjp(lambda s: masked_softmax(s, step.present), state['s'])
    learned = {name: state[name] for name in ('s', 'opt_state')}
    return state | descend(tx, *pullback(fall), learned, step.present)

  return from_losses(rule, start, observe)
