"""XLA's own 3x3 convolution, stride 1, and its gradients."""

import jax
from jax import lax


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves [b h w c] with [3 3 c d] to [b h w d]."""
  return _convolve(x, kernel, ('NHWC', 'HWIO', 'NHWC'))


def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d] to the input's [b h w c]."""
  rotated = lax.rev(kernel, (0, 1))
  return _convolve(g, rotated, ('NHWC', 'HWOI', 'NHWC'))


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p + i, q + j] g[p, q] over the pixels to [3 3 c d]."""
  # A convolution with windows as large as the maps; its channels are the images
  # of the batch, and its batch the channels of x.
  return _convolve(x, g, ('CHWN', 'IHWO', 'HWNC'))


def _convolve(x, kernel, dimensions):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=dimensions
  )
