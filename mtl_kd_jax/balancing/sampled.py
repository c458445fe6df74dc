"""SDMGrad and MoDo: gradients on independent parts of the batch.

The product of gradients of one batch with themselves is a biased estimate of
G, by their variance. That of two independent batches is not.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import (
  combined,
  in_order,
  inner_products,
  plain,
  weighted_sum,
)
from mtl_kd_jax.balancing.solvers import project_to_simplex
from mtl_kd_jax.balancing.vectors import keep_absent, make_step


def make_sdmgrad(
  lambda_: float = 0.3,
  steps: int = 20,
  learning_rate: float = 1.0,
  preference: Mapping[str, float] | None = None,
) -> GradientBalancer:
  """Direction (g_w + lambda g_0) / (1 + lambda), g_0 = sum_t p_t g_t.

  w is learned over all steps of the training by w <- P(w - eta J_1 J_2^T (w +
  lambda p)), `steps` times in each, where P projects onto the simplex and J_1
  and J_2 are from other parts of the batch than the gradients in g (Xiao, Ban &
  Ji 2023, algorithm 1). J_1 J_2^T is divided by the squared mean norm, so that
  eta has no unit.

  Args:
    lambda_: pull toward the preferred direction g_0; 0.3 in the paper.
    steps: of the inner loop; 20 in the paper.
    learning_rate: eta.
    preference: task -> p_t; None for 1/K.

  Raises:
    InputError: a number is out of range, or a task has no preference.
  """
  checks.number(lambda_, 'lambda_', least=0)
  checks.number(steps, 'steps', least=1)
  checks.number(learning_rate, 'learning_rate', above=0)
  checks.preference(preference, 'preference')

  def target(step):
    p = checks.preference_vector(preference, step.names, 'preference')
    p = jnp.where(step.present, p, 0)
    return p / jnp.maximum(jnp.sum(p), 1e-30)

  def learn(w, cross, step):
    p = target(step)

    def improve(_, w):
      pull = jnp.matmul(cross, w + lambda_ * p, precision='highest')
      return project_to_simplex(w - learning_rate * pull, step.present)

    return jax.lax.fori_loop(0, steps, improve, w)

  def mix(w, step):
    return (w + lambda_ * target(step)) / (1 + lambda_)

  return _on_three_parts(learn, mix, preference, scaled=True)


def make_modo(
  learning_rate: float = 1e-3, rho: float = 0.0
) -> GradientBalancer:
  """Direction g_w, and a step w <- P(w - gamma (J_1 J_2^T + rho I) w).

  Chen et al. 2023, algorithm 1 (double sampling).

  Args:
    learning_rate: gamma.
    rho: pull of w toward equal weights.

  Raises:
    InputError: a number is out of range.
  """
  checks.number(learning_rate, 'learning_rate', above=0)
  checks.number(rho, 'rho', least=0)

  def learn(w, cross, step):
    pull = jnp.matmul(cross, w, precision='highest') + rho * w
    return project_to_simplex(w - learning_rate * pull, step.present)

  return _on_three_parts(learn, lambda w, step: w, None, scaled=False)


def _on_three_parts(learn, mix, preference, *, scaled):
  """A balancer that learns w from parts 1 and 2 and combines part 0."""

  def start(names, gradients=None):
    del gradients
    checks.preference_vector(preference, names, 'preference')
    return jnp.full(len(names), 1 / len(names), jnp.float32)

  def update(
    losses,
    gradients,
    state,
    key,
    *,
    present=None,
    axis_name=None,
    probe=None,
    **unused,
  ):
    del unused
    step = make_step(losses, present, key)
    checks.needed(probe, step.names, 'probe')
    first, second = (in_order(probe(part, None)) for part in (1, 2))
    cross = _cross_products(first, second, step.present, axis_name, scaled)
    w = _shared_out(state, step.present)
    w = jnp.where(step.present.any(), learn(w, cross, step), w)
    ordered = in_order(gradients)
    shared = jnp.where(step.present, mix(w, step), 0)
    # What absent tasks had stays theirs.
    held = jnp.sum(jnp.where(step.present, state, 0))
    state = keep_absent(w * held, state, step.present)
    return (
      combined(step, plain(shared), weighted_sum(shared, ordered)),
      state,
    )

  return GradientBalancer(start, update, parts=3, on_features=False)


def _cross_products(first, second, present, axis_name, scaled):
  """J_1 J_2^T [K K], bounded so that a step along it stays finite."""
  k = len(first)
  both = inner_products(
    first + second, jnp.tile(present, 2), axis_name=axis_name
  )
  n = both.norms
  if scaled:
    n = n / jnp.maximum(jnp.sum(n / (2 * jnp.sum(present))), 1e-30)
  n = jnp.minimum(n, 1e15)
  return both.cosines[:k, k:] * n[:k, None] * n[None, k:]


def _shared_out(w, present):
  """The weights w among the present tasks alone, with sum 1."""
  w = jnp.where(present, w, 0)
  total = jnp.sum(w)
  even = present / jnp.maximum(jnp.sum(present), 1)
  return jnp.where(total > 0, w / jnp.where(total > 0, total, 1), even)
