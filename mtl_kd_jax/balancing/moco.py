"""MoCo: gradients that are tracked over steps, to take their noise away."""

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
from mtl_kd_jax.balancing.vectors import keep_absent, make_step, masked_softmax

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
    beta: of the tracking.
    beta_sigma: s, its decay.
    gamma: of the weights.
    gamma_sigma: r, its decay.
    rho: pull of the weights toward each other.
    projection: P onto the simplex, as in the paper, or a softmax, as in the
      authors' code. Defaults are those of LibMTL, which they helped with.
    rescale: whether g_t is L_t g_t / |g_t|, as in that code.

  Raises:
    InputError: unknown projection, or a number out of range.
  """
  checks.number(beta, 'beta', above=0, most=1)
  checks.number(gamma, 'gamma', above=0)
  for name, value in (('beta_sigma', beta_sigma), ('gamma_sigma', gamma_sigma)):
    checks.number(value, name, least=0)
  checks.number(rho, 'rho', least=0)
  checks.choice(projection, 'projection', PROJECTIONS)

  def start(names, gradients=None):
    checks.needed(gradients, names)
    return {
      'step': jnp.zeros((), jnp.int32),
      'tracked': blank(gradients),
      'w': jnp.full(len(names), 1 / len(names), jnp.float32),
    }

  def update(
    losses, gradients, state, key, *, present=None, axis_name=None, **unused
  ):
    del unused
    step = make_step(losses, present, key)
    time = state['step'] + 1
    rate = beta / time**beta_sigma
    ordered = in_order(gradients)
    factor = jnp.ones_like(step.losses)
    if rescale:
      norms = inner_products(ordered, step.present, axis_name=axis_name).norms
      factor = step.losses / jnp.where(norms > 0, norms, 1)
    tracked = [
      follow(y, g, factor[i], jnp.where(step.present[i], rate, 0))
      for i, (y, g) in enumerate(
        zip(in_order(state['tracked']), ordered, strict=True)
      )
    ]
    gram = inner_products(tracked, step.present, axis_name=axis_name)
    n = jnp.minimum(gram.norms, 1e15)
    products = gram.cosines * n[:, None] * n[None, :]
    held = jnp.sum(jnp.where(step.present, state['w'], 0))
    w = jnp.where(step.present, state['w'], 0) / jnp.maximum(held, 1e-30)
    pull = jnp.matmul(products, w, precision='highest') + rho * w
    w = w - gamma / time**gamma_sigma * pull
    project = masked_softmax if projection == 'softmax' else project_to_simplex
    w = jnp.where(step.present.any(), project(w, step.present), 0)
    state = {
      'step': time,
      'tracked': to_dict_of(step.names, tracked),
      'w': keep_absent(w * held, state['w'], step.present),
    }
    direction = cast(weighted_sum(w, tracked), ordered[0])
    return combined(step, plain(w), direction), state

  return GradientBalancer(start, update, linear=False, on_features=False)


def blank(gradients):
  """Zeros in float32 like the gradients of every task."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), gradients)


def follow(y, g, factor, rate):
  """Moves y to y + rate (factor g - y), in float32."""
  return jax.tree.map(
    lambda y, g: y + rate * (factor * g.astype(jnp.float32) - y), y, g
  )


def cast(tree, like):
  """`tree` in the dtypes of `like`."""
  return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def to_dict_of(names, trees):
  """Pytrees in the order of the sorted names, by name."""
  return dict(zip(sorted(names), trees, strict=True))
