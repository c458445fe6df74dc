"""Convolutions of ResNets and of the heads over them."""

from collections.abc import Callable

import flax.linen as nn
import jax

from mtl_kd_jax.models.initializers import kaiming_normal
from mtl_kd_jax.ops.conv import conv_general_dilated, dot_general


def conv(
  features: int, size: int, *, stride: int = 1, dilation: int = 1, name: str
) -> nn.Module:
  """A convolution without bias, padded as PyTorch pads it.

  Args:
    features: channels of the result.
    size: side of the kernel, odd.
    stride: in pixels.
    dilation: distance of the kernel's taps, in pixels.
    name: of the module.
  """
  # Not 'SAME', which pads on one side only where a stride halves even sides.
  pad = dilation * (size // 2)
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    kernel_dilation=dilation,
    padding=((pad, pad), (pad, pad)),
    use_bias=False,
    kernel_init=kaiming_normal,
    conv_general_dilated=conv_general_dilated,
    name=name,
  )


def linear(features: int, *, name: str) -> nn.Module:
  """A 1x1 convolution without bias, as the matrix product that it is."""
  return nn.Dense(
    features,
    use_bias=False,
    kernel_init=kaiming_normal,
    dot_general=dot_general,
    name=name,
  )


class ConvNormReLU(nn.Module):
  """Convolution without bias, BatchNorm, ReLU.

  Attributes:
    features: channels of the result.
    size: side of the kernel.
    norm: makes a normalization.
    dilation: of the kernel.
  """

  features: int
  size: int
  norm: Callable[..., nn.Module]
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b h w c] to [b h w features]."""
    if self.size == 1:
      x = linear(self.features, name='conv')(x)
    else:
      x = conv(self.features, self.size, dilation=self.dilation, name='conv')(x)
    return nn.relu(self.norm(name='norm')(x))
