"""The heads of DeepLab: an atrous pyramid over the coarsest feature.

Chen et al. 2017, arXiv 1706.05587 (DeepLabV3), and 2018, arXiv 1802.02611
(DeepLabV3+). There is no dropout: the head also serves regression, and the
output of a teacher in training mode must be deterministic.
"""

from collections.abc import Mapping
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.models.layers import ConvNormReLU
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.resize import resize_bilinear

_FILTERS = 256
_LOW_LEVEL_FILTERS = 48
# At output stride 16; the papers double them at 8.
_RATES = (6, 12, 18)


class ASPPHead(nn.Module):
  """DeepLabV3: the pyramid, a 3x3 convolution, the prediction.

  Attributes:
    channels: channels of the prediction.
    width: factor on the inner channels.
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None

  taps = ('layer4',)  # the features that it reads

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from the coarsest feature.

    Args:
      features: tap -> float [b h w c], with all of `taps`.
      size: (height, width) of the image.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      The prediction [b h w channels] of the size of the image, and the feature
      'decoder', the last before the prediction, of the size of 'layer4'.
    """
    block = _block(self.axis_name, train=train)
    filters = _scaled(_FILTERS, self.width)
    x = _pyramid(features['layer4'], block, filters, size)
    x = block(filters, 3, name='conv')(x)
    return _prediction(x, self.channels, size), {'decoder': x}


class DeepLabV3PlusHead(nn.Module):
  """DeepLabV3+: the pyramid, concatenated with a finer feature.

  Attributes:
    channels: channels of the prediction.
    width: factor on the inner channels.
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None

  taps = ('layer1', 'layer4')  # the features that it reads

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from the coarsest and the finest feature.

    Args:
      features: tap -> float [b h w c], with all of `taps`.
      size: (height, width) of the image.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      The prediction [b h w channels] of the size of the image, and the feature
      'decoder', the last before the prediction, of the size of 'layer1'.
    """
    block = _block(self.axis_name, train=train)
    filters = _scaled(_FILTERS, self.width)
    fine = features['layer1']
    low = block(_scaled(_LOW_LEVEL_FILTERS, self.width), 1, name='low_level')(
      fine
    )
    x = _pyramid(features['layer4'], block, filters, size)
    x = jnp.concatenate([resize_bilinear(x, fine.shape[1:3]), low], axis=-1)
    x = block(filters, 3, name='conv_0')(x)
    x = block(filters, 3, name='conv_1')(x)
    return _prediction(x, self.channels, size), {'decoder': x}


def _pyramid(x, block, filters, size):
  """Atrous spatial pyramid pooling, [b h w c] to [b h w filters]."""
  branches = [block(filters, 1, name='aspp_0')(x)]
  for i, rate in enumerate(_rates(x, size), start=1):
    branches.append(block(filters, 3, dilation=rate, name=f'aspp_{i}')(x))
  pooled = jnp.mean(x, axis=(1, 2), keepdims=True)
  pooled = block(filters, 1, name='aspp_pooled')(pooled)
  branches.append(jnp.broadcast_to(pooled, branches[0].shape))
  joined = jnp.concatenate(branches, axis=-1)
  return block(filters, 1, name='aspp_joined')(joined)


def _rates(x, size):
  """Dilations of the pyramid over the coarsest feature of an image."""
  # The stride is a power of two; sides that are no multiples of it were rounded
  # up. Symbolic sides of `jax.export` have no ratio but a whole one.
  ratio = max(
    n / m if isinstance(n, int) else n // m
    for n, m in zip(size, x.shape[1:3], strict=True)
  )
  stride = 2 ** round(math.log2(ratio))
  return [max(1, rate * 16 // stride) for rate in _RATES]


def _prediction(x, channels, size):
  # Not the Kaiming initialization of the other layers, with which predicted
  # depths would start at tens of meters.
  x = nn.Dense(channels, kernel_init=xavier_normal, name='out')(x)
  return resize_bilinear(x, size)


def _block(axis_name, *, train):
  norm = functools.partial(
    BatchNorm, use_running_average=not train, axis_name=axis_name
  )
  return functools.partial(ConvNormReLU, norm=norm)


def _scaled(filters, width):
  return max(1, round(filters * width))
