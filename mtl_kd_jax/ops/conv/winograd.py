"""3x3 convolutions by Winograd's minimal filtering, F(2x2, 3x3).

Four neighboring outputs take 36 multiplications for each pair of channels; of
transformed inputs and kernels they take 16 (Lavin & Gray, CVPR 2016, section
4.1): Y = A^T [(G g G^T) * (B^T d B)] A. Each of the 16 is a matrix product over
all tiles of the map. The products are not batched: one of 16 batches is as
fast, but stacking what it reads takes longer than writing it in parts.

All transforms are sums of two to four numbers, which round as a sum in the
dtype does. They double the range of the numbers, which is too much for half
precision.
"""

import jax
import jax.numpy as jnp

from mtl_kd_jax.ops.conv.pointwise import weight_gradient_flat


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves [b h w c] with [3 3 c d] to [b h w d]; h and w even."""
  return _convolve(x, _both(_G, kernel), 'bhwc,cd->bhwd')


def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d] to the input's [b h w c].

  It is the convolution with the rotated kernel. Its transform is that of the
  kernel with the first and the last of both axes exchanged, so the compiler
  shares it with the forward pass. The product contracts the other channel axis;
  a transposed copy of the kernel would take longer than the rest.
  """
  kernels = _both(_G, kernel)
  rotated = [[kernels[i][j] for j in (3, 1, 2, 0)] for i in (3, 1, 2, 0)]
  return _convolve(g, rotated, 'bhwd,cd->bhwc')


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p + i, q + j] g[p, q] over the pixels to [3 3 c d].

  The transposes of the three transforms: G^T [sum_tiles (B^T d B) (A y A^T)] G.
  """
  # Otherwise XLA would compute what a product reads along with other things, in
  # larger programs, which take twice as long to compile and no less to run.
  tiles, quads = jax.lax.optimization_barrier(
    (_both(_B, _tiles(x)), _both(_A, _quads(g)))
  )
  products = [
    [weight_gradient_flat(d, y) for d, y in zip(ds, ys, strict=True)]
    for ds, ys in zip(tiles, quads, strict=True)
  ]
  kernel = _both(_G_transposed, products)
  return jnp.stack([jnp.stack(row) for row in kernel])


def _convolve(x, kernels, product):
  # Otherwise XLA would fuse the computation of x into each of the transforms,
  # and repeat it.
  x = jax.lax.optimization_barrier(x)
  products = [
    [jnp.einsum(product, d, g) for d, g in zip(ds, gs, strict=True)]
    for ds, gs in zip(_both(_B, _tiles(x)), kernels, strict=True)
  ]
  quads = _both(_A_transposed, products)
  y = jnp.stack([jnp.stack(row, axis=3) for row in quads], axis=2)
  return y.reshape(*x.shape[:3], y.shape[-1])


def _tiles(x):
  """The 4x4 pixels of the tiles around every 2x2 outputs, [b h/2 w/2 c]."""
  _, h, w, _ = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return [
    [x[:, i : i + h : 2, j : j + w : 2] for j in range(4)] for i in range(4)
  ]


def _quads(y):
  """The 2x2 pixels of every tile, [b h/2 w/2 d]."""
  return [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]


def _both(transform, grid):
  """Transforms the columns and then the rows of a grid of arrays."""
  columns = [transform(*column) for column in zip(*grid, strict=True)]
  return [transform(*row) for row in zip(*columns, strict=True)]


def _B(a, b, c, d):
  return a - c, b + c, c - b, b - d


def _G(a, b, c):
  return a, (a + b + c) / 2, (a - b + c) / 2, c


def _G_transposed(a, b, c, d):
  return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d


def _A(a, b):
  return a, a + b, a - b, -b


def _A_transposed(a, b, c, d):
  return a + b + c, b - c - d
