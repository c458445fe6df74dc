"""Convolutions in the forms that XLA is fast at.

`nn.Conv` and `nn.Dense` take `conv_general_dilated` and `dot_general` from here
and keep their parameters. On the CPU `forms` chooses by size; on GPU and TPU
everything is XLA's own convolution, but for a gradient on GPUs. All forms
compute the same up to rounding, and all can be differentiated in forward and
reverse mode, any number of times.
With the symbolic dimensions of `jax.export` there are no sizes to choose by,
and everything is XLA's own on all platforms.
"""

from collections.abc import Sequence
import math

import jax
from jax import lax

from mtl_kd_jax.ops.conv.forms import (
  DIRECT,
  POINTWISE,
  POINTWISE_FLAT,
  TO_FEW,
  choose,
  choose_dilated,
  choose_dilated_on_gpu,
  direct_dilated,
  is_static,
)
from mtl_kd_jax.ops.conv.padding import without_taps_on_padding
from mtl_kd_jax.ops.conv.primitives import product

# Arguments of `lax.conv_general_dilated` that leave a plain convolution of
# [b h w c]; the long form of the dimensions is the one that `nn.Conv` passes.
_PLAIN = {
  'dimension_numbers': (
    ('NHWC', 'HWIO', 'NHWC'),
    lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
  ),
  'lhs_dilation': (None, (1, 1)),
  'rhs_dilation': (None, (1, 1)),
  'feature_group_count': (1,),
  'batch_group_count': (1,),
}

# Of both maps of a 1x1 convolution; smaller maps stay in the cache anyway.
_MIN_NUMBERS = 2**20


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 1, and padding to the same size.

  The result and all derivatives are those of `lax.conv_general_dilated` up to
  rounding.

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
  forms = choose(x.shape, kernel.shape[-1], x.dtype)
  if forms == DIRECT:
    return DIRECT.convolve(x, kernel)
  return product(x, kernel, cpu=forms, elsewhere=DIRECT)


def conv3x3_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves as `conv3x3` does, to few channels.

  On the CPU all nine taps are one matrix product, whose columns are then summed
  with their shifts: for 1 to 13 outputs, forward and backward, three to ten
  times as fast as XLA's convolution. On GPU and TPU it is the convolution.

  Args:
    x: Feature maps, floating point [b h w c].
    kernel: Weights, [3 3 c d].

  Returns:
    Feature maps, [b h w d].
  """
  if not is_static(x.shape):
    return DIRECT.convolve(x, kernel)
  return product(x, kernel, cpu=TO_FEW, elsewhere=DIRECT)


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **kwargs,
) -> jax.Array:
  """Computes `lax.conv_general_dilated`, by `conv3x3` where that applies.

  Taps of a dilated kernel that would only read padding are left out.

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
    and _is_plain(kwargs)
  ):
    return conv3x3(lhs, rhs)
  if (
    lhs.ndim == 4
    and not isinstance(padding, str)
    and is_static(lhs.shape)
    and max(kwargs.get('rhs_dilation') or (1,)) > 1
    and _is_plain(kwargs, but_for=('rhs_dilation',))
  ):
    rhs, padding = without_taps_on_padding(
      lhs.shape,
      rhs,
      strides=window_strides,
      dilations=kwargs['rhs_dilation'],
      padding=padding,
    )
    taps, dilations = rhs.shape[:2], tuple(kwargs['rhs_dilation'])
    same = [(d * (k // 2),) * 2 for d, k in zip(dilations, taps, strict=True)]
    if tuple(window_strides) == (1, 1) and list(padding) == same:
      return _conv_dilated(lhs, rhs, dilations)
  return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def _conv_dilated(x, kernel, dilations):
  """Convolves with a dilated kernel, [b h w c] to [b h w d]."""
  taps = kernel.shape[:2]
  if taps == (1, 1):
    return dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
  dilation = {'dilations': dilations, 'taps': taps}
  cpu = choose_dilated(x.shape, kernel.shape[-1], x.dtype, **dilation)
  gpu = choose_dilated_on_gpu(x.shape, kernel.shape[-1], **dilation)
  direct = direct_dilated(**dilation)
  if cpu == gpu == direct:
    return direct.convolve(x, kernel)
  return product(x, kernel, cpu=cpu, gpu=gpu, elsewhere=direct)


def _is_plain(arguments, *, but_for=()):
  """Whether arguments say no more than those of a convolution of [b h w c]."""
  return 'dimension_numbers' in arguments and all(
    value in _PLAIN.get(name, (None,))
    for name, value in arguments.items()
    if name not in but_for
  )


def dot_general(
  lhs: jax.Array,
  rhs: jax.Array,
  dimension_numbers: lax.DotDimensionNumbers,
  **kwargs,
) -> jax.Array:
  """Computes `lax.dot_general`, for maps with a fast gradient of the weights.

  For `nn.Dense(..., dot_general=dot_general)` on maps. Small maps and other
  platforms keep the plain form.

  Args:
    lhs: Feature maps, floating point [b h w c] for that gradient.
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
    and is_static(lhs.shape)
    and math.prod(lhs.shape[:3]) * sum(rhs.shape) >= _MIN_NUMBERS
  ):
    return product(lhs, rhs, cpu=POINTWISE_FLAT, elsewhere=POINTWISE)
  return lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)
