"""The head of tasks that say something of the image as a whole."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.models.initializers import xavier_normal


class PooledHead(nn.Module):
  """The mean over the pixels of a feature, and a linear map of it.

  Attributes:
    channels: channels of the prediction.
    width: unused; the channels are those of the feature.
    axis_name: unused.
    tap: the feature that it reads.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None
  tap: str = 'bottleneck'

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from a feature of any size.

    Args:
      features: tap -> float [b h w c].
      size: unused.
      train: unused.

    Returns:
      The prediction [b channels], and the feature 'pooled' [b 1 1 c].
    """
    del size, train
    pooled = jnp.mean(features[self.tap], axis=(1, 2), keepdims=True)
    out = nn.Dense(self.channels, kernel_init=xavier_normal, name='out')
    return out(pooled[:, 0, 0]), {'pooled': pooled}
