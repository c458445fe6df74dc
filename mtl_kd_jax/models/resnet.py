"""ResNets, dilated (He et al., CVPR 2016; Yu et al., CVPR 2017).

The layers and their names are torchvision's (v1.5: the stride of a bottleneck
block is that of its 3x3 convolution), so that its ImageNet weights fit.
ResNet-10, which torchvision does not have, is the small one of the few-shot
literature: a single block per layer (Chen et al., ICLR 2019).
Dilation follows torchvision's rule too: a layer that would exceed the output
stride keeps its size and doubles the dilation instead, from its second block
on.

| tap    | side at output stride 32 (16, 8) | channels (10, 18, 34) | (50) |
|--------|----------------------------------|-----------------------|------|
| layer1 | 1/4                              | 64                    | 256  |
| layer2 | 1/8                              | 128                   | 512  |
| layer3 | 1/16 (1/16, 1/8)                 | 256                   | 1024 |
| layer4 | 1/32 (1/16, 1/8)                 | 512                   | 2048 |
"""

from collections.abc import Callable, Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.models.layers import conv, linear
from mtl_kd_jax.ops.norm import BatchNorm

_BLOCKS = {
  10: (1, 1, 1, 1),
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
}
_EXPANSION = 4  # of a bottleneck block
# Of ImageNet, for images in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class ResNet(nn.Module):
  """Residual network without its classifier.

  Attributes:
    width: factor on the channels.
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
    layers: 10, 18, 34 or 50.
    output_stride: image side over side of 'layer4': 8, 16 or 32.
    remat: whether activations inside of blocks are computed again on the way
      back, instead of kept.
  """

  width: float = 1.0
  axis_name: str | None = None
  layers: int = 50
  output_stride: int = 32
  remat: bool = False

  taps = ('layer1', 'layer2', 'layer3', 'layer4')

  @property
  def stride(self) -> int:
    """Image sides must be multiples of it."""
    return self.output_stride

  @nn.compact
  def __call__(
    self, image: jax.Array, *, tasks: Sequence[str], train: bool
  ) -> dict[str, jax.Array]:
    """Computes the features, the same for all tasks.

    Args:
      image: float32 [b h w 3] in [0, 1], normalized here as ImageNet weights
        expect it; h and w multiples of `stride`.
      tasks: unused.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      'layer1' .. 'layer4', float [b h/s w/s c], see above.
    """
    del tasks
    norm = functools.partial(
      BatchNorm, use_running_average=not train, axis_name=self.axis_name
    )
    block = Bottleneck if self.layers >= 50 else BasicBlock
    block = functools.partial(
      nn.remat(block) if self.remat else block, norm=norm
    )
    base = max(1, round(64 * self.width))
    mean = jnp.asarray(_MEAN, image.dtype)[None, None, None]
    deviation = jnp.asarray(_DEVIATION, image.dtype)[None, None, None]
    x = conv(base, 7, stride=2, name='conv1')((image - mean) / deviation)
    x = nn.relu(norm(name='bn1')(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    features = {}
    reached, dilation = 4, 1
    for layer, blocks in enumerate(_BLOCKS[self.layers], start=1):
      stride = 1 if layer == 1 else 2
      first = dilation
      if reached * stride > self.output_stride:
        dilation, stride = dilation * stride, 1
      reached *= stride
      for i in range(blocks):
        x = block(
          base * 2 ** (layer - 1),
          stride=stride if i == 0 else 1,
          dilation=first if i == 0 else dilation,
          name=f'layer{layer}_{i}',
        )(x)
      features[f'layer{layer}'] = x
    return features


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut.

  Attributes:
    features: channels.
    norm: makes a normalization.
    stride: of the first convolution and of the shortcut.
    dilation: of both convolutions.
  """

  features: int
  norm: Callable[..., nn.Module]
  stride: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b h w c] to [b h/stride w/stride features]."""
    y = conv(
      self.features, 3, stride=self.stride, dilation=self.dilation, name='conv1'
    )(x)
    y = nn.relu(self.norm(name='bn1')(y))
    y = conv(self.features, 3, dilation=self.dilation, name='conv2')(y)
    y = self.norm(name='bn2')(y)
    return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.norm))


class Bottleneck(nn.Module):
  """A 3x3 convolution between two 1x1 convolutions, beside a shortcut.

  Attributes:
    features: channels of the 3x3 convolution, a quarter of the result's.
    norm: makes a normalization.
    stride: of the 3x3 convolution and of the shortcut.
    dilation: of the 3x3 convolution.
  """

  features: int
  norm: Callable[..., nn.Module]
  stride: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b h w c] to [b h/stride w/stride 4*features]."""
    y = nn.relu(self.norm(name='bn1')(linear(self.features, name='conv1')(x)))
    y = conv(
      self.features, 3, stride=self.stride, dilation=self.dilation, name='conv2'
    )(y)
    y = nn.relu(self.norm(name='bn2')(y))
    y = linear(_EXPANSION * self.features, name='conv3')(y)
    y = self.norm(name='bn3')(y)
    return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.norm))


def _shortcut(x, features, stride, norm):
  """The input, projected where the output has another shape."""
  if stride == 1 and x.shape[-1] == features:
    return x
  x = linear(features, name='downsample_conv')(x[:, ::stride, ::stride])
  return norm(name='downsample_norm')(x)
