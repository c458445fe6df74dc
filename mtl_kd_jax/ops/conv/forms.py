"""Which form a 3x3 convolution and its gradients take on the CPU, by size."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.ops.conv import blocks, direct, pointwise, taps, winograd


class Forms(NamedTuple):
  """Three functions that compute one convolution and its gradients.

  Attributes:
    convolve: (x [b h w c], kernel [3 3 c d]) -> [b h w d].
    input_gradient: (g [b h w d], kernel) -> [b h w c].
    weight_gradient: (x, g) -> [3 3 c d].
  """

  convolve: Callable[[jax.Array, jax.Array], jax.Array]
  input_gradient: Callable[[jax.Array, jax.Array], jax.Array]
  weight_gradient: Callable[[jax.Array, jax.Array], jax.Array]


DIRECT = Forms(direct.convolve, direct.input_gradient, direct.weight_gradient)
TO_FEW = Forms(
  taps.convolve_to_few, taps.input_gradient_of_few, blocks.weight_gradient
)
# Of a 1x1 convolution, with a kernel [c d].
POINTWISE = Forms(
  pointwise.convolve, pointwise.input_gradient, pointwise.weight_gradient
)
POINTWISE_BLOCKS = POINTWISE._replace(weight_gradient=blocks.outer_product)

# Measured on two cores with AVX-512. With fewer channels Winograd's transforms
# take longer than they save; with fewer tiles its sixteen kernels do, in place
# of nine.
_WINOGRAD_CHANNELS = (64, 128)  # of the side with fewer, and with more
_WINOGRAD_TILES = 64
# Its weight gradient is the faster one for maps that fit into the cache and
# kernels that do not.
_WINOGRAD_WEIGHTS = 2**16
_WINOGRAD_PIXELS = 2**12
# With so few pixels and so many weights, reading the kernel takes the time.
_SMALL_PIXELS = 128
_SMALL_WEIGHTS = 2**18

# Below these sizes XLA's weight gradient is as fast, and each blocked shape
# adds about 0.2 s of compile time. With fewer channels the product has too few
# columns to make up for its shifted copies.
_BLOCKS_CHANNELS = (32, 64)  # of the input, and of the output
_BLOCKS_MULTIPLICATIONS = 2e8


def is_static(shape: tuple[int, ...]) -> bool:
  """Whether a shape holds no symbolic dimension of `jax.export`."""
  return all(isinstance(side, int) for side in shape)


def choose(shape: tuple[int, ...], features: int, dtype) -> Forms:
  """The fastest forms for x [b h w c] of a dtype and `features` outputs."""
  if not is_static(shape):
    return DIRECT  # nothing to choose by
  pixels, weights = math.prod(shape[:3]), shape[3] * features
  fewer, more = sorted((shape[3], features))
  # The transforms lose too much in half precision.
  transformable = (
    shape[1] % 2 == shape[2] % 2 == 0 and jnp.finfo(dtype).bits >= 32
  )
  forms = DIRECT
  if (
    shape[3] >= _BLOCKS_CHANNELS[0]
    and features >= _BLOCKS_CHANNELS[1]
    and 9 * pixels * weights >= _BLOCKS_MULTIPLICATIONS
  ):
    forms = forms._replace(weight_gradient=blocks.weight_gradient)
  if pixels <= _SMALL_PIXELS and weights >= _SMALL_WEIGHTS:
    forms = forms._replace(input_gradient=taps.input_gradient_of_small)
  if (
    transformable
    and fewer >= _WINOGRAD_CHANNELS[0]
    and more >= _WINOGRAD_CHANNELS[1]
    and pixels >= 4 * _WINOGRAD_TILES
  ):
    forms = forms._replace(
      convolve=winograd.convolve, input_gradient=winograd.input_gradient
    )
    if weights >= _WINOGRAD_WEIGHTS and pixels <= _WINOGRAD_PIXELS:
      forms = forms._replace(weight_gradient=winograd.weight_gradient)
  return forms
