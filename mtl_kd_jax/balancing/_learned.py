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
  """The state {'s', 'opt_state'} of parameters s, float32 [K]."""
  return {'s': s, 'opt_state': tx.init(s)}


def descend(
  tx: optax.GradientTransformation,
  gradient: jax.Array,
  state: dict[str, Any],
  present: jax.Array,
) -> dict[str, Any]:
  """One optimizer step on {'s', 'opt_state'}; absent tasks keep their s."""
  gradient = jnp.clip(gradient, -1e15, 1e15)  # Adam squares it
  updates, opt_state = tx.update(gradient, state['opt_state'], state['s'])
  s = optax.apply_updates(state['s'], updates)
  return {
    's': keep_absent(s, state['s'], present),
    'opt_state': opt_state,
  }
