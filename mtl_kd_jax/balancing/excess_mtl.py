"""ExcessMTL: more weight where the loss can decrease further."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import Weights, combined, weighted_sum
from mtl_kd_jax.balancing._tracked import by_name, init_tracked
from mtl_kd_jax.balancing._vectors import in_order, keep_absent, make_step
from mtl_kd_jax.balancing.base import GradientBalancer


def make(learning_rate: float = 0.01) -> GradientBalancer:
  """w_t <- w_t exp(eta e_t / e_t(0)), then scaled to sum K.

  The excess risk e_t = sum g_t^2 / sqrt(S_t) takes S_t, the sum of all g_t^2 so
  far, as the diagonal of the Hessian, as Adagrad does; e_t(0) is the first (He
  et al. 2024, algorithm 1). Label noise, which training cannot reduce, does not
  raise a weight. The state holds an array like the parameters for each task.
  Heads descend on w_t L_t.

  Args:
    learning_rate: eta.

  Raises:
    InputError: a number is out of range.
  """
  _checks.number(learning_rate, 'learning_rate', above=0)

  def init(names, gradients=None):
    _checks.required(gradients, 'gradients')
    first, log_w = (jnp.zeros(len(names), jnp.float32) for _ in range(2))
    return {'root': init_tracked(gradients), 'first': first, 'log_w': log_w}

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
    ordered = in_order(gradients)
    root = [
      _add_squares(s, g, step.present[i])
      for i, (s, g) in enumerate(
        zip(in_order(state['root']), ordered, strict=True)
      )
    ]
    excess = jnp.stack(
      [_excess(g, s) for g, s in zip(ordered, root, strict=True)]
    )
    if axis_name is not None:
      excess = jax.lax.psum(excess, axis_name)
    unseen = step.present & (state['first'] == 0)
    first = jnp.where(unseen, excess, state['first'])
    ratio = jnp.where(first > 0, excess / jnp.where(first > 0, first, 1), 0)
    # Present tasks keep the sum of their weights: over all tasks it stays K.
    share = jax.nn.softmax(
      state['log_w'] + learning_rate * ratio, where=step.present
    )
    held = jnp.sum(jnp.where(step.present, jnp.exp(state['log_w']), 0))
    w = share * held
    log_w = jnp.log(jnp.maximum(w, 1e-30))
    state = {
      'root': by_name(step.names, root),
      'first': first,
      'log_w': keep_absent(log_w, state['log_w'], step.present),
    }
    return combined(step, Weights(w, w), weighted_sum(w, ordered)), state

  return GradientBalancer(init, update, on_features=False)


def _add_squares(root, gradient, present):
  """sqrt(s^2 + g^2) of every entry, without overflow; s where absent."""
  return jax.tree.map(
    lambda s, g: jnp.where(present, jnp.hypot(s, g.astype(s.dtype)), s),
    root,
    gradient,
  )


def _excess(gradient, root):
  """The sum of g^2 / sqrt(S), 0 where S is 0."""

  def of_array(g, r):
    g = jnp.abs(g.astype(jnp.float32))
    return jnp.sum(g * (g / jnp.where(r > 0, r, 1)))

  return sum(jax.tree.leaves(jax.tree.map(of_array, gradient, root)))
