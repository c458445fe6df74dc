"""Convolutions in the forms that XLA's CPU backend is fast at.

`nn.Conv` and `nn.Dense` take `conv_general_dilated` and `dot_general` from here
and keep their parameters. On GPU and TPU everything is XLA's own convolution;
on the CPU `forms` chooses by size. All forms compute the same up to rounding.
"""

from collections.abc import Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from mtl_kd_jax.ops.conv import blocks
from mtl_kd_jax.ops.conv.forms import DIRECT, TO_FEW, Forms, choose

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

# Of both maps of a 1x1 convolution: below, they stay in cache by themselves.
_MIN_NUMBERS = 2**20


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 1, and padding to the same size.

  The result and the gradients are those of `lax.conv_general_dilated` up to
  rounding. Large maps get a hand-written reverse-mode rule, so `jax.jvp` is
  refused for them.

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
  return (
    DIRECT.convolve(x, kernel) if forms == DIRECT else _conv(forms, x, kernel)
  )


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
  return _conv(TO_FEW, x, kernel)


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


def dot_general(
  lhs: jax.Array,
  rhs: jax.Array,
  dimension_numbers: lax.DotDimensionNumbers,
  **kwargs,
) -> jax.Array:
  """Is `lax.dot_general`, with the gradient of a 1x1 convolution by blocks.

  For `nn.Dense(..., dot_general=dot_general)` on maps. As in `conv3x3`, small
  maps and other platforms keep the plain form.

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
    return _linear(lhs, rhs)
  return lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)


def _on_cpu(form, elsewhere, *arrays):
  # Decided where the step is lowered, not by `jax.default_backend()`: a step
  # compiled for the CPU beside a GPU, or exported, gets its own form, and the
  # program holds only that one.
  if form == elsewhere:
    return form(*arrays)
  return lax.platform_dependent(*arrays, cpu=form, default=elsewhere)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(forms: Forms, x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _on_cpu(forms.convolve, DIRECT.convolve, x, kernel)


def _conv_forward(forms, x, kernel):
  return _conv(forms, x, kernel), (x, kernel)


def _conv_backward(forms, residuals, g):
  x, kernel = residuals
  return (
    _on_cpu(forms.input_gradient, DIRECT.input_gradient, g, kernel),
    _on_cpu(forms.weight_gradient, DIRECT.weight_gradient, x, g),
  )


@jax.custom_vjp
def _linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jnp.einsum('bhwc,cd->bhwd', x, kernel)


def _linear_forward(x, kernel):
  return _linear(x, kernel), (x, kernel)


def _linear_backward(residuals, g):
  x, kernel = residuals
  dkernel = _on_cpu(blocks.outer_product, _outer_product, x, g)
  return jnp.einsum('bhwd,cd->bhwc', g, kernel), dkernel


def _outer_product(x, g):
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.einsum('bhwc,bhwd->cd', x, g, preferred_element_type=dtype)
  return y.astype(x.dtype)


_conv.defvjp(_conv_forward, _conv_backward)
_linear.defvjp(_linear_forward, _linear_backward)
