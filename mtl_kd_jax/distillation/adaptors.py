"""Linear maps from the student's features to each teacher's."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax

from mtl_kd_jax.models.features import taps_of
from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.ops.conv import dot_general


class Pair(NamedTuple):
  """Which student tap meets which teacher tap."""

  student: str
  teacher: str

  def __str__(self):
    return f'{self.student}_to_{self.teacher}'


class Adaptors(nn.Module):
  """One 1x1 convolution without bias for each task and pair of taps.

  Linear, so that the student's feature must *contain* each teacher's feature
  and the adaptor cannot compute it (Li & Bilen 2020, A_t in Fig. 1).

  Attributes:
    channels: task -> pair -> channels of the teacher's feature.
  """

  channels: Mapping[str, Mapping[Pair, int]]

  @nn.compact
  def __call__(
    self, features: Mapping[str, jax.Array]
  ) -> dict[str, dict[Pair, jax.Array]]:
    """Maps features.

    Args:
      features: tap -> float [b h w c], all of the student's.

    Returns:
      task -> pair -> float [b h w c'], c' from `channels`.
    """
    return {
      task: {
        pair: nn.Dense(
          channels,
          use_bias=False,
          kernel_init=xavier_normal,
          dot_general=dot_general,
          name=f'{task}_{pair}',
        )(taps_of(features, task)[pair.student])
        for pair, channels in pairs.items()
      }
      for task, pairs in self.channels.items()
    }
