"""A float32 array like the gradients of every task, kept in the state."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing._vectors import Step, in_order


def init_tracked(gradients: dict[str, Any]) -> dict[str, Any]:
  """Zeros in float32, in the shapes of the gradients of every task."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), gradients)


def track(
  tracked: Mapping[str, Any],
  gradients: Sequence[Any],
  step: Step,
  *,
  factors: jax.Array,
  rate: jax.Array,
) -> list[Any]:
  """Moves every y_t to y_t + rate (factor_t g_t - y_t), in float32.

  Args:
    tracked: task -> y_t, of `init_tracked`.
    gradients: g_t, in the order of the names.
    step: tells which tasks are present; the others keep their y_t.
    factors: float32 [K].
    rate: float32 scalar.

  Returns:
    The next y_t, in the order of the names.
  """
  rates = jnp.where(step.present, rate, 0)
  return [
    _move_toward(y, g, factor, rate)
    for y, g, factor, rate in zip(
      in_order(tracked), gradients, factors, rates, strict=True
    )
  ]


def _move_toward(y, g, factor, rate):
  return jax.tree.map(
    lambda y, g: y + rate * (factor * g.astype(jnp.float32) - y), y, g
  )


def cast_like(tree: Any, like: Any) -> Any:
  """`tree` in the dtypes of `like`."""
  return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def by_name(names: Sequence[str], trees: Sequence[Any]) -> dict[str, Any]:
  """The inverse of `in_order`: pytrees in the order of the sorted names."""
  return dict(zip(sorted(names), trees, strict=True))
