"""XLA's own convolution, to maps of the same size, and its gradients."""

from collections.abc import Callable
import functools

import jax
from jax import lax

Pair = tuple[int, int]  # of rows and of columns
Operation = Callable[[jax.Array, jax.Array], jax.Array]
Operations = tuple[Operation, Operation, Operation]


@functools.cache
def make(dilations: Pair = (1, 1), taps: Pair = (3, 3)) -> Operations:
  """The convolution of stride 1 and its gradients, as in `forms.Forms`.

  Args:
    dilations: distances of taps, in pixels.
    taps: sides of the kernel, odd.
  """
  pad = [(d * (k // 2),) * 2 for d, k in zip(dilations, taps, strict=True)]

  def run(x, kernel, dimensions, **options):
    return lax.conv_general_dilated(
      x,
      kernel,
      padding=pad,
      dimension_numbers=dimensions,
      **{'window_strides': (1, 1), **options},
    )

  def convolve(x, kernel):
    return run(x, kernel, ('NHWC', 'HWIO', 'NHWC'), rhs_dilation=dilations)

  def input_gradient(g, kernel):
    rotated = lax.rev(kernel, (0, 1))
    return run(g, rotated, ('NHWC', 'HWOI', 'NHWC'), rhs_dilation=dilations)

  def weight_gradient(x, g):
    # The windows are as large as the maps, and lie as far apart as the taps.
    return run(x, g, ('CHWN', 'IHWO', 'HWNC'), window_strides=dilations)

  return convolve, input_gradient, weight_gradient
