"""Linear maps from the student's features to each teacher's."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from mtl_kd_jax.models.initializers import xavier_normal


class Adaptors(nn.Module):
  """One 1x1 convolution without bias for each task and student tap.

  Linear, so that the student's feature must *contain* each teacher's feature
  and the adaptor cannot compute it (Li & Bilen 2020, A_t in Fig. 1).

  Attributes:
    channels: task -> student tap -> channels of the teacher's feature.
  """

  channels: Mapping[str, Mapping[str, int]]

  @nn.compact
  def __call__(
    self, features: Mapping[str, jax.Array]
  ) -> dict[str, dict[str, jax.Array]]:
    """Maps features.

    Args:
      features: student tap -> float [b h w c].

    Returns:
      task -> student tap -> float [b h w c'], c' from `channels`.
    """
    return {
      task: {
        tap: nn.Dense(
          channels,
          use_bias=False,
          kernel_init=xavier_normal,
          name=f'{task}_{tap}',
        )(features[tap])
        for tap, channels in taps.items()
      }
      for task, taps in self.channels.items()
    }
