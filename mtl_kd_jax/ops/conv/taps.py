"""A 3x3 convolution as one matrix product of all its nine taps.

With few outputs, or few pixels, a convolution does not fill the tiles of a
matrix product; with the nine taps as columns it does. The smaller operand is
the one that is shifted: by copies before the product, or by sums after it.
"""

import jax
import jax.numpy as jnp

from mtl_kd_jax.ops.conv.pointwise import weight_gradient_flat

_TAPS = [(i, j) for i in range(3) for j in range(3)]


def convolve_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves [b h w c] with [3 3 c d] to [b h w d], d small."""
  c, d = kernel.shape[2:]
  columns = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * d)
  y = _padded(jnp.einsum('bhwc,cd->bhwd', x, columns))
  return _sum_of_shifted(y, d, _TAPS)


def input_gradient_of_few(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d], d small, to [b h w c]."""
  rows = kernel.transpose(0, 1, 3, 2).reshape(9 * kernel.shape[-1], -1)
  return jnp.einsum('bhwd,dc->bhwc', _shifted(g), rows)


def weight_gradient_of_few(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p + i, q + j] g[p, q] over the pixels to [3 3 c d], d small."""
  columns = weight_gradient_flat(x, _shifted(g))
  return columns.reshape(x.shape[-1], 3, 3, -1).transpose(1, 2, 0, 3)


def input_gradient_of_small(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d], h w small, to [b h w c].

  The kernel is larger than the maps. It is read once and in place, while XLA's
  own convolution first writes a transposed copy of it.
  """
  c, d = kernel.shape[2:]
  y = _padded(jnp.einsum('bhwd,cd->bhwc', g, kernel.reshape(9 * c, d)))
  return _sum_of_shifted(y, c, [(2 - i, 2 - j) for i, j in _TAPS])


def _shifted(g):
  """The gradient of outputs as each tap sees it, [b h w 9*d]."""
  b, h, w, d = g.shape
  g = _padded(g)
  # One axis after the other: XLA compiles one program for each axis, but nine
  # for the nine shifts at once.
  columns = jnp.stack([g[:, :, 2 - j : 2 - j + w] for j in range(3)], 3)
  rows = jnp.stack([columns[:, 2 - i : 2 - i + h] for i in range(3)], 3)
  return rows.reshape(b, h, w, 9 * d)


def _sum_of_shifted(y, channels, shifts):
  """Sums the nine parts of the channels of a padded map, each shifted."""
  h, w = y.shape[1] - 2, y.shape[2] - 2
  return sum(
    y[:, i : i + h, j : j + w, k * channels : (k + 1) * channels]
    for k, (i, j) in enumerate(shifts)
  )


def _padded(x):
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
