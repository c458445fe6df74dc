"""The backbones and heads, by name. To add one: a file, and a line here.

A backbone is a flax module called as `backbone(image, tasks=..., train=...)`
that returns features by name (taps.py). It has the attributes `width`,
`axis_name`, `stride` (image sides must be multiples of it), `taps` (the names)
and, where it can keep its maps larger, `output_stride`.

A head is a flax module that turns the features that a task sees into its
prediction. It has the attributes `channels`, `width`, `axis_name`, and `taps`,
the names of the features that it reads (heads.py).
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import flax.linen as nn

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.deeplab import ASPPHead, DeepLabV3PlusHead
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.mtan import MTAN
from mtl_kd_jax.models.resnet import ResNet
from mtl_kd_jax.models.segnet import WIDE, SegNet

BACKBONES = {
  'segnet': SegNet,
  'segnet_wide': functools.partial(SegNet, filters=WIDE),
  'segnet_deep': functools.partial(SegNet, depth=2),
  'mtan': MTAN,
  'resnet18': functools.partial(ResNet, layers=18),
  'resnet34': functools.partial(ResNet, layers=34),
  'resnet50': functools.partial(ResNet, layers=50),
}
HEADS = {
  'dense': DenseHead,
  'aspp': ASPPHead,
  'deeplabv3plus': DeepLabV3PlusHead,
}
OUTPUT_STRIDES = (8, 16, 32)


def make_backbone(
  name: str,
  *,
  width: float,
  output_stride: int,
  image_size: tuple[int, int],
  axis_name: str | None,
  where: str = 'config.model',
) -> nn.Module:
  """Makes a backbone.

  Args:
    name: of `BACKBONES`.
    width: factor on its channels.
    output_stride: image side over side of the coarsest map; for ResNets.
    image_size: (height, width) in pixels.
    axis_name: the mapped device axis, if any.
    where: the config's part with these values, for messages.

  Raises:
    InputError: unknown name, a width that is not positive, an output stride
      that there is not, or image sides that the backbone cannot take.
  """
  _known(name, BACKBONES, f'{where}.backbone')
  if not width > 0:
    raise InputError(
      expected='a factor above 0 on the channels of the backbone',
      found=f'{width}',
      where=f'{where}.width',
      do='1.0 is the size of the paper, 0.25 runs on a laptop',
    )
  if output_stride not in OUTPUT_STRIDES:
    raise InputError(
      expected=f'one of {", ".join(map(str, OUTPUT_STRIDES))}',
      found=f'{output_stride}',
      where=f'{where}.output_stride',
      do='8 gives the finest features, 32 is the fastest',
    )
  backbone = BACKBONES[name](width=width, axis_name=axis_name)
  if hasattr(backbone, 'output_stride'):
    backbone = backbone.clone(output_stride=output_stride)
  stride = backbone.stride
  if any(side <= 0 or side % stride for side in image_size):
    fit = [max(stride, round(side / stride) * stride) for side in image_size]
    raise InputError(
      expected=f'image sides that are multiples of {stride}, for {name}',
      found=f'{image_size[0]} x {image_size[1]} (height x width)',
      where='the images of the dataset: its files, or its image_size in '
      'config.data',
      do=f'resize or crop them, e.g. to {fit[0]} x {fit[1]}',
    )
  return backbone


def make_head(
  name: str,
  *,
  width: float,
  axis_name: str | None,
  where: str = 'config.model',
) -> Callable[..., nn.Module]:
  """What makes a task's head: `head(channels, name=...)`.

  Args:
    name: of `HEADS`.
    width: factor on its inner channels.
    axis_name: the mapped device axis, if any.
    where: the config's part with these values, for messages.

  Raises:
    InputError: unknown name.
  """
  _known(name, HEADS, f'{where}.head')
  return functools.partial(HEADS[name], width=width, axis_name=axis_name)


def _known(name: str, registry: Mapping[str, Any], where: str) -> None:
  if name not in registry:
    raise InputError(
      expected=f'a known {where.split(".")[-1]}: {", ".join(registry)}',
      found=repr(name),
      where=where,
      do='correct the name',
    )
