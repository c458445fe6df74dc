"""The dense prediction head."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from mtl_kd_jax.models.conv import conv_general_dilated
from mtl_kd_jax.models.initializers import xavier_normal


class DenseHead(nn.Module):
  """A 3x3 convolution and a 1x1 convolution, with nothing between (KD4MTL).

  Attributes:
    channels: channels of the prediction.
    width: nothing here depends on it: the inner channels are those of the
      feature.
    axis_name: nothing here depends on it.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None

  taps = ('decoder',)  # what it reads

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from 'decoder', which has the size of the image.

    Args:
      features: tap -> float [b h w f].
      size: (height, width) of the image.
      train: nothing here depends on it.

    Returns:
      The prediction [b h w channels], and no features of its own.
    """
    del train
    x = features['decoder']
    if x.shape[1:3] != size:
      raise ValueError(f'Expected a decoder of size {size}, got {x.shape}.')
    x = nn.Conv(
      x.shape[-1],
      (3, 3),
      kernel_init=xavier_normal,
      conv_general_dilated=conv_general_dilated,
      name='conv',
    )(x)
    # A 1x1 convolution as the matrix product that it is: as a convolution it is
    # 20 times slower on CPU.
    return nn.Dense(self.channels, kernel_init=xavier_normal, name='out')(x), {}
