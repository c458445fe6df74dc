"""Inner products of gradients, and the adapter of the rules that need no more.

Most rules see the gradients only through their lengths and the angles between
them, so that K + K^2 numbers are enough, whatever the gradients are with
respect to and however they are split over devices.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Combined, GradientBalancer
from mtl_kd_jax.balancing.vectors import Step, make_step, own_buffers, to_dict

# Entries of an array from which on products are taken a pair at a time. Below,
# one operation for all pairs spares the compiler work.
_LARGE = 2**16


class Gram(NamedTuple):
  """The Gram matrix G = diag(norms) cosines diag(norms), kept in two parts.

  In one part it would hold squares of norms: the largest gradients would
  overflow in float32 and the smallest vanish beside them.

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


def inner_products(
  gradients: Sequence[Any],
  present: jax.Array | None = None,
  *,
  axis_name: str | None = None,
) -> Gram:
  """Norms and cosines of K gradients, accumulated in float32.

  Args:
    gradients: K pytrees of floats of any kind.
    present: bool [K]; absent gradients are taken out. None for all present.
    axis_name: a mapped axis along which the gradients are split, if any.
  """
  k = len(gradients)
  peaks = jnp.stack([_peak(g) for g in gradients])
  if axis_name is not None:
    peaks = jax.lax.pmax(peaks, axis_name)
  # Entries are brought near 1 first, since their squares would overflow; by a
  # power of 2, which is exact and, unlike a division, free inside the sums.
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
  # The diagonal is 1 exactly; the rest symmetric, in spite of rounding.
  cosines = jnp.where(off, (cosines + cosines.T) / 2, jnp.eye(k))
  norms = jnp.ldexp(lengths, exponents)
  return Gram(jnp.where(alive, norms, 0), cosines)


def weighted_sum(weights: jax.Array, gradients: Sequence[Any]) -> Any:
  """sum_i weights[i] * gradients[i], added in float32, of the same dtypes."""

  def combine(*xs):
    total = sum(weights[i] * _widened(x) for i, x in enumerate(xs))
    return total.astype(xs[0].dtype)

  return jax.tree.map(combine, *gradients)


class Weights(NamedTuple):
  """What a rule in vectors returns.

  Attributes:
    shared: float32 [K], direction = sum_i shared[i] g_i.
    own: float32 [K], factor on the gradients of the tasks' own parameters.
  """

  shared: jax.Array
  own: jax.Array


def plain(shared: jax.Array) -> Weights:
  """Weights of a rule that leaves the tasks' own parameters alone."""
  return Weights(shared, jnp.ones_like(shared))


def combined(step: Step, weights: Weights, direction: Any) -> Combined:
  """The result of a gradient balancer, from vectors."""
  shared, own = (jnp.where(step.present, w, 0) for w in weights)
  return Combined(
    direction, to_dict(step.names, shared), to_dict(step.names, own)
  )


def in_order(by_task: Mapping[str, Any]) -> list[Any]:
  """The values of a dictionary, in the order of the names."""
  return [by_task[t] for t in sorted(by_task)]


def from_gram(
  rule: Callable[..., tuple[Weights, Any]],
  init: Callable[[tuple[str, ...]], Any] = lambda names: (),
) -> GradientBalancer:
  """Makes a gradient balancer of a rule that needs inner products alone.

  Args:
    rule: (Gram, Step, state) -> (Weights, state). Weights are without effect
      where a task is absent.
    init: sorted names -> state.
  """

  def start(names, gradients=None):
    del gradients
    return own_buffers(init(tuple(sorted(names))))

  def update(
    losses, gradients, state, key, *, present=None, axis_name=None, **unused
  ):
    del unused
    step = make_step(losses, present, key)
    ordered = in_order(gradients)
    gram = inner_products(ordered, step.present, axis_name=axis_name)
    weights, state = rule(gram, step, state)
    shared = jnp.where(step.present, weights.shared, 0)
    return combined(step, weights, weighted_sum(shared, ordered)), state

  return GradientBalancer(start, update)


def _widened(x):
  return x.astype(jnp.float32)


def _peak(tree) -> jax.Array:
  """The largest absolute entry, float32; 0 for none."""
  peaks = [
    jnp.max(jnp.abs(_widened(x)), initial=0) for x in jax.tree.leaves(tree)
  ]
  return functools.reduce(jnp.maximum, peaks, jnp.zeros((), jnp.float32))


def _products(xs, scales) -> jax.Array:
  """All inner products [K K] of K arrays, each times its scale."""
  scaled = [s * _widened(x) for s, x in zip(scales, xs, strict=True)]
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
