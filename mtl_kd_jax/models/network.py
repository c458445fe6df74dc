"""A backbone and a head per task, with all features by name."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models import HEADS, make_backbone, make_head
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.models.heads import DenseHead


class Output(NamedTuple):
  """What a network returns; nothing is hooked or sown.

  Attributes:
    predictions: task -> float [b h w c].
    features: tap -> float [b h w c]: 'bottleneck' is shared by the tasks,
      'decoder/depth' is depth's own (taps.py).
  """

  predictions: dict[str, jax.Array]
  features: dict[str, jax.Array]


class Network(nn.Module):
  """A network for one task or several.

  Attributes:
    backbone: maps images to named features.
    channels: task -> channels of its prediction.
    head: makes the head of a task, `head(channels, name=...)`. It is called
      with the features that the task sees, and returns its prediction and the
      features that it computed on the way.
  """

  backbone: nn.Module
  channels: Mapping[str, int]
  head: Callable[..., nn.Module] = DenseHead

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> Output:
    """Predicts every task from `image`, float32 [b h w 3] in [0, 1]."""
    tasks = tuple(self.channels)
    features = dict(self.backbone(image, tasks=tasks, train=train))
    predictions = {}
    for task, channels in self.channels.items():
      head = self.head(channels, name=f'head_{task}')
      predictions[task], own = head(
        taps_of(features, task), size=image.shape[1:3], train=train
      )
      features |= {task_tap(tap, task): x for tap, x in own.items()}
    return Output(predictions, features)


def make_network(
  *,
  backbone: str,
  head: str,
  width: float,
  output_stride: int,
  channels: Mapping[str, int],
  image_size: tuple[int, int],
  axis_name: str | None = None,
  where: str = 'config.model',
) -> Network:
  """Makes a network by the names of its parts.

  Args:
    backbone: of `models.BACKBONES`.
    head: of `models.HEADS`, the same for every task.
    width: factor on the channels of both.
    output_stride: image side over side of the coarsest map; for ResNets.
    channels: task -> channels of its prediction.
    image_size: (height, width) in pixels.
    axis_name: the mapped device axis, if any.
    where: the config's part with these names, for messages.

  Raises:
    InputError: a part is unknown or cannot be made so, or the head reads
      features that the backbone does not have.
  """
  made = make_backbone(
    backbone,
    width=width,
    output_stride=output_stride,
    image_size=image_size,
    axis_name=axis_name,
    where=where,
  )
  make = make_head(head, width=width, axis_name=axis_name, where=where)
  missing = [tap for tap in HEADS[head].taps if tap not in made.taps]
  if missing:
    fit = [h for h, c in HEADS.items() if set(c.taps) <= set(made.taps)]
    raise InputError(
      expected=f'a head for the features of {backbone}: {", ".join(made.taps)}',
      found=f'{head}, which reads {", ".join(missing)}',
      where=f'{where}.head with {where}.backbone',
      do=f'choose {" or ".join(fit)}',
    )
  return Network(made, channels, make)
