"""MTAN, the SegNet form (Liu et al., CVPR 2019).

A SegNet is shared by all tasks, and every task looks at it through masks of its
own: at each level two 1x1 convolutions compute a mask in 0..1 from the level's
map and from what the task has gathered so far, the mask multiplies the level's
last map, and a 3x3 block carries the product on to the next level. The masks
belong to the task, the 3x3 blocks to all of them.
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
  """

  width: float = 1.0
  axis_name: str | None = None

  stride = segnet.STRIDE  # image sides must be multiples of it
  taps = ('bottleneck', 'decoder')

  @nn.compact
  def __call__(
    self, image: jax.Array, *, tasks: Sequence[str], train: bool
  ) -> dict[str, jax.Array]:
    """Computes the features; every task has its own.

    Args:
      image: float32 [b h w 3] in [0, 1]; h and w multiples of `stride`.
      tasks: who looks; with one, the network is that task's single-task MTAN.
      train: whether BatchNorm uses, and records, the statistics of this batch.
        The blocks that the tasks share record one task's after another's.

    Returns:
      For each task 'bottleneck/<task>' [b h/32 w/32 512*width], what it carries
      out of the encoder, and 'decoder/<task>' [b h w 64*width], its last masked
      map.
    """
    filters = segnet.scaled(segnet.STANDARD, self.width)
    block = segnet.make_block(self.axis_name, train=train)
    encoder = segnet.encode(image, block, filters)
    decoder = segnet.decode(encoder, block, filters)

    mask = functools.partial(
      Mask,
      norm=functools.partial(
        BatchNorm, use_running_average=not train, axis_name=self.axis_name
      ),
    )
    # Made once and called by every task.
    down = [
      block(filters[min(level + 1, 4)], name=f'attention_encoder_{level}')
      for level in range(5)
    ]
    up = [
      block(filters[max(level - 1, 0)], name=f'attention_decoder_{level}')
      for level in range(5)
    ]

    features = {}
    for task in tasks:
      x = None
      for level, maps in enumerate(encoder):
        seen = maps.first if x is None else _joined(maps.first, x)
        look = mask(name=f'mask_encoder_{level}_{task}')
        x, _ = max_pool(down[level](look(seen, maps.last)))
      features[task_tap('bottleneck', task)] = x
      for level, maps in reversed(list(enumerate(decoder))):
        x = resize_bilinear(x, maps.last.shape[1:3], align_corners=True)
        seen = _joined(maps.unpooled, up[level](x))
        look = mask(name=f'mask_decoder_{level}_{task}')
        x = look(seen, maps.last)
      features[task_tap('decoder', task)] = x
    return features


class Mask(nn.Module):
  """What a task takes of a map, decided by two 1x1 convolutions.

  Attributes:
    norm: makes a normalization.
  """

  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, seen: jax.Array, x: jax.Array) -> jax.Array:
    """Masks `x` [b h w c] by what it makes of `seen` [b h w d]."""
    conv = functools.partial(
      nn.Dense,
      x.shape[-1],
      kernel_init=xavier_normal,
      dot_general=dot_general,
    )
    y = nn.relu(self.norm(name='norm_0')(conv(name='conv_0')(seen)))
    return nn.sigmoid(self.norm(name='norm_1')(conv(name='conv_1')(y))) * x


def _joined(x, y):
  return jnp.concatenate([x, y], axis=-1)
