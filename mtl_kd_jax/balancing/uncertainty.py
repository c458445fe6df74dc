"""Homoscedastic uncertainty: weights that are learned as noise of the tasks.

The weights are parameters s_t = log sigma_t^2 of the balancer with an optimizer
of their own, and not of the network: the gradient with respect to them needs no
backward pass, and weight decay, which would pull them toward weight 1, stays
away from them.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.vectors import from_losses, keep_absent

FORMS = ('kendall', 'half', 'liebel')
KINDS = ('classification', 'regression')


def make(
  form: str = 'half',
  kinds: Mapping[str, str] | None = None,
  init: float = 0.0,
  learning_rate: float = 1e-4,
) -> Balancer:
  """Minimizes over s as well, s_t = log sigma_t^2, one of three forms.

      kendall  sum_t e^(-s_t) L_t (/ 2 for a regression) + s_t / 2
      half     sum_t e^(-s_t) L_t / 2 + s_t / 2, whatever the task
      liebel   sum_t e^(-s_t) L_t / 2 + log(1 + e^(s_t))

  Kendall, Gal & Cipolla 2018 (eq. 7 and 10); `half` is what the code of MTAN
  and its successors computes; Liebel & Koerner 2018, whose regularizer
  is positive, so that the total never becomes negative.

  Args:
    form: 'kendall', 'half' or 'liebel'.
    kinds: task -> 'classification' or 'regression', for 'kendall'; a task that
      is not named counts as a regression.
    init: s at the start. 0 is weight 1/2 (1 for a classification); the code of
      MTAN starts at -0.5.
    learning_rate: of Adam on s; in the papers the network's.

  Raises:
    InputError: unknown form or kind, or a number out of range.
  """
  checks.choice(form, 'form', FORMS)
  for task, kind in (kinds or {}).items():
    checks.choice(kind, f'kinds.{task}', KINDS)
  checks.number(init, 'init')
  checks.number(learning_rate, 'learning_rate', above=0)
  tx = optax.adam(learning_rate)

  def factors(names):
    whole = [
      form == 'kendall' and (kinds or {}).get(t) == 'classification'
      for t in names
    ]
    return jnp.where(jnp.array(whole), 1.0, 0.5)

  def start(names):
    s = jnp.full(len(names), init, jnp.float32)
    return {'s': s, 'opt_state': tx.init(s)}

  def rule(step, state):
    s = state['s']
    weights = factors(step.names) * jnp.exp(-s)
    pull = jax.nn.sigmoid(s) if form == 'liebel' else 0.5
    gradient = jnp.where(step.present, pull - weights * step.losses, 0)
    return weights, descend(tx, gradient, state, step.present)

  return from_losses(rule, start)


def descend(tx, gradient, state, present):
  """One optimizer step on {'s', 'opt_state'}; absent tasks keep their s."""
  gradient = jnp.clip(gradient, -1e15, 1e15)  # Adam squares it
  updates, opt_state = tx.update(gradient, state['opt_state'], state['s'])
  s = optax.apply_updates(state['s'], updates)
  return {
    's': keep_absent(s, state['s'], present),
    'opt_state': opt_state,
  }
