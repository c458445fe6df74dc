"""Weight gradients as sums over blocks of rows, which stay in cache.

XLA's CPU backend computes the weight gradient of a convolution by moving the
batch axis to the end of both operands, and then convolves with a window as
large as the map. Once the maps leave the cache this is the slowest part of
a SegNet training step: about seven times a forward convolution for 64
channels at 288x384. The same sum as one matrix product per block of a few
rows takes about a third of that time. Before the weight gradient of a 1x1
convolution it transposes both maps, which takes longer than the product.
"""

import jax
from jax import lax
import jax.numpy as jnp

from mtl_kd_jax.ops.bilinear import equally_varying

# Numbers in the two shifted operands of a block: 5 MiB in float32. Larger
# blocks leave the cache, smaller ones make thin products.
_BLOCK_SIZE = 5 * 2**18
_MAX_BLOCK_ROWS = 8


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p + i, q + j] g[p, q] over the pixels, by blocks of rows of x.

  The three column shifts j are copies of x, the three row shifts i copies of
  g, so one product [3c, pixels] by [pixels, 3d] gives all nine taps from
  6 copies; shifts of x alone would need 9.

  Args:
    x: Input of the convolution, [b h w c].
    g: Gradient of its output, [b h w d].

  Returns:
    Gradient of the kernel, [3 3 c d].
  """
  b, h, w, c = x.shape
  d = g.shape[-1]
  rows = _BLOCK_SIZE // (3 * b * w * (c + d))
  blocks = -(-h // min(max(rows, 1), _MAX_BLOCK_ROWS))
  rows = -(-h // blocks)
  extra = rows * blocks - h
  x = jnp.pad(x, ((0, 0), (0, extra), (1, 1), (0, 0)))
  g = jnp.pad(g, ((0, 0), (1, 1 + extra), (0, 0), (0, 0)))

  def add_block(total, start):
    xs = lax.dynamic_slice_in_dim(x, start, rows, 1)
    gs = lax.dynamic_slice_in_dim(g, start, rows + 2, 1)
    xs = jnp.concatenate([xs[:, :, j : j + w] for j in range(3)], -1)
    gs = jnp.concatenate([gs[:, 2 - i : 2 - i + rows] for i in range(3)], -1)
    # The batch axis is contracted, never reshaped into the rows: a batch
    # split over devices stays where it is. (The partitioner of `jax.jit` sums
    # `block` over the devices in each round; under pmap nothing is sent.)
    block = jnp.einsum(
      'bhwc,bhwd->cd', xs, gs, preferred_element_type=total.dtype
    )
    return total + block, None

  total = _accumulate(add_block, (3 * c, 3 * d), x, rows * jnp.arange(blocks))
  total = total.reshape(3, c, 3, d).transpose(2, 0, 1, 3)
  return total.astype(x.dtype)


def outer_product(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p] g[p] over batch and pixels p, [c d]."""
  b, h, w, c = x.shape
  limit = max(1, _BLOCK_SIZE // (b * w * (c + g.shape[-1])))
  rows = max(r for r in range(1, min(h, limit) + 1) if h % r == 0)

  def add_block(total, start):
    xs, gs = (lax.dynamic_slice_in_dim(y, start, rows, 1) for y in (x, g))
    block = jnp.einsum(
      'bhwc,bhwd->cd', xs, gs, preferred_element_type=total.dtype
    )
    return total + block, None

  shape = (c, g.shape[-1])
  total = _accumulate(add_block, shape, x, rows * jnp.arange(h // rows))
  return total.astype(x.dtype)


def _accumulate(add_block, shape, x, starts):
  """Sums all blocks, in float32 at least."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  total, _ = equally_varying(jnp.zeros(shape, dtype), x)
  return lax.scan(add_block, total, starts)[0]
