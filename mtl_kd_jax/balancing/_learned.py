"""Weights that a rule learns with an optimizer of their own.

They are parameters of the balancer and not of the network: their gradient needs
no backward pass, and the network's weight decay does not reach them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing._vectors import keep_absent


def init_learned(
  tx: optax.GradientTransformation, s: jax.Array
) -> dict[str, Any]:
  """The state {'s', 'opt_state'} of parameters s, float32 [K].

  Every task has an optimizer of its own: the leaves of 'opt_state' are [K].
  """
  return {'s': s, 'opt_state': jax.vmap(tx.init)(s)}


def descend(
  tx: optax.GradientTransformation,
  gradient: jax.Array,
  state: dict[str, Any],
  present: jax.Array,
) -> dict[str, Any]:
  """One optimizer step on s, in which absent tasks take no part.

  Args:
    tx: works entry by entry, as Adam does.
    gradient: with respect to s, float32 [K].
    state: with the entries of `init_learned`; others are kept.
    present: bool [K].

  Returns:
    The next state. Absent tasks keep their s, and the moments and the count of
    their optimizer.
  """
  s, opt_state = state['s'], state['opt_state']
  gradient = jnp.clip(gradient, -1e15, 1e15)  # Adam squares it
  updates, new = jax.vmap(tx.update)(gradient, opt_state, s)
  return state | {
    's': keep_absent(optax.apply_updates(s, updates), s, present),
    'opt_state': keep_absent(new, opt_state, present),
  }
