"""GradDrop: each entry of the gradient keeps one sign, drawn by its purity."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import combined, shared_only
from mtl_kd_jax.balancing._preference import preference_vector
from mtl_kd_jax.balancing._vectors import in_order, make_step
from mtl_kd_jax.balancing.base import GradientBalancer


def make(
  leak: Mapping[str, float] | None = None, over_batch: bool = False
) -> GradientBalancer:
  """P = (1 + sum_t g_t / sum_t |g_t|) / 2; positive entries stay where P > U.

  With U ~ U(0, 1), negative entries stay where P < U, and d is the sum of (l_t
  + (1 - l_t) mask_t) g_t (Chen et al. 2020, algorithm 1).

  Args:
    leak: task -> l_t, the part that is never dropped; None or {} for 0.
    over_batch: for gradients with respect to features [b ...]: P is that of
      sign(value) * g summed over the batch, and all samples share U. That is
      the paper's form for features; parameters have no samples.

  Raises:
    InputError: a leak is not in [0, 1], or (from `init`) a task has none.
  """
  _checks.choice(over_batch, 'over_batch', (False, True))
  for task, kept in _checks.by_task(leak, 'leak').items():
    _checks.number(kept, f'leak.{task}', at_least=0, at_most=1)

  def init(names, gradients=None):
    del gradients
    if leak:
      preference_vector(leak, names, 'leak')
    return ()

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
    del probe
    step = make_step(losses, present, _checks.required(key, 'key'))
    kept = jnp.zeros(len(step.names), jnp.float32)
    if leak:
      kept = preference_vector(leak, step.names, 'leak')
    ordered = in_order(gradients)
    leaves, tree = zip(*map(jax.tree.flatten, ordered), strict=True)
    signs = [None] * len(leaves[0])
    if over_batch:
      signs = jax.tree.leaves(_checks.required(values, 'values'))
    # split(key, n)[i] is fold_in(key, i), which the caller may use as well: one
    # level down nobody draws but this rule.
    keys = jax.random.split(jax.random.fold_in(key, 0), len(signs))
    dropped = []
    for xs, sign, draw in zip(
      zip(*leaves, strict=True), signs, keys, strict=True
    ):
      d = _drop(xs, sign, kept, step.present, draw, axis_name)
      dropped.append(d.astype(xs[0].dtype))
    direction = jax.tree.unflatten(tree[0], dropped)
    weights = shared_only(jnp.ones(len(step.names), jnp.float32))
    return combined(step, weights, direction), state

  return GradientBalancer(
    init, update, linear=False, on_parameters=not over_batch
  )


def _drop(gradients, values, leak, present, key, axis_name):
  """The direction of one array, from gradients by task; float32."""
  # Task by task, without stacking: XLA fuses it into one pass.
  gradients = [
    jnp.where(there, g.astype(jnp.float32), 0)
    for there, g in zip(present, gradients, strict=True)
  ]
  # Samples agree on whether the magnitude of a feature should grow, not on its
  # sign.
  sign = 1 if values is None else jnp.where(values < 0, -1, 1)
  seen = [g * sign for g in gradients]
  if values is not None:
    seen = [jnp.sum(g, axis=0, keepdims=True) for g in seen]
    if axis_name is not None:
      seen = jax.lax.psum(seen, axis_name)
  total = sum(jnp.abs(g) for g in seen)
  purity = (1 + sum(seen) / jnp.where(total > 0, total, 1)) / 2
  split = axis_name if values is None else None
  draw = _uniform(key, purity.shape, split)
  # The barrier keeps XLA from repeating the draw for every use.
  up, down = jax.lax.optimization_barrier((purity > draw, purity < draw))
  return sum(
    g * jnp.where(jnp.where(g * sign > 0, up, down), 1, kept)
    for kept, g in zip(leak, gradients, strict=True)
  )


def _uniform(key, shape, axis_name):
  """This device's part of a draw for the whole batch.

  The draw is the same however many devices the batch is split over.
  """
  if axis_name is None:
    return jax.random.uniform(key, shape, jnp.float32)
  n = jax.lax.axis_size(axis_name)
  draw = jax.random.uniform(key, (n * shape[0], *shape[1:]), jnp.float32)
  start = jax.lax.axis_index(axis_name) * shape[0]
  return jax.lax.dynamic_slice_in_dim(draw, start, shape[0])
