"""MoCo: gradients are tracked over steps, to reduce their noise."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  combined,
  inner_products,
  shared_only,
  weighted_sum,
)
from mtl_kd_jax.balancing._solvers import project_to_simplex
from mtl_kd_jax.balancing._tracked import (
  by_name,
  cast_like,
  init_tracked,
  track,
)
from mtl_kd_jax.balancing._vectors import (
  among_present,
  in_order,
  keep_absent,
  make_step,
)
from mtl_kd_jax.balancing.base import GradientBalancer

PROJECTIONS = ('simplex', 'softmax')


def make(
  beta: float = 0.5,
  beta_sigma: float = 0.5,
  gamma: float = 0.1,
  gamma_sigma: float = 0.5,
  rho: float = 0.0,
  projection: str = 'softmax',
  rescale: bool = True,
) -> GradientBalancer:
  """Sums w_t y_t: y_t follows g_t, and w the least |sum_t w_t y_t|^2.

  In step k: y <- y - beta / k^s (y - g), then w <- P(w - gamma / k^r (Y Y^T +
  rho I) w) (Fernando et al. 2023, algorithm 1). The state holds a
  gradient for each task.

  Args:
    beta: rate of the tracked gradients, in (0, 1].
    beta_sigma: s, the power of its decay.
    gamma: rate of the weights.
    gamma_sigma: r, the power of its decay.
    rho: pull of the weights toward each other.
    projection: P is the projection onto the simplex ('simplex', as in the
      paper) or a softmax ('softmax', as in the authors' code). Defaults are
      those of LibMTL, to which the authors contributed.
    rescale: whether g_t is L_t g_t / |g_t|, as in that code.

  Raises:
    InputError: unknown projection, or a number out of range.
  """
  _checks.number(beta, 'beta', above=0, at_most=1)
  _checks.number(gamma, 'gamma', above=0)
  for name, value in (('beta_sigma', beta_sigma), ('gamma_sigma', gamma_sigma)):
    _checks.number(value, name, at_least=0)
  _checks.number(rho, 'rho', at_least=0)
  _checks.choice(projection, 'projection', PROJECTIONS)
  _checks.choice(rescale, 'rescale', (False, True))

  def init(names, gradients=None):
    _checks.required(gradients, 'gradients')
    return {
      'step': jnp.zeros((), jnp.int32),
      'tracked': init_tracked(gradients),
      'w': jnp.full(len(names), 1 / len(names), jnp.float32),
    }

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
    time = state['step'] + 1
    elapsed = time.astype(jnp.float32)
    rate = beta / elapsed**beta_sigma
    ordered = in_order(gradients)
    factors = jnp.ones_like(step.losses)
    if rescale:
      norms = inner_products(ordered, step.present, axis_name=axis_name).norms
      factors = step.losses / jnp.where(norms > 0, norms, 1)
    tracked = track(state['tracked'], ordered, step, factors=factors, rate=rate)
    gram = inner_products(tracked, step.present, axis_name=axis_name)
    w = among_present(state['w'], step.present)
    slope = jnp.matmul(gram.products(1e15), w, precision='highest') + rho * w
    w = w - gamma / elapsed**gamma_sigma * slope
    if projection == 'softmax':
      w = jax.nn.softmax(w, where=step.present)
    else:
      w = project_to_simplex(w, step.present)
    w = jnp.where(step.present.any(), w, 0)
    # Absent tasks keep their share of the weights.
    held = jnp.sum(jnp.where(step.present, state['w'], 0))
    state = {
      'step': time,
      'tracked': by_name(step.names, tracked),
      'w': keep_absent(w * held, state['w'], step.present),
    }
    direction = cast_like(weighted_sum(w, tracked), ordered[0])
    return combined(step, shared_only(w), direction), state

  return GradientBalancer(init, update, linear=False, on_features=False)
