"""Shared by SDMGrad and MoDo: gradients on independent mini-batches.

The product of the gradients of one batch with themselves is a biased estimate
of G: it contains their variance. That of two independent batches does not.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  combined,
  inner_products,
  shared_only,
  weighted_sum,
)
from mtl_kd_jax.balancing._preference import preference_vector
from mtl_kd_jax.balancing._vectors import in_order, keep_absent, make_step
from mtl_kd_jax.balancing.base import GradientBalancer


def from_three_minibatches(
  learn: Callable[..., jax.Array],
  mix: Callable[..., jax.Array] = lambda w, step: w,
  *,
  preference: Mapping[str, float] | None = None,
  scaled: bool = False,
) -> GradientBalancer:
  """A balancer that learns w on mini-batches 1 and 2 and combines mini-batch 0.

  Args:
    learn: (w [K], J_1 J_2^T [K K], Step) -> the next w.
    mix: (w, Step) -> weights of the gradients of mini-batch 0.
    preference: checked by `init`.
    scaled: whether J_1 J_2^T is divided by the squared mean norm.
  """

  def init(names, gradients=None):
    del gradients
    preference_vector(preference, names, 'preference')
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
    _checks.required(probe, 'probe')
    first, second = (in_order(probe(i, None)) for i in (1, 2))
    cross = _cross_products(first, second, step.present, axis_name, scaled)
    w = _among_present(state, step.present)
    w = jnp.where(step.present.any(), learn(w, cross, step), w)
    ordered = in_order(gradients)
    shared = jnp.where(step.present, mix(w, step), 0)
    # Absent tasks keep their share of the weights.
    held = jnp.sum(jnp.where(step.present, state, 0))
    state = keep_absent(w * held, state, step.present)
    direction = weighted_sum(shared, ordered)
    return combined(step, shared_only(shared), direction), state

  return GradientBalancer(init, update, num_minibatches=3, on_features=False)


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


def _among_present(w, present):
  """The weights w among the present tasks alone, with sum 1."""
  w = jnp.where(present, w, 0)
  total = jnp.sum(w)
  even = present.astype(w.dtype) / jnp.maximum(jnp.sum(present), 1)
  return jnp.where(total > 0, w / jnp.where(total > 0, total, 1), even)
