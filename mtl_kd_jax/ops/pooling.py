"""2x2 max-pooling that remembers positions, and the unpooling that uses them.

The position is a uint8 in 0..3, row by row inside its window, and not a flat
index: a quarter of the memory, and no scatter anywhere. It comes out of a
tournament of strict comparisons together with the value. Comparing the window
with its maximum afterwards would be shorter and wrong: XLA may recompute the
input in another fusion with other rounding, and then no position matches.
Ties go to the first in row-major order, as in PyTorch.
"""

import jax
from jax.custom_derivatives import zero_from_primal
import jax.numpy as jnp

from mtl_kd_jax.ops.bilinear import (
  equally_varying,
  make_primitive,
  set_transposes,
)


@jax.custom_jvp
def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Halves both sides.

  Args:
    x: float [b h w c], h and w even.

  Returns:
    The maxima, as `x` [b h/2 w/2 c], and their positions, uint8 of that shape.
  """
  value, *others = _window(x)
  position = jnp.zeros(value.shape, jnp.uint8)
  for k, other in enumerate(others, start=1):
    greater = other > value
    value = jnp.where(greater, other, value)
    position = jnp.where(greater, jnp.uint8(k), position)
  return value, position


@max_pool.defjvp
def _max_pool_jvp(primals, tangents):
  value, position = max_pool(*primals)
  tangent = _pick.bind(*equally_varying(*tangents, position))
  return (value, position), (tangent, zero_from_primal(position))


def max_unpool(value: jax.Array, position: jax.Array) -> jax.Array:
  """Doubles both sides: each value goes to its position, 0 elsewhere.

  Args:
    value: float [b h w c].
    position: uint8 [b h w c], from `max_pool`.

  Returns:
    As `value`, [b 2h 2w c].
  """
  return _spread.bind(*equally_varying(value, position))


def _window(x):
  """The four pixels of every 2x2 window, row by row, each [b h/2 w/2 c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, c)
  return [x[:, :, k // 2, :, k % 2] for k in range(4)]


def _spread_values(value, position):
  b, h, w, c = value.shape
  place = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
  here = position[:, :, None, :, None, :] == place
  spread = jnp.where(here, value[:, :, None, :, None, :], 0)
  return spread.reshape(b, 2 * h, 2 * w, c)


def _pick_values(x, position):
  picked = jnp.zeros(position.shape, x.dtype)
  for k, pixel in enumerate(_window(x)):
    picked = jnp.where(position == k, pixel, picked)
  return picked


# Each is the transpose of the other. JAX's own transposes of them are a sum of
# four padded maps, and a reduction that XLA's CPU backend is ten times slower
# with.
_pick = make_primitive('pick', _pick_values, images=(True, True))
_spread = make_primitive('spread', _spread_values, images=(True, True))
set_transposes(_pick, _spread.bind)
set_transposes(_spread, _pick.bind)
