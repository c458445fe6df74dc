"""ExcessMTL: more weight where more of the loss could still go away."""

import functools

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import Weights, combined, in_order, weighted_sum
from mtl_kd_jax.balancing.moco import blank, to_dict_of
from mtl_kd_jax.balancing.vectors import keep_absent, make_step, masked_softmax


def make(learning_rate: float = 0.01) -> GradientBalancer:
  """w_t <- w_t exp(eta e_t / e_t(0)), then scaled to sum K.

  The excess risk e_t = sum g_t^2 / sqrt(S_t) takes S_t, the sum of all g_t^2 so
  far, as the diagonal of the Hessian, as Adagrad does; e_t(0) is the first (He
  et al. 2024, algorithm 1). Label noise, which no training takes
  away, does not raise a weight. The state holds an array like the parameters
  for each task. Heads descend on w_t L_t.

  Args:
    learning_rate: eta.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(learning_rate, 'learning_rate', above=0)

  def start(names, gradients=None):
    checks.needed(gradients, names)
    first, log_w = (jnp.zeros(len(names), jnp.float32) for _ in range(2))
    return {'root': blank(gradients), 'first': first, 'log_w': log_w}

  def update(
    losses, gradients, state, key, *, present=None, axis_name=None, **unused
  ):
    del unused
    step = make_step(losses, present, key)
    ordered = in_order(gradients)
    root = [
      jax.tree.map(functools.partial(_hypot, step.present[i]), s, g)
      for i, (s, g) in enumerate(
        zip(in_order(state['root']), ordered, strict=True)
      )
    ]
    excess = jnp.stack(
      [_excess(*pair) for pair in zip(ordered, root, strict=True)]
    )
    if axis_name is not None:
      excess = jax.lax.psum(excess, axis_name)
    unseen = step.present & (state['first'] == 0)
    first = jnp.where(unseen, excess, state['first'])
    ratio = jnp.where(first > 0, excess / jnp.where(first > 0, first, 1), 0)
    # The present tasks share what they had: the sum over all stays K.
    grown = masked_softmax(state['log_w'] + learning_rate * ratio, step.present)
    held = jnp.sum(jnp.where(step.present, jnp.exp(state['log_w']), 0))
    w = grown * held
    log_w = jnp.log(jnp.maximum(w, 1e-30))
    state = {
      'root': to_dict_of(step.names, root),
      'first': first,
      'log_w': keep_absent(log_w, state['log_w'], step.present),
    }
    return combined(step, Weights(w, w), weighted_sum(w, ordered)), state

  return GradientBalancer(start, update, on_features=False)


def _hypot(present, s, g):
  """sqrt(s^2 + g^2) without squares, which overflow; s where absent."""
  g = jnp.abs(g.astype(jnp.float32))
  most, least = jnp.maximum(s, g), jnp.minimum(s, g)
  ratio = least / jnp.where(most > 0, most, 1)
  return jnp.where(present, most * jnp.sqrt(1 + ratio * ratio), s)


def _excess(g, root):
  """The sum of g^2 / sqrt(S), 0 where S is."""
  terms = jax.tree.map(
    lambda g, r: jnp.sum(
      jnp.abs(g.astype(jnp.float32))
      * (jnp.abs(g.astype(jnp.float32)) / jnp.where(r > 0, r, 1))
    ),
    g,
    root,
  )
  return sum(jax.tree.leaves(terms))
