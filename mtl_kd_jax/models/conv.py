"""3x3 convolution whose weight gradient is blocked by rows on the CPU.

XLA's CPU backend computes the weight gradient of a convolution by moving the
batch axis to the end of both operands, and then convolves with a window as
large as the map. Once the maps leave the cache this is the slowest part of
a SegNet training step: about seven times a forward convolution for 64
channels at 288x384. The same sum as one matrix product per block of a few
rows, whose operands stay in cache, takes about a third of that time.

Forward pass and input gradient are XLA's own: no im2col, shifted product or
packing of neighbouring pixels was faster.
"""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# Arguments of `lax.conv_general_dilated` that leave a plain convolution of
# [b h w c]; the long form of the dimensions is the one that `nn.Conv` passes.
_PLAIN = {
  'dimension_numbers': (
    _DIMENSIONS,
    lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
  ),
  'lhs_dilation': (None, (1, 1)),
  'rhs_dilation': (None, (1, 1)),
  'feature_group_count': (1,),
  'batch_group_count': (1,),
}

# Below these sizes XLA's weight gradient is as fast, and each blocked shape
# adds about 0.2 s of compile time. With fewer channels the product has too
# few columns to pay for its shifted copies.
_MIN_IN_CHANNELS = 32
_MIN_OUT_CHANNELS = 64
_MIN_MULTIPLICATIONS = 8e8

# Numbers in the two shifted operands of a block: 5 MiB in float32. Larger
# blocks leave the cache, smaller ones make thin products.
_BLOCK_SIZE = 5 * 2**18
_MAX_BLOCK_ROWS = 8


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 1, and padding to the same size.

  The result and the gradients are those of `lax.conv_general_dilated` up to
  rounding. Large maps get a hand-written reverse-mode rule, so `jax.jvp` is
  refused for them. On GPU and TPU the rule computes what XLA would.

  Args:
    x: Feature maps, floating point [b h w c].
    kernel: Weights, [3 3 c d], of the dtype of `x`.

  Returns:
    Feature maps, [b h w d], of the dtype of `x`.

  Raises:
    ValueError: If `kernel` is not [3 3 c d] for the c channels of `x`.
  """
  if x.ndim != 4 or kernel.shape[:-1] != (3, 3, x.shape[-1]):
    raise ValueError(
      'Expected x [b h w c] and kernel [3 3 c d], got shapes '
      f'{x.shape} and {kernel.shape}. Other convolutions are those of '
      '`conv_general_dilated`.'
    )
  if _is_blocked(x.shape, kernel.shape[-1]):
    return _blocked_conv(x, kernel)
  return _plain_conv(x, kernel)


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **kwargs,
) -> jax.Array:
  """Is `lax.conv_general_dilated`, by `conv3x3` where that applies.

  For `nn.Conv(..., conv_general_dilated=conv_general_dilated)`, whose
  parameters stay the standard `kernel` and `bias`.

  Args:
    lhs: Feature maps, floating point [b h w c] unless `kwargs` says otherwise.
    rhs: Weights, [kh kw c d] unless `kwargs` says otherwise.
    window_strides: Strides, in pixels.
    padding: 'SAME', 'VALID', or the padding (low, high) of each map axis.
    **kwargs: Further arguments of `lax.conv_general_dilated`.

  Returns:
    Feature maps, as `lax.conv_general_dilated` returns them.
  """
  if (
    lhs.ndim == 4
    and rhs.shape[:-1] == (3, 3, lhs.shape[-1])
    and tuple(window_strides) == (1, 1)
    and padding in ('SAME', [(1, 1), (1, 1)], ((1, 1), (1, 1)))
    and 'dimension_numbers' in kwargs
    and all(v in _PLAIN.get(name, (None,)) for name, v in kwargs.items())
  ):
    return conv3x3(lhs, rhs)
  return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def _is_blocked(shape: tuple[int, ...], features: int) -> bool:
  return (
    shape[-1] >= _MIN_IN_CHANNELS
    and features >= _MIN_OUT_CHANNELS
    and 9 * math.prod(shape) * features >= _MIN_MULTIPLICATIONS
  )


def _plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=_DIMENSIONS
  )


def _plain_weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
  return jax.linear_transpose(lambda k: _plain_conv(x, k), kernel)(g)[0]


def _blocked_weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
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

  dtype = jnp.promote_types(x.dtype, jnp.float32)
  total, _ = lax.scan(
    add_block, jnp.zeros((3 * c, 3 * d), dtype), rows * jnp.arange(blocks)
  )
  total = total.reshape(3, c, 3, d).transpose(2, 0, 1, 3)
  return total.astype(x.dtype)


@jax.custom_vjp
def _blocked_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _plain_conv(x, kernel)


def _blocked_forward(x, kernel):
  return _plain_conv(x, kernel), (x, kernel)


def _blocked_backward(residuals, g):
  x, kernel = residuals
  dx = jax.linear_transpose(lambda y: _plain_conv(y, kernel), x)(g)[0]
  # Decided where the step is lowered, not by `jax.default_backend()`: a step
  # compiled for the CPU beside a GPU, or exported, gets its own form, and the
  # program holds only that one.
  dkernel = lax.platform_dependent(
    x, g, cpu=_blocked_weight_gradient, default=_plain_weight_gradient
  )
  return dx, dkernel


_blocked_conv.defvjp(_blocked_forward, _blocked_backward)
