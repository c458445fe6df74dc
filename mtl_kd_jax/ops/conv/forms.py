"""Which form a convolution and its gradients take, by size."""

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
# By tiles of 4x4 and of 2x2 outputs.
WINOGRAD = Forms(*winograd.make(winograd.F4))
WINOGRAD_SMALL = Forms(*winograd.make(winograd.F2))

# Measured on two cores with AVX-512. With fewer channels Winograd's transforms
# take longer than they save; with fewer tiles its 36 or 16 kernels do, in place
# of nine.
_WINOGRAD_CHANNELS = 64
_WINOGRAD_TILES = 80
_WINOGRAD_SMALL_TILES = 64
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
  """The fastest on CPUs for x [b h w c] of a dtype, and `features` outputs."""
  if not is_static(shape):
    return DIRECT  # nothing to choose by
  # The transforms lose too much in half precision.
  precise = jnp.finfo(dtype).bits >= 32
  if precise and min(shape[3], features) >= _WINOGRAD_CHANNELS:
    if _tiles(shape, 4) >= _WINOGRAD_TILES:
      return WINOGRAD
    if _tiles(shape, 2) >= _WINOGRAD_SMALL_TILES:
      return WINOGRAD_SMALL
  pixels, weights = math.prod(shape[:3]), shape[3] * features
  if pixels <= _SMALL_PIXELS and weights >= _SMALL_WEIGHTS:
    return DIRECT._replace(input_gradient=taps.input_gradient_of_small)
  return DIRECT


def _tiles(shape, side):
  """The number of tiles that cover maps [b h w c]."""
  b, h, w, _ = shape
  return b * -(-h // side) * -(-w // side)


def choose_dilated(
  shape: tuple[int, ...],
  features: int,
  dtype,
  *,
  dilations: direct.Pair,
  taps: direct.Pair,
) -> Forms:
  """The fastest forms of a dilated convolution on CPUs.

  Args:
    shape: of x, [b h w c].
    features: number of outputs.
    dtype: of x.
    dilations: distances of taps, in pixels.
    taps: sides of the kernel, odd.
  """
  weights = shape[3] * features
  large = _is_large(shape, features, taps)
  if large and jnp.finfo(dtype).bits >= 32:
    if dilated.share_read(shape, dilations, taps) <= _SHARE_READ:
      return Forms(*dilated.by_rectangles(dilations, taps))
    plain = choose(dilated.phase_shape(shape, dilations), features, dtype)
    if (
      taps == (3, 3)
      and weights >= _PHASES_WEIGHTS
      and plain in (WINOGRAD, WINOGRAD_SMALL)
    ):
      return Forms(*dilated.by_phases(dilations, plain))
  return direct_dilated(dilations, taps)


def choose_dilated_on_gpu(
  shape: tuple[int, ...],
  features: int,
  *,
  dilations: direct.Pair,
  taps: direct.Pair,
) -> Forms:
  """The forms of a dilated convolution on GPUs; arguments as above.

  JAX writes the weight gradient as a convolution whose windows are as large as
  the maps, and lie as far apart as the taps. XLA recognizes a weight gradient,
  for which cuDNN has a function, only where they lie side by side; others it
  computes with such windows. A product for each tap is work for cuBLAS.
  """
  plain = direct_dilated(dilations, taps)
  if not _is_large(shape, features, taps):
    return plain
  _, _, by_taps = dilated.by_rectangles(dilations, taps)
  return plain._replace(weight_gradient=by_taps)


def _is_large(shape, features, taps):
  """Whether another form is worth the time that it takes to compile."""
  work = math.prod(taps) * math.prod(shape) * features
  return work >= _DILATED_MULTIPLICATIONS


def direct_dilated(dilations: direct.Pair, taps: direct.Pair) -> Forms:
  """`DIRECT` for a dilated kernel."""
  return Forms(*direct.make(dilations, taps))
