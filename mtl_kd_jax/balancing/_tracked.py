"""A float32 array like the gradients of every task, kept in the state."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def init_tracked(gradients: dict[str, Any]) -> dict[str, Any]:
  """Zeros in float32, in the shapes of the gradients of every task."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), gradients)


def move_toward(y: Any, g: Any, factor: jax.Array, rate: jax.Array) -> Any:
  """Moves y to y + rate (factor g - y), in float32."""
  return jax.tree.map(
    lambda y, g: y + rate * (factor * g.astype(jnp.float32) - y), y, g
  )


def cast_like(tree: Any, like: Any) -> Any:
  """`tree` in the dtypes of `like`."""
  return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def by_name(names: Sequence[str], trees: Sequence[Any]) -> dict[str, Any]:
  """The inverse of `in_order`: pytrees in the order of the sorted names."""
  return dict(zip(sorted(names), trees, strict=True))
