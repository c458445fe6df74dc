"""Convolutions in the forms that XLA's CPU backend is fast at.

Above all, weight gradients by blocks of rows.

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
_MIN_MULTIPLICATIONS = 4e8
# Of both maps of a 1x1 convolution: below, they stay in cache by themselves.
_MIN_NUMBERS = 2**20

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


def conv3x3_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves as `conv3x3` does, to so few channels that a product is faster.

  On the CPU all nine taps are one matrix product, whose columns are then summed
  with their shifts: for 1 to 13 outputs, forward and backward, three to ten
  times as fast as XLA's convolution. On GPU and TPU it is the convolution.

  Args:
    x: Feature maps, floating point [b h w c].
    kernel: Weights, [3 3 c d].

  Returns:
    Feature maps, [b h w d].
  """
  return _conv_to_few(x, kernel)


def dot_general(
  lhs: jax.Array,
  rhs: jax.Array,
  dimension_numbers: lax.DotDimensionNumbers,
  **kwargs,
) -> jax.Array:
  """Is `lax.dot_general`, with the gradient of a 1x1 convolution by blocks.

  For `nn.Dense(..., dot_general=dot_general)` on maps. The weight gradient sums
  over all pixels; XLA's CPU backend first transposes both maps for that, which
  takes longer than the product. By blocks of rows it stays in cache. As in
  `conv3x3`, small maps and other platforms keep the plain form.

  Args:
    lhs: Feature maps, floating point [b h w c] for the blocked gradient.
    rhs: Weights, [c d].
    dimension_numbers: Of `lax.dot_general`.
    **kwargs: Further arguments of `lax.dot_general`.

  Returns:
    As `lax.dot_general`; feature maps [b h w d].
  """
  if (
    lhs.ndim == 4
    and dimension_numbers == (((3,), (0,)), ((), ()))
    and not any(kwargs.values())
    and lhs.dtype == rhs.dtype
    and math.prod(lhs.shape[:3]) * sum(rhs.shape) >= _MIN_NUMBERS
  ):
    return _blocked_linear(lhs, rhs)
  return lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)


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


@jax.custom_vjp
def _conv_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.platform_dependent(
    x, kernel, cpu=_product_of_all_taps, default=_plain_conv
  )


def _conv_to_few_backward(residuals, g):
  x, kernel = residuals
  dx = lax.platform_dependent(
    g, kernel, cpu=_gather_all_taps, default=_plain_input_gradient
  )
  return dx, _weight_gradient(x, g)


def _product_of_all_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[b h w c] to [b h w d]: one product, then shifted sums of its columns."""
  _, h, w, c = x.shape
  d = kernel.shape[-1]
  columns = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * d)
  y = _padded(jnp.einsum('bhwc,cd->bhwd', x, columns))
  return sum(
    y[:, i : i + h, j : j + w, (3 * i + j) * d : (3 * i + j + 1) * d]
    for i, j in _TAPS
  )


def _gather_all_taps(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """The gradient of `_product_of_all_taps` by x, [b h w c]."""
  _, h, w, d = g.shape
  c = kernel.shape[2]
  g = _padded(g)
  shifted = [g[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w] for i, j in _TAPS]
  rows = kernel.transpose(0, 1, 3, 2).reshape(9 * d, c)
  return jnp.einsum('bhwd,dc->bhwc', jnp.concatenate(shifted, -1), rows)


_TAPS = [(i, j) for i in range(3) for j in range(3)]


def _padded(x: jax.Array) -> jax.Array:
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


@jax.custom_vjp
def _blocked_linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jnp.einsum('bhwc,cd->bhwd', x, kernel)


def _blocked_linear_backward(residuals, g):
  x, kernel = residuals
  dkernel = lax.platform_dependent(
    x, g, cpu=_blocked_outer_product, default=_outer_product
  )
  return jnp.einsum('bhwd,cd->bhwc', g, kernel), dkernel


def _outer_product(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p] g[p] over batch and pixels p, [c d]."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.einsum('bhwc,bhwd->cd', x, g, preferred_element_type=dtype)
  return y.astype(x.dtype)


def _blocked_outer_product(x: jax.Array, g: jax.Array) -> jax.Array:
  b, h, w, c = x.shape
  limit = max(1, _BLOCK_SIZE // (b * w * (c + g.shape[-1])))
  rows = max(r for r in range(1, min(h, limit) + 1) if h % r == 0)
  dtype = jnp.promote_types(x.dtype, jnp.float32)

  def add_block(total, start):
    xs, gs = (lax.dynamic_slice_in_dim(y, start, rows, 1) for y in (x, g))
    return total + jnp.einsum(
      'bhwc,bhwd->cd', xs, gs, preferred_element_type=dtype
    ), None

  total, _ = lax.scan(
    add_block,
    jnp.zeros((c, g.shape[-1]), dtype),
    rows * jnp.arange(h // rows),
  )
  return total.astype(x.dtype)


def _plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=_DIMENSIONS
  )


def _plain_input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
  x = jax.ShapeDtypeStruct((*g.shape[:3], kernel.shape[2]), g.dtype)
  return jax.linear_transpose(lambda y: _plain_conv(y, kernel), x)(g)[0]


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


def _forward(function):
  """The forward rule of a function of map and kernel: both are kept."""
  return lambda x, kernel: (function(x, kernel), (x, kernel))


def _blocked_backward(residuals, g):
  x, kernel = residuals
  return _plain_input_gradient(g, kernel), _weight_gradient(x, g)


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  # Decided where the step is lowered, not by `jax.default_backend()`: a step
  # compiled for the CPU beside a GPU, or exported, gets its own form, and the
  # program holds only that one.
  return lax.platform_dependent(
    x, g, cpu=_blocked_weight_gradient, default=_plain_weight_gradient
  )


_blocked_conv.defvjp(_forward(_blocked_conv), _blocked_backward)
_conv_to_few.defvjp(_forward(_conv_to_few), _conv_to_few_backward)
_blocked_linear.defvjp(_forward(_blocked_linear), _blocked_linear_backward)
