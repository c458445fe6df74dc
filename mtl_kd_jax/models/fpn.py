"""The light head: a feature pyramid (Kirillov et al. 2019, arXiv 1901.02446).

Where DeepLab looks at the coarsest feature with large kernels, this one adds
features of all sizes up, from the coarsest to the finest. That is a small part
of the work, and it learns within few steps.
"""

from collections.abc import Mapping
import functools

import flax.linen as nn
import jax

from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.models.layers import ConvNormReLU, linear
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.resize import resize_bilinear

_FILTERS = 128


class FPNHead(nn.Module):
  """1x1 convolutions, summed from coarse to fine; one of 3x3; the prediction.

  Attributes:
    channels: channels of the prediction.
    width: factor on the inner channels.
    axis_name: the mapped device axis over which BatchNorm takes its
      statistics; None when the batch is not split by hand.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None

  taps = ('layer1', 'layer2', 'layer3', 'layer4')  # the features that it reads

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from the features of all sizes.

    Args:
      features: tap -> float [b h w c], with all of `taps`.
      size: (height, width) of the image.
      train: whether BatchNorm uses, and records, the statistics of this batch.

    Returns:
      The prediction [b h w channels] of the size of the image, and the feature
      'decoder', the last before the prediction, of the size of 'layer1'.
    """
    filters = max(1, round(_FILTERS * self.width))
    norm = functools.partial(
      BatchNorm, use_running_average=not train, axis_name=self.axis_name
    )
    x = None
    for tap in reversed(self.taps):
      lateral = linear(filters, name=tap)(features[tap])
      x = (
        lateral
        if x is None
        else lateral + resize_bilinear(x, lateral.shape[1:3])
      )
    x = nn.relu(norm(name='norm')(x))
    x = ConvNormReLU(filters, 3, norm=norm, name='conv')(x)
    # As in DeepLab's heads: predicted depths are to start near zero.
    prediction = nn.Dense(self.channels, kernel_init=xavier_normal, name='out')(
      x
    )
    return resize_bilinear(prediction, size), {'decoder': x}
