"""Homoscedastic uncertainty: weights are learned as noise of the tasks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._learned import descend, init_learned
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.errors import InputError

FORMS = ('kendall', 'half', 'liebel')
KINDS = ('classification', 'regression')


def make(
  form: str = 'half',
  kinds: Mapping[str, str] | None = None,
  init: float = 0.0,
  learning_rate: float = 1e-4,
  *,
  task_kinds: Mapping[str, str] | None = None,
) -> Balancer:
  """Minimizes over s as well, s_t = log sigma_t^2, one of three forms.

      kendall  sum_t e^(-s_t) L_t (/ 2 for a regression) + s_t / 2
      half     sum_t e^(-s_t) L_t / 2 + s_t / 2, for every kind of task
      liebel   sum_t e^(-s_t) L_t / 2 + log(1 + e^(s_t))

  `kendall` is from Kendall, Gal & Cipolla 2018 (eq. 7 and 10), `half` from the
  code of MTAN and its successors. `liebel` is from Liebel & Koerner 2018: its
  regularizer is positive, so that the total never becomes negative.

  Args:
    form: 'kendall', 'half' or 'liebel'.
    kinds: task -> 'classification' or 'regression', for 'kendall'. Tasks that
      are not in it are as in `task_kinds`, otherwise regressions.
    init: s at the start. 0 is weight 1/2 (1 for a classification); the code of
      MTAN starts at -0.5.
    learning_rate: of Adam on s; the network's in the papers.
    task_kinds: the kinds where `kinds` does not say otherwise.

  Raises:
    InputError: unknown form or kind, a number out of range, or (from `init`)
      the kind of an unknown task.
  """
  _checks.choice(form, 'form', FORMS)
  for option, by_task in (('kinds', kinds), ('task_kinds', task_kinds)):
    for task, kind in _checks.by_task(by_task, option).items():
      _checks.choice(kind, f'{option}.{task}', KINDS)
  _checks.number(init, 'init')
  _checks.number(learning_rate, 'learning_rate', above=0)
  given = tuple(kinds or ())
  kinds = {**(task_kinds or {}), **(kinds or {})}
  tx = optax.adam(learning_rate)

  def factors(names):
    whole = [
      form == 'kendall' and kinds.get(t) == 'classification' for t in names
    ]
    return jnp.where(jnp.array(whole), 1.0, 0.5)

  def start(names):
    if unknown := sorted(set(given) - set(names)):
      raise InputError(
        expected=f'some of {", ".join(names)}',
        found=', '.join(unknown),
        argument='kinds',
        do='name tasks that are balanced',
      )
    return init_learned(tx, jnp.full(len(names), init, jnp.float32))

  def rule(step, state):
    s = state['s']
    weights = factors(step.names) * jnp.exp(-s)
    regularizer = jax.nn.sigmoid(s) if form == 'liebel' else 0.5
    gradient = jnp.where(step.present, regularizer - weights * step.losses, 0)
    return weights, descend(tx, gradient, state, step.present)

  return from_losses(rule, start)
