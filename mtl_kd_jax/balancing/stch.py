"""Smooth Tchebycheff scalarization: a soft maximum of the losses."""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.balancing.vectors import (
  SMALLEST_LOSS,
  from_losses,
  masked_softmax,
)

FORMS = ('paper', 'log')


def make(
  form: str = 'log',
  mu: float = 1.0,
  warmup: int = 0,
  preference: Mapping[str, float] | None = None,
  ideal: float = 0.0,
) -> Balancer:
  """Descends on a soft maximum of the losses (Lin et al. 2024).

      paper  mu log sum_t exp(p_t (L_t - z) / mu)
      log    K mu log sum_t exp(p_t log(L_t / m_t) / mu)

  The second is what their code for deep networks and LibMTL compute: m_t is
  the task's mean loss over the first `warmup` steps, in which the step descends
  on sum_t log L_t.

  Args:
    form: 'paper' or 'log'.
    mu: smoothness; toward 0 only the worst loss counts.
    warmup: steps of the warm-up of 'log'; LibMTL has 4 epochs. Without, m_t is
      the first loss.
    preference: task -> p_t; None for 1.
    ideal: z, of 'paper': the same for all tasks, below every loss.

  Raises:
    InputError: unknown form, a number out of range, or a task without
      preference.
  """
  checks.choice(form, 'form', FORMS)
  checks.number(mu, 'mu', above=0)
  checks.number(warmup, 'warmup', least=0)
  checks.number(ideal, 'ideal')
  checks.preference(preference, 'preference')

  def start(names):
    checks.preference_vector(preference, names, 'preference')
    zeros = jnp.zeros(len(names), jnp.float32)
    return {'step': jnp.zeros((), jnp.int32), 'sum': zeros, 'count': zeros}

  def rule(step, state):
    p = checks.preference_vector(preference, step.names, 'preference')
    if form == 'paper':
      x = p * (step.losses - ideal) / mu
      return p * masked_softmax(x, step.present), state
    losses = jnp.maximum(step.losses, SMALLEST_LOSS)
    warm = state['step'] < warmup
    new = step.present & (warm | (state['count'] == 0))
    total = state['sum'] + jnp.where(new, losses, 0)
    count = state['count'] + new
    worst = jnp.where(count > 0, total / jnp.maximum(count, 1), losses)
    share = masked_softmax(p * jnp.log(losses / worst) / mu, step.present)
    weights = jnp.where(warm, 1, step.count * p * share) / losses
    state = {'step': state['step'] + 1, 'sum': total, 'count': count}
    return weights, state

  return from_losses(rule, start)
