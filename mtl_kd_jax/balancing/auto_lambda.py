"""Auto-Lambda: weights that lower the loss on other samples."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  Weights,
  combined,
  inner_products,
  weighted_sum,
)
from mtl_kd_jax.balancing._learned import descend, init_learned
from mtl_kd_jax.balancing._vectors import in_order, make_step
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.errors import InputError


def make(
  learning_rate: float = 1e-4,
  step_size: float = 1e-4,
  init: float = 0.1,
  primary: Sequence[str] = (),
) -> GradientBalancer:
  """Weights l descend on sum_primary L_t' (theta - alpha sum_t l_t g_t).

  L' is the loss on another mini-batch. Its gradient with respect to
  l_t is -alpha <g_t, grad L'> at the shifted parameters, exactly: the finite
  difference of the paper is not needed. The step then descends on sum_t l_t L_t
  with the new l (lambda of Liu et al. 2022). theta are all parameters, the
  task-specific ones included.

  Args:
    learning_rate: of Adam on l; 1e-4 in the released code.
    step_size: alpha, which should be the learning rate of the network.
    init: l at the start; 0.1 in the released code.
    primary: the tasks whose loss is lowered; () for all.

  Raises:
    InputError: a number is out of range, or (from `init`) an unknown primary
      task.
  """
  _checks.number(learning_rate, 'learning_rate', above=0)
  _checks.number(step_size, 'step_size', above=0)
  _checks.number(init, 'init')
  tx = optax.adam(learning_rate)

  def start(names, gradients=None):
    del gradients
    if unknown := sorted(set(primary or names) - set(names)):
      raise InputError(
        expected=f'some of {", ".join(sorted(names))}',
        found=', '.join(unknown),
        argument='primary',
        do='name tasks that are learned',
      )
    return init_learned(tx, jnp.full(len(names), init, jnp.float32))

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
    del values
    step = make_step(losses, present, key)
    _checks.required(probe, 'probe')
    ordered = in_order(gradients)
    old = jnp.where(step.present, state['s'], 0)
    ahead = probe(1, weighted_sum(step_size * old, ordered))
    counts = jnp.array([t in (primary or step.names) for t in step.names])
    target = weighted_sum(
      (counts & step.present).astype(jnp.float32), in_order(ahead)
    )
    # Only the products with the last one are used.
    gram = inner_products(
      [*ordered, target], jnp.append(step.present, True), axis_name=axis_name
    )
    products = gram.products(1e9)[:-1, -1]
    gradient = jnp.where(step.present, -step_size * products, 0)
    state = descend(tx, gradient, state, step.present)
    w = jnp.where(step.present, state['s'], 0)
    return combined(step, Weights(w, w), weighted_sum(w, ordered)), state

  return GradientBalancer(
    start, update, num_minibatches=2, all_parameters=True, on_features=False
  )
