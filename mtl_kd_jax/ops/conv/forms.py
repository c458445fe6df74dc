"""Which form a convolution and its gradients take on the CPU, by size."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.ops.conv import dilated, direct, pointwise, taps, winograd


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


DIRECT = Forms(*direct.make())
TO_FEW = Forms(
  taps.convolve_to_few,
  taps.input_gradient_of_few,
  taps.weight_gradient_of_few,
)
# Of a 1x1 convolution, with a kernel [c d].
POINTWISE = Forms(
  pointwise.convolve, pointwise.input_gradient, pointwise.weight_gradient
)
POINTWISE_FLAT = POINTWISE._replace(
  weight_gradient=pointwise.weight_gradient_flat
)
WINOGRAD = Forms(
  winograd.convolve, winograd.input_gradient, winograd.weight_gradient
)

# Measured on two cores with AVX-512. With fewer channels Winograd's transforms
# take longer than they save; with fewer tiles its sixteen kernels do, in place
# of nine.
_WINOGRAD_CHANNELS = (64, 128)  # of the side with fewer, and with more
_WINOGRAD_TILES = 64
# With so few pixels and so many weights, reading the kernel takes the time.
_SMALL_PIXELS = 128
_SMALL_WEIGHTS = 2**18


# Of dilated kernels: the share of taps that reads the map up to which products
# over what they read are faster; the work below which compiling another form
# takes longer than it saves; the weights from which splitting maps is worth it.
_SHARE_READ = 0.7
_DILATED_MULTIPLICATIONS = 2**28
_PHASES_WEIGHTS = 2**18


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
  if (
    transformable
    and fewer >= _WINOGRAD_CHANNELS[0]
    and more >= _WINOGRAD_CHANNELS[1]
    and pixels >= 4 * _WINOGRAD_TILES
  ):
    return WINOGRAD
  if pixels <= _SMALL_PIXELS and weights >= _SMALL_WEIGHTS:
    return DIRECT._replace(input_gradient=taps.input_gradient_of_small)
  return DIRECT


def choose_dilated(
  shape: tuple[int, ...],
  features: int,
  dtype,
  *,
  dilations: direct.Pair,
  taps: direct.Pair,
) -> Forms:
  """The fastest forms of a dilated convolution.

  Args:
    shape: of x, [b h w c].
    features: number of outputs.
    dtype: of x.
    dilations: distances of taps, in pixels.
    taps: sides of the kernel, odd.
  """
  weights = shape[3] * features
  work = math.prod(taps) * math.prod(shape[:3]) * weights
  if work >= _DILATED_MULTIPLICATIONS and jnp.finfo(dtype).bits >= 32:
    if dilated.share_read(shape, dilations, taps) <= _SHARE_READ:
      return Forms(*dilated.by_rectangles(dilations, taps))
    phases = dilated.phase_shape(shape, dilations)
    if (
      taps == (3, 3)
      and weights >= _PHASES_WEIGHTS
      and choose(phases, features, dtype) == WINOGRAD
    ):
      return Forms(*dilated.by_phases(dilations))
  return direct_dilated(dilations, taps)


def direct_dilated(dilations: direct.Pair, taps: direct.Pair) -> Forms:
  """`DIRECT` for a dilated kernel."""
  return Forms(*direct.make(dilations, taps))
