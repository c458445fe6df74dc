"""Inner products of gradients, and the adapter of rules that need only those.

Most rules depend on the gradients only through their norms and cosines. K + K^2
numbers are then enough, whatever the gradients are with respect to and however
they are split over devices.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing._vectors import (
  Step,
  distinct_buffers,
  in_order,
  make_step,
  to_dict,
)
from mtl_kd_jax.balancing.base import Combined, GradientBalancer

# Arrays of at least this many entries are multiplied a pair at a time. Below,
# one operation for all pairs compiles faster.
_LARGE = 2**16


class Gram(NamedTuple):
  """The Gram matrix G = diag(norms) cosines diag(norms), kept in two parts.

  In one matrix it would hold squared norms: those of the largest gradients
  overflow in float32, and the smallest underflow.

  Attributes:
    norms: float32 [K], 0 where a task is absent.
    cosines: float32 [K K], of a zero or absent gradient 1 with itself and 0
      with the others.
  """

  norms: jax.Array
  cosines: jax.Array

  @property
  def scale(self) -> jax.Array:
    """The largest norm, or 1 if all are 0."""
    largest = jnp.max(self.norms)
    return jnp.where(largest > 0, largest, 1)

  @property
  def relative(self) -> jax.Array:
    """Norms in units of the largest, [K] in [0, 1].

    Not below 1e-30 unless 0, so that one may divide by it.
    """
    ratio = jnp.maximum(self.norms / self.scale, 1e-30)
    return jnp.where(self.norms > 0, ratio, 0)

  @property
  def scaled(self) -> jax.Array:
    """G in units of the largest squared norm, [K K] in [-1, 1]."""
    r = self.relative
    return self.cosines * r[:, None] * r[None, :]

  def products(self, limit: float) -> jax.Array:
    """G itself [K K], of norms up to `limit`, so that it stays finite."""
    n = jnp.minimum(self.norms, limit)
    return self.cosines * n[:, None] * n[None, :]


def inner_products(
  gradients: Mapping[str, Any] | Sequence[Any],
  present: jax.Array | None = None,
  *,
  axis_name: str | None = None,
) -> Gram:
  """Norms and cosines of K gradients, accumulated in float32.

  Args:
    gradients: K pytrees of arrays of any floating-point dtype; a dictionary by
      task is taken in the order of the names.
    present: bool [K]; absent gradients count as 0. None for all present.
    axis_name: a mapped axis along which the gradients are split, if any.
  """
  if isinstance(gradients, Mapping):
    gradients = in_order(gradients)
  k = len(gradients)
  peaks = jnp.stack([_peak(g) for g in gradients])
  if axis_name is not None:
    peaks = jax.lax.pmax(peaks, axis_name)
  # Entries are scaled to about 1 first, since their squares would overflow. The
  # scale is a power of 2: exact and, unlike a division, free inside the sums.
  _, exponents = jnp.frexp(jnp.where(peaks > 0, peaks, 1))
  exponents = jnp.clip(exponents, -126, 126)
  scales = jnp.ldexp(jnp.float32(1), -exponents)
  products = sum(
    (
      _products(xs, scales)
      for xs in zip(*map(jax.tree.leaves, gradients), strict=True)
    ),
    start=jnp.zeros((k, k), jnp.float32),
  )
  if axis_name is not None:
    products = jax.lax.psum(products, axis_name)
  lengths = jnp.sqrt(jnp.diagonal(products))
  alive = lengths > 0
  if present is not None:
    alive &= present
  safe = jnp.where(alive, lengths, 1)
  cosines = jnp.clip(products / safe[:, None] / safe[None, :], -1, 1)
  off = alive[:, None] & alive[None, :] & ~jnp.eye(k, dtype=bool)
  # The diagonal is exactly 1 and the rest symmetric, despite rounding.
  cosines = jnp.where(
    off, (cosines + cosines.T) / 2, jnp.eye(k, dtype=cosines.dtype)
  )
  norms = jnp.ldexp(lengths, exponents)
  return Gram(jnp.where(alive, norms, 0), cosines)


def weighted_sum(weights: jax.Array, gradients: Sequence[Any]) -> Any:
  """sum_i weights[i] * gradients[i], added in float32, in their dtypes."""

  def combine(*xs):
    total = sum(weights[i] * _as_float32(x) for i, x in enumerate(xs))
    return total.astype(xs[0].dtype)

  return jax.tree.map(combine, *gradients)


class Weights(NamedTuple):
  """What a rule in vectors returns.

  Attributes:
    shared: float32 [K], direction = sum_i shared[i] g_i.
    task_specific: float32 [K], factor on the gradient of each task's loss with
      respect to its task-specific parameters.
  """

  shared: jax.Array
  task_specific: jax.Array


def shared_only(shared: jax.Array) -> Weights:
  """Weights of a rule that does not scale task-specific gradients."""
  return Weights(shared, jnp.ones_like(shared))


def combined(step: Step, weights: Weights, direction: Any) -> Combined:
  """The result of a gradient balancer, from vectors."""
  shared, task_specific = (jnp.where(step.present, w, 0) for w in weights)
  return Combined(
    direction, to_dict(step.names, shared), to_dict(step.names, task_specific)
  )


def divide_by_norms(x: jax.Array, norms: jax.Array) -> jax.Array:
  """Weights of unit gradients as weights of gradients; 0 where a norm is."""
  alive = norms > 0
  return jnp.where(alive, x / jnp.where(alive, norms, 1), 0)


def safe_rsqrt(square: jax.Array) -> jax.Array:
  """1 / sqrt(x), 0 where x is not above 0."""
  good = square > 0
  return jnp.where(good, 1 / jnp.sqrt(jnp.where(good, square, 1)), 0)


def from_gram(
  rule: Callable[..., tuple[Weights, Any]],
  init: Callable[[tuple[str, ...]], Any] = lambda names: (),
) -> GradientBalancer:
  """Makes a gradient balancer of a rule that needs inner products only.

  Args:
    rule: (Gram, Step, state) -> (Weights, state). The weights of absent tasks
      are replaced by 0.
    init: sorted names -> state.
  """

  def start(names, gradients=None):
    del gradients
    return distinct_buffers(init(tuple(sorted(names))))

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
    ordered = in_order(gradients)
    gram = inner_products(ordered, step.present, axis_name=axis_name)
    weights, state = rule(gram, step, state)
    shared = jnp.where(step.present, weights.shared, 0)
    return combined(step, weights, weighted_sum(shared, ordered)), state

  return GradientBalancer(start, update)


def _as_float32(x):
  return x.astype(jnp.float32)


def _peak(tree) -> jax.Array:
  """The largest absolute entry, float32; 0 for none."""
  peaks = [
    jnp.max(jnp.abs(_as_float32(x)), initial=0) for x in jax.tree.leaves(tree)
  ]
  return functools.reduce(jnp.maximum, peaks, jnp.zeros((), jnp.float32))


def _products(xs, scales) -> jax.Array:
  """All inner products [K K] of K arrays, each times its scale."""
  scaled = [s * _as_float32(x) for s, x in zip(scales, xs, strict=True)]
  if xs[0].size < _LARGE:
    rows = jnp.stack(scaled).reshape(len(xs), -1)
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
  # A pair at a time: nothing is copied, and sums of long products are many
  # times faster on CPU than a matrix product with so few rows.
  sums = {}
  for i, one in enumerate(scaled):
    for j, other in enumerate(scaled[: i + 1]):
      sums[i, j] = sums[j, i] = jnp.sum(one * other)
  places = range(len(xs))
  return jnp.array([[sums[i, j] for j in places] for i in places])
