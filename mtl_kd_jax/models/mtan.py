"""MTAN, the SegNet form (Liu et al., CVPR 2019).

All tasks share a SegNet, and every task has an attention network over it. At
each level two 1x1 convolutions compute a mask in 0..1 from the level's map and
the task's result of the previous level. The mask multiplies the level's last
map, and a 3x3 block takes the product to the next level. The masks are
task-specific; the 3x3 blocks are shared by the tasks.
"""

from collections.abc import Callable, Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.models import segnet
from mtl_kd_jax.models.features import task_tap
from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.ops.conv import dot_general
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.pooling import max_pool
from mtl_kd_jax.ops.resize import resize_bilinear


class MTAN(nn.Module):
  """A shared SegNet and an attention network per task.

  Attributes:
    width: factor on the channels [64, 128, 256, 512, 512].
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
    remat: whether activations inside of blocks are computed again on the way
      back, instead of kept.
  """

  width: float = 1.0
  axis_name: str | None = None
  remat: bool = False

  stride = segnet.STRIDE  # image sides must be multiples of it
  taps = ('bottleneck', 'decoder')

  @nn.compact
  def __call__(
    self, image: jax.Array, *, tasks: Sequence[str], train: bool
  ) -> dict[str, jax.Array]:
    """Computes task-specific features.

    Args:
      image: float32 [b h w 3] in [0, 1]; h and w multiples of `stride`.
      tasks: the tasks; with one it is the single-task MTAN.
      train: whether BatchNorm uses, and records, the statistics of this batch.
        Blocks that the tasks share record those of every task in turn.

    Returns:
      For each task 'bottleneck/<task>' [b h/32 w/32 512*width], the end of its
      attention encoder, and 'decoder/<task>' [b h w 64*width], its last masked
      map.
    """
    filters = segnet.scaled(segnet.STANDARD, self.width)
    block = segnet.make_block(self.axis_name, train=train, remat=self.remat)
    encoder = segnet.encode(image, block, filters)
    decoder = segnet.decode(encoder, block, filters)

    mask = functools.partial(
      nn.remat(Mask) if self.remat else Mask,
      norm=functools.partial(
        BatchNorm, use_running_average=not train, axis_name=self.axis_name
      ),
    )
    # Made once and called by every task.
    down = [
      block(channels, name=f'attention_encoder_{level}')
      for level, channels in enumerate([*filters[1:], filters[-1]])
    ]
    up = [
      block(channels, name=f'attention_decoder_{level}')
      for level, channels in enumerate([filters[0], *filters[:-1]])
    ]

    features = {}
    for task in tasks:
      x = None
      for level, maps in enumerate(encoder):
        inputs = maps.first if x is None else _concatenate(maps.first, x)
        attend = mask(name=f'mask_encoder_{level}_{task}')
        x, _ = max_pool(down[level](attend(inputs, maps.last)))
      features[task_tap('bottleneck', task)] = x
      for level, maps in reversed(list(enumerate(decoder))):
        x = resize_bilinear(x, maps.last.shape[1:3], align_corners=True)
        inputs = _concatenate(maps.unpooled, up[level](x))
        attend = mask(name=f'mask_decoder_{level}_{task}')
        x = attend(inputs, maps.last)
      features[task_tap('decoder', task)] = x
    return features


class Mask(nn.Module):
  """A soft attention mask, computed by two 1x1 convolutions.

  Attributes:
    norm: makes a normalization.
  """

  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, inputs: jax.Array, x: jax.Array) -> jax.Array:
    """Masks `x` [b h w c] by a mask computed from `inputs` [b h w d]."""
    conv = functools.partial(
      nn.Dense,
      x.shape[-1],
      kernel_init=xavier_normal,
      dot_general=dot_general,
    )
    y = nn.relu(self.norm(name='norm_0')(conv(name='conv_0')(inputs)))
    return nn.sigmoid(self.norm(name='norm_1')(conv(name='conv_1')(y))) * x


def _concatenate(x, y):
  return jnp.concatenate([x, y], axis=-1)
