"""The backbones and heads, by name. To add one: a file, and a line here.

A backbone is a flax module called as `backbone(image, tasks=..., train=...)`
that returns features by name (features.py). It has the attributes `width`,
`axis_name`, `stride` (image sides must be multiples of it), `taps` (the names)
and, where it can keep its maps larger, `output_stride`. It may have any
variables and use any random numbers.

A head is a flax module that turns the features that a task sees into its
prediction. It has the attributes `channels`, `width`, `axis_name`, and `taps`,
the names of the features that it reads (heads.py). The heads of `IMAGE_HEADS`
predict something of the image as a whole, [b c], and read the last feature of a
backbone, `tap`, that is none of 'decoder' (pooled.py).
"""

from collections.abc import Mapping, Sequence
import functools
import math
import numbers
from typing import Any

import flax.linen as nn

from mtl_kd_jax.errors import InputError, check_type, hint, what_is
from mtl_kd_jax.models.deeplab import ASPPHead, DeepLabV3PlusHead
from mtl_kd_jax.models.fpn import FPNHead
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.mtan import MTAN
from mtl_kd_jax.models.network import Network, NetworkSpec, Output
from mtl_kd_jax.models.pooled import PooledHead
from mtl_kd_jax.models.resnet import ResNet
from mtl_kd_jax.models.segnet import WIDE, SegNet

__all__ = [
  'BACKBONES',
  'HEADS',
  'IMAGE_HEADS',
  'OUTPUT_STRIDES',
  'Network',
  'NetworkSpec',
  'Output',
  'check_image_size',
  'make',
]

BACKBONES = {
  'segnet': SegNet,
  'segnet_wide': functools.partial(SegNet, filters=WIDE),
  'segnet_deep': functools.partial(SegNet, depth=2),
  'mtan': MTAN,
  'resnet10': functools.partial(ResNet, layers=10),
  'resnet18': functools.partial(ResNet, layers=18),
  'resnet34': functools.partial(ResNet, layers=34),
  'resnet50': functools.partial(ResNet, layers=50),
}
HEADS = {
  'dense': DenseHead,
  'aspp': ASPPHead,
  'deeplabv3plus': DeepLabV3PlusHead,
  'fpn': FPNHead,
}
IMAGE_HEADS = {'pooled': PooledHead}
OUTPUT_STRIDES = (8, 16, 32)


def make(
  backbone: str,
  tasks: Mapping[str, Any],
  *,
  head: str = '',
  width: float = 1.0,
  output_stride: int = 8,
  image_size: tuple[int, int] | None = None,
  axis_name: str | None = None,
) -> Network:
  """Makes a network by the names of its parts.

  Args:
    backbone: of `BACKBONES`.
    tasks: task -> `Task`, or the channels of its prediction.
    head: of `HEADS`, for every task that does not name another one and says
      something of every pixel; '' for the simplest that reads the features of
      the backbone.
    width: factor on the channels of both.
    output_stride: image side over side of the coarsest map: 8, 16 or 32; for
      ResNets.
    image_size: (height, width) in pixels, to check it; None to check it later.
    axis_name: the mapped device axis, if any.

  Raises:
    InputError: a part is unknown or cannot be made so, there is no task, the
      head (or every head) reads features that the backbone does not have, or
      image sides do not fit.
  """
  _check_known(backbone, BACKBONES, 'backbone')
  _check_tasks(tasks)
  module = _make_backbone(
    backbone, width=width, output_stride=output_stride, axis_name=axis_name
  )
  fit = [h for h, c in HEADS.items() if set(c.taps) <= set(module.taps)]
  if not fit:
    reads = [f'{", ".join(c.taps)} ({h})' for h, c in HEADS.items()]
    raise InputError(
      expected=f'a backbone with the features of a head: {"; ".join(reads)}',
      found=f'{backbone}, with {", ".join(module.taps)}',
      argument='backbone',
      do='choose another backbone, or add a head for its features to HEADS',
    )
  head = head or fit[0]
  _check_head(head, backbone, module, fit)
  options = {'width': width, 'axis_name': axis_name}
  heads = {}
  for name, task in tasks.items():
    own = getattr(task, 'head', '')
    if getattr(task, 'of_image', False):
      own = own or next(iter(IMAGE_HEADS))
      _check_known(own, IMAGE_HEADS, 'head', argument=f'tasks.{name}.head')
      heads[name] = functools.partial(
        IMAGE_HEADS[own], tap=_last_tap(module), **options
      )
    elif own:
      _check_head(own, backbone, module, fit, argument=f'tasks.{name}.head')
      heads[name] = functools.partial(HEADS[own], **options)
  network = Network(
    backbone=module,
    channels={t: getattr(task, 'channels', task) for t, task in tasks.items()},
    head=functools.partial(HEADS[head], **options),
    heads=heads,
    spec=NetworkSpec(backbone, head, float(width), int(output_stride)),
  )
  if image_size is not None:
    check_image_size(network, image_size)
  return network


