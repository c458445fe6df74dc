"""GradDrop: each entry of the gradient keeps one sign, drawn by its purity."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import combined, in_order, plain
from mtl_kd_jax.balancing.vectors import make_step


def make(
  leak: Mapping[str, float] | None = None, over_batch: bool = False
) -> GradientBalancer:
  """P = (1 + sum_t g_t / sum_t |g_t|) / 2; positive entries stay where P > U.

  With U ~ U(0, 1), negative entries stay where P < U, and d is the sum of (l_t
  + (1 - l_t) mask_t) g_t (Chen et al. 2020, algorithm 1).

  Args:
    leak: task -> l_t, the part that is never dropped; None for 0.
    over_batch: for gradients with respect to features [b ...]: P is that of
      sign(value) * g summed over the batch, and all samples share U. That is
      the paper's form for features.

  Raises:
    InputError: a leak is not in [0, 1].
  """
  for task, kept in (leak or {}).items():
    checks.number(kept, f'leak.{task}', least=0, most=1)

  def start(names, gradients=None):
    del gradients
    if leak:
      checks.preference_vector(leak, names, 'leak')
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
    step = make_step(losses, present, key)
    kept = jnp.zeros(len(step.names))
    if leak:
      kept = checks.preference_vector(leak, step.names, 'leak')
    ordered = in_order(gradients)
    leaves, tree = zip(*map(jax.tree.flatten, ordered), strict=True)
    signs = [None] * len(leaves[0])
    if over_batch:
      signs = jax.tree.leaves(checks.needed(values, step.names, 'values'))
    dropped = []
    for xs, sign in zip(zip(*leaves, strict=True), signs, strict=True):
      draw = jax.random.fold_in(key, len(dropped))
      d = _drop(jnp.stack(xs), sign, kept, step.present, draw, axis_name)
      dropped.append(d.astype(xs[0].dtype))
    direction = jax.tree.unflatten(tree[0], dropped)
    weights = plain(jnp.ones(len(step.names)))
    return combined(step, weights, direction), state

  return GradientBalancer(start, update, linear=False)


def _drop(g, values, leak, present, key, axis_name):
  """The direction of one array, from gradients [K ...]."""
  g = _column(present, g) * g.astype(jnp.float32)
  signed = seen = g
  if values is not None:
    # What they do to the size of the feature, and not to its sign, has a
    # meaning that samples share.
    signed = g * jnp.where(values < 0, -1, 1)[None]
    seen = jnp.sum(signed, axis=1, keepdims=True)
    if axis_name is not None:
      seen = jax.lax.psum(seen, axis_name)
  total = jnp.sum(jnp.abs(seen), axis=0)
  purity = (1 + jnp.sum(seen, axis=0) / jnp.where(total > 0, total, 1)) / 2
  split = axis_name if values is None else None
  draw = _uniform(key, purity.shape, split)
  up, down = (purity > draw)[None], (purity < draw)[None]
  mask = jnp.where(signed > 0, up, down)
  leak = _column(leak, g)
  return jnp.sum((leak + (1 - leak) * mask) * g, axis=0)


def _uniform(key, shape, axis_name):
  """This device's part of a draw for the whole batch, in every layout."""
  if axis_name is None:
    return jax.random.uniform(key, shape)
  n = jax.lax.axis_size(axis_name)
  draw = jax.random.uniform(key, (n * shape[0], *shape[1:]))
  start = jax.lax.axis_index(axis_name) * shape[0]
  return jax.lax.dynamic_slice_in_dim(draw, start, shape[0])


def _column(x, like):
  """A vector [K] in the rank of `like` [K ...]."""
  return x.reshape(-1, *(1 for _ in like.shape[1:]))
