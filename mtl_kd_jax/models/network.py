"""A backbone and a head per task, with the backbone's features by name."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax

from mtl_kd_jax.models.heads import DenseHead


class Output(NamedTuple):
  """What a network returns; nothing is hooked or sown.

  Attributes:
    predictions: task -> float [b h w c].
    features: tap -> float [b h w c], e.g. 'bottleneck' and 'decoder'.
  """

  predictions: dict[str, jax.Array]
  features: dict[str, jax.Array]


class Network(nn.Module):
  """A network for one task or several.

  Attributes:
    backbone: maps images to named features; its 'decoder' feeds the heads.
    channels: task -> channels of its prediction.
  """

  backbone: nn.Module
  channels: Mapping[str, int]

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> Output:
    """Predicts every task from `image`, float32 [b h w 3] in [0, 1]."""
    features = self.backbone(image, train=train)
    decoder = features['decoder']
    predictions = {
      task: DenseHead(decoder.shape[-1], channels, name=f'head_{task}')(decoder)
      for task, channels in self.channels.items()
    }
    return Output(predictions, features)

  def features(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """The features alone: what a teacher is asked for, without its head."""
    return self.backbone(image, train=train)