def _check_tasks(tasks) -> None:
  """Checks that tasks come by name, with a number of channels each."""
  check_type(
    tasks,
    Mapping,
    expected='tasks by name, or the channels of their predictions',
    argument='tasks',
    do="take those of the data: data.tasks('semantic', 'depth'); or "
    "{'depth': 1}",
  )
  for name, task in tasks.items():
    channels = getattr(task, 'channels', task)
    if not isinstance(channels, numbers.Integral) or channels < 1:
      raise InputError(
        expected='a task, or how many channels its prediction has',
        found=what_is(channels),
        argument=f'tasks.{name}',
        do='take a task of the data, data.tasks(...), or a number from 1',
      )
  if not tasks:
    raise InputError(
      expected='one task or more',
      found='none',
      argument='tasks',
      do='name those that the network is to predict',
    )


def _check_head(head, backbone, module, fit, *, argument='head') -> None:
  """Checks that a head is known and reads features of the backbone."""
  _check_known(head, HEADS, 'head', argument=argument)
  if head not in fit:
    missing = [tap for tap in HEADS[head].taps if tap not in module.taps]
    raise InputError(
      expected=f'a head for the features of {backbone}: '
      f'{", ".join(module.taps)}',
      found=f'{head}, which reads {", ".join(missing)}',
      argument=argument,
      do=f'choose {" or ".join(fit)}',
    )


def _last_tap(module) -> str:
  """The feature that has seen the most of the image."""
  return [tap for tap in module.taps if tap != 'decoder'][-1]


def check_image_size(network: Network, image_size: tuple[int, int]) -> None:
  """Checks that a network can take images of a size.

  Args:
    network: the network.
    image_size: (height, width) in pixels.

  Raises:
    InputError: it is no size, or a side is no multiple of the backbone's
      stride.
  """
  stride = getattr(network.backbone, 'stride', 1)
  sides = [*image_size] if isinstance(image_size, Sequence) else []
  if len(sides) != 2 or not all(isinstance(s, numbers.Integral) for s in sides):
    raise InputError(
      expected='(height, width) in whole pixels',
      found=f'{image_size!r}',
      argument='image_size',
      do='give two numbers, e.g. (96, 128)',
    )
  if any(side <= 0 or side % stride for side in image_size):
    fit = [max(stride, round(side / stride) * stride) for side in image_size]
    name = network.spec.backbone if network.spec else 'the backbone'
    raise InputError(
      expected=f'image sides that are multiples of {stride}, for {name}',
      found=f'{image_size[0]} x {image_size[1]} (height x width)',
      where='the images of the dataset',
      argument='image_size',
      do=f'resize or crop them, e.g. to {fit[0]} x {fit[1]}',
    )


def _make_backbone(name, *, width, output_stride, axis_name) -> nn.Module:
  if not isinstance(width, numbers.Real) or not 0 < width < math.inf:
    raise InputError(
      expected='a finite factor above 0 on the channels of the backbone',
      found=what_is(width),
      argument='width',
      do='1.0 is the size of the paper, 0.25 runs on a laptop',
    )
  if output_stride not in OUTPUT_STRIDES:
    raise InputError(
      expected=f'one of {", ".join(map(str, OUTPUT_STRIDES))}',
      found=f'{output_stride}',
      argument='output_stride',
      do='8 gives the finest features, 32 is the fastest',
    )
  backbone = BACKBONES[name](width=width, axis_name=axis_name)
  if hasattr(backbone, 'output_stride'):
    backbone = backbone.clone(output_stride=output_stride)
  return backbone


def _check_known(
  name: str, registry: Mapping[str, Any], what: str, *, argument: str = ''
) -> None:
  if not isinstance(name, str) or name not in registry:
    raise InputError(
      expected=f'a known {what}: {", ".join(registry)}',
      found=what_is(name),
      argument=argument or what,
      do=f'correct the name{hint(name, registry)}',
    )
