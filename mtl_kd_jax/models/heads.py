"""The dense prediction head."""

import flax.linen as nn
import jax

from mtl_kd_jax.models.conv import conv_general_dilated
from mtl_kd_jax.models.initializers import xavier_normal


class DenseHead(nn.Module):
  """A 3x3 convolution and a 1x1 convolution, with nothing between (KD4MTL).

  Attributes:
    hidden: channels between the two.
    channels: channels of the prediction.
  """

  hidden: int
  channels: int

  @nn.compact
  def __call__(self, feature: jax.Array) -> jax.Array:
    """Maps a feature [b h w f] to a prediction [b h w channels]."""
    x = nn.Conv(
      self.hidden,
      (3, 3),
      kernel_init=xavier_normal,
      conv_general_dilated=conv_general_dilated,
      name='conv',
    )(feature)
    # A 1x1 convolution as the matrix product that it is: as a convolution it is
    # 20 times slower on CPU.
    return nn.Dense(self.channels, kernel_init=xavier_normal, name='out')(x)
