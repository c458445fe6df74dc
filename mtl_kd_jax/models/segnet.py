"""SegNet, shared to the last decoder layer (METHOD 1.3, the MTAN code's split).

Five levels. An encoder level is 2 (the first two) or 3 (the others) blocks of
3x3 convolution, BatchNorm and ReLU, then max-pooling; a decoder level unpools
at the positions that the encoder remembers and runs as many blocks, the first
of which goes to the width of the next finer level.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax

from mtl_kd_jax.models.conv import conv_general_dilated
from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.models.pooling import max_pool, max_unpool

FILTERS = (64, 128, 256, 512, 512)
_BLOCKS = (2, 2, 3, 3, 3)


class SegNet(nn.Module):
  """Encoder-decoder with max-unpooling.

  Attributes:
    width: factor on the channels [64, 128, 256, 512, 512].
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
  """

  width: float = 1.0
  axis_name: str | None = None

  stride = 2 ** len(FILTERS)  # image sides must be multiples of it

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Computes the features.

    Args:
      image: float32 [b h w 3] in [0, 1]; h and w multiples of `stride`.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      'bottleneck' [b h/32 w/32 512*width], the output of the last pooling, and
      'decoder' [b h w 64*width], the output of the last decoder layer.
    """
    filters = [max(1, round(f * self.width)) for f in FILTERS]
    block = functools.partial(
      Block,
      conv=functools.partial(
        nn.Conv,
        kernel_size=(3, 3),
        conv_general_dilated=conv_general_dilated,
      ),
      norm=functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=self.axis_name,
      ),
    )
    x = image
    positions = []
    for level, blocks in enumerate(_BLOCKS):
      for i in range(blocks):
        x = block(filters[level], name=f'encoder_{level}_{i}')(x)
      x, position = max_pool(x)
      positions.append(position)
    bottleneck = x
    for level, blocks in reversed(list(enumerate(_BLOCKS))):
      x = max_unpool(x, positions[level])
      for i in range(blocks):
        x = block(filters[max(level - 1, 0)], name=f'decoder_{level}_{i}')(x)
    return {'bottleneck': bottleneck, 'decoder': x}


class Block(nn.Module):
  """3x3 convolution (with bias, as the reference has it), BatchNorm, ReLU."""

  features: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b h w c] to [b h w features]."""
    x = self.conv(self.features, kernel_init=xavier_normal, name='conv')(x)
    return nn.relu(self.norm(name='norm')(x))
