"""GradNorm: gradient norms that equalize the tasks' training rates."""

import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import Weights, from_gram
from mtl_kd_jax.balancing._learned import descend, init_learned
from mtl_kd_jax.balancing._vectors import (
  SMALLEST_LOSS,
  keep_absent,
  masked_mean,
)
from mtl_kd_jax.balancing.base import GradientBalancer

_LEAST_WEIGHT = 1e-4


def make(alpha: float = 1.5, learning_rate: float = 0.025) -> GradientBalancer:
  """Weights descend on sum_t | w_t |g_t| - T_t |, with sum_t w_t = K kept.

  T_t = mean_t(w_t |g_t|) r_t^alpha counts as constant, r_t is L_t / L_t(0)
  over its mean, and L_t(0) the first loss (Chen et al. 2018, eq. 1 and 2).
  The gradient is sign(w_t |g_t| - T_t) |g_t|: no second backward pass. The step
  then descends on sum_t w_t L_t with the weights as they were before, as in
  the paper's algorithm 1. Weights are kept above 1e-4.

  Other than in the paper, |g_t| is divided by the largest norm of the step: how
  fast the weights change does not depend on how long the gradients are, nor on
  how much shorter they become over the training.

  Args:
    alpha: how strongly slow tasks are favored. 1.5 and 0.12 in the paper.
    learning_rate: of Adam on w.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(alpha, 'alpha')
  _checks.number(learning_rate, 'learning_rate', above=0)
  tx = optax.adam(learning_rate)

  def init(names):
    w = jnp.ones(len(names), jnp.float32)
    return init_learned(tx, w) | {'first': jnp.zeros_like(w)}

  def rule(gram, step, state):
    w, losses = state['s'], jnp.maximum(step.losses, SMALLEST_LOSS)
    first = jnp.where(step.present & (state['first'] == 0), losses, 0)
    first = state['first'] + first
    ratio = losses / jnp.where(first > 0, first, 1)
    r = ratio / jnp.maximum(masked_mean(ratio, step.present), SMALLEST_LOSS)
    n = gram.relative
    target = masked_mean(w * n, step.present) * r**alpha
    gradient = jnp.where(step.present, jnp.sign(w * n - target) * n, 0)
    state = descend(tx, gradient, state, step.present)
    new = jnp.maximum(state['s'], _LEAST_WEIGHT)
    # Present tasks keep the sum of their weights: over all tasks it stays K.
    new = new * masked_mean(w, step.present) / masked_mean(new, step.present)
    new = keep_absent(new, w, step.present)
    return Weights(w, w), state | {'s': new, 'first': first}

  return from_gram(rule, init)
