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
from mtl_kd_jax.balancing._vectors import (
  among_present,
  in_order,
  keep_absent,
  make_step,
)
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
    learn: (w [K], J_1 J_2^T [K K], Step) -> the next w. Those tasks are present
      in the step that have a gradient in both mini-batches.
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
    values=None,
    probe=None,
  ):
    del values
    step = make_step(losses, present, key)
    _checks.required(probe, 'probe')
    first, second = (in_order(probe(i, None)) for i in (1, 2))
    cross, measured = _cross_products(
      first, second, step.present, axis_name, scaled
    )
    w = among_present(state, step.present)
    learned = learn(
      among_present(w, measured), cross, step._replace(present=measured)
    )
    # What was not measured keeps its weight, and absent tasks their share.
    w = jnp.where(measured, learned * _held(w, measured), w)
    state = keep_absent(w * _held(state, step.present), state, step.present)
    shared = jnp.where(step.present, mix(w, step), 0)
    direction = weighted_sum(shared, in_order(gradients))
    return combined(step, shared_only(shared), direction), state

  return GradientBalancer(init, update, num_minibatches=3, on_features=False)


def _held(w, tasks):
  """The share of w that some tasks hold."""
  return jnp.sum(jnp.where(tasks, w, 0))


def _cross_products(first, second, present, axis_name, scaled):
  """J_1 J_2^T [K K], and which tasks have a gradient in both, bool [K].

  A row of zeros would attract the weights, as a gradient of 0 does in MGDA; but
  a task may have no label in one of the mini-batches.
  """
  k = len(first)
  both = inner_products(
    first + second, jnp.tile(present, 2), axis_name=axis_name
  )
  measured = (both.norms[:k] > 0) & (both.norms[k:] > 0)
  if scaled:
    norms = jnp.where(jnp.tile(measured, 2), both.norms, 0)
    count = 2 * jnp.maximum(jnp.sum(measured), 1)
    mean = jnp.maximum(jnp.sum(norms / count), 1e-30)
    both = both._replace(norms=both.norms / mean)
  # Bounded so that a step along them stays finite.
  return both.products(1e15)[:k, k:], measured
