"""Smooth Tchebycheff scalarization: a smooth maximum of the losses."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._preference import check_preference, preference_vector
from mtl_kd_jax.balancing._vectors import SMALLEST_LOSS, from_losses
from mtl_kd_jax.balancing.base import Balancer

FORMS = ('paper', 'log')


def make(
  form: str = 'log',
  mu: float = 1.0,
  warmup: int = 0,
  preference: Mapping[str, float] | None = None,
  ideal: float = 0.0,
) -> Balancer:
  """Descends on a smooth maximum of the losses (Lin et al. 2024).

      paper  mu log sum_t exp(p_t (L_t - z) / mu)
      log    K mu log sum_t exp(p_t log(L_t / m_t) / mu)

  The second is what their code for deep networks and LibMTL compute: m_t is
  the task's mean loss over the first `warmup` steps, in which the step descends
  on sum_t log L_t.

  Args:
    form: 'paper' or 'log'.
    mu: smoothness; toward 0 only the worst loss counts.
    warmup: steps of the warm-up of 'log'; 4 epochs in LibMTL. With 0, m_t is
      the first loss.
    preference: task -> p_t; None or {} for 1.
    ideal: z of 'paper', a lower bound of every loss; the same for all tasks.

  Raises:
    InputError: unknown form, a number out of range, all preferences are 0, or
      (from `init`) a task has none.
  """
  _checks.choice(form, 'form', FORMS)
  _checks.number(mu, 'mu', above=0)
  _checks.number(warmup, 'warmup', at_least=0, integer=True)
  _checks.number(ideal, 'ideal')
  check_preference(preference, 'preference')

  def init(names):
    preference_vector(preference, names, 'preference')
    zeros = jnp.zeros(len(names), jnp.float32)
    return {'step': jnp.zeros((), jnp.int32), 'sum': zeros, 'count': zeros}

  def rule(step, state):
    p = preference_vector(preference, step.names, 'preference')
    if form == 'paper':
      x = p * (step.losses - ideal) / mu
      return p * jax.nn.softmax(x, where=step.present), state
    losses = jnp.maximum(step.losses, SMALLEST_LOSS)
    warm = state['step'] < warmup
    new = step.present & (warm | (state['count'] == 0))
    total = state['sum'] + jnp.where(new, losses, 0)
    count = state['count'] + new
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), losses)
    share = jax.nn.softmax(p * jnp.log(losses / mean) / mu, where=step.present)
    weights = jnp.where(warm, 1, step.count * p * share) / losses
    state = {'step': state['step'] + 1, 'sum': total, 'count': count}
    return weights, state

  return from_losses(rule, init)
