"""SegNet (Badrinarayanan et al., TPAMI 2017), as multi-task papers use it.

All tasks share it up to the last decoder layer (Liu et al., CVPR 2019; Li &
Bilen, ECCV Workshops 2020). It has five levels. An encoder level is 2 (the
first two levels) or 3 blocks of 3x3 convolution, BatchNorm and ReLU, followed
by max-pooling. A decoder level unpools to the positions of those maxima and
runs as many blocks, the first of which changes to the channels of the next
finer level.

`encode` and `decode` are also the shared network of MTAN (mtan.py).
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import flax.linen as nn
import jax

from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.ops.conv import conv_general_dilated
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.pooling import max_pool, max_unpool

STANDARD = (64, 128, 256, 512, 512)
WIDE = (64, 128, 256, 512, 1024)
STRIDE = 2 ** len(STANDARD)
_BLOCKS = (2, 2, 3, 3, 3)


class SegNet(nn.Module):
  """Encoder-decoder with max-unpooling.

  Attributes:
    width: factor on the channels.
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
    filters: channels of the five levels at width 1; `STANDARD`, or `WIDE`.
    depth: convolutions in each block; 1, or 2 as in the variant "deep" of the
      MTAN code.
    remat: whether activations inside of blocks are computed again on the way
      back, instead of kept.
  """

  width: float = 1.0
  axis_name: str | None = None
  filters: Sequence[int] = STANDARD
  depth: int = 1
  remat: bool = False

  stride = STRIDE  # image sides must be multiples of it
  taps = ('bottleneck', 'decoder')

  @nn.compact
  def __call__(
    self, image: jax.Array, *, tasks: Sequence[str], train: bool
  ) -> dict[str, jax.Array]:
    """Computes the features, the same for all tasks.

    Args:
      image: float32 [b h w 3] in [0, 1]; h and w multiples of `stride`.
      tasks: unused.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      'bottleneck' [b h/32 w/32 filters[-1]*width], the output of the last
      pooling, and 'decoder' [b h w filters[0]*width], that of the last decoder
      layer.
    """
    del tasks
    filters = scaled(self.filters, self.width)
    block = make_block(
      self.axis_name, train=train, depth=self.depth, remat=self.remat
    )
    encoder = encode(image, block, filters)
    decoder = decode(encoder, block, filters)
    return {'bottleneck': encoder[-1].pooled, 'decoder': decoder[0].last}


class EncoderLevel(NamedTuple):
  """The maps [b h w c] of one encoder level.

  Attributes:
    first: output of its first block.
    last: output of its last block.
    pooled: `last`, pooled [b h/2 w/2 c].
    position: where each maximum was, uint8 like `pooled`.
  """

  first: jax.Array
  last: jax.Array
  pooled: jax.Array
  position: jax.Array


class DecoderLevel(NamedTuple):
  """The maps of one decoder level.

  Attributes:
    unpooled: its input at full size [b h w c].
    last: output of its last block [b h w c'].
  """

  unpooled: jax.Array
  last: jax.Array


def encode(
  x: jax.Array, block: Callable[..., nn.Module], filters: Sequence[int]
) -> list[EncoderLevel]:
  """Runs the encoder; its blocks become submodules of the calling module.

  Args:
    x: images, float [b h w 3].
    block: from `make_block`.
    filters: channels of each level.

  Returns:
    The levels, finest first.
  """
  levels = []
  for level, blocks in enumerate(_BLOCKS):
    maps = []
    for i in range(blocks):
      x = block(filters[level], name=f'encoder_{level}_{i}')(x)
      maps.append(x)
    x, position = max_pool(x)
    levels.append(EncoderLevel(maps[0], maps[-1], x, position))
  return levels


def decode(
  encoder: Sequence[EncoderLevel],
  block: Callable[..., nn.Module],
  filters: Sequence[int],
) -> list[DecoderLevel]:
  """Runs the decoder; its blocks become submodules of the calling module.

  Args:
    encoder: from `encode`.
    block: from `make_block`.
    filters: channels of each level.

  Returns:
    The levels, finest first.
  """
  levels = []
  x = encoder[-1].pooled
  for level, blocks in reversed(list(enumerate(_BLOCKS))):
    unpooled = x = max_unpool(x, encoder[level].position)
    for i in range(blocks):
      x = block(filters[max(level - 1, 0)], name=f'decoder_{level}_{i}')(x)
    levels.insert(0, DecoderLevel(unpooled, x))
  return levels


def scaled(filters: Sequence[int], width: float) -> list[int]:
  """Channels of the levels at a width, at least one each."""
  return [max(1, round(f * width)) for f in filters]


def make_block(
  axis_name: str | None,
  *,
  train: bool,
  depth: int = 1,
  remat: bool = False,
) -> Callable[..., nn.Module]:
  """Returns what makes a block: `block(features, name=...)`."""
  return functools.partial(
    nn.remat(Block) if remat else Block,
    depth=depth,
    conv=functools.partial(
      nn.Conv,
      kernel_size=(3, 3),
      kernel_init=xavier_normal,
      conv_general_dilated=conv_general_dilated,
    ),
    norm=functools.partial(
      BatchNorm, use_running_average=not train, axis_name=axis_name
    ),
  )


class Block(nn.Module):
  """3x3 convolution with bias, BatchNorm, ReLU.

  Attributes:
    features: channels of the result.
    conv: makes a convolution.
    norm: makes a normalization.
    depth: number of repetitions.
  """

  features: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  depth: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b h w c] to [b h w features]."""
    for i in range(self.depth):
      suffix = f'_{i}' if i else ''
      x = self.conv(self.features, name=f'conv{suffix}')(x)
      x = nn.relu(self.norm(name=f'norm{suffix}')(x))
    return x
