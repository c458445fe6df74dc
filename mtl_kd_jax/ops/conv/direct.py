"""XLA's own 3x3 convolution, stride 1, and its gradients."""

import jax
from jax import lax


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves [b h w c] with [3 3 c d] to [b h w d]."""
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d] to the input's [b h w c]."""
  x = jax.ShapeDtypeStruct((*g.shape[:3], kernel.shape[2]), g.dtype)
  return jax.linear_transpose(lambda y: convolve(y, kernel), x)(g)[0]


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p + i, q + j] g[p, q] over the pixels to [3 3 c d]."""
  kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
  return jax.linear_transpose(lambda k: convolve(x, k), kernel)(g)[0]
