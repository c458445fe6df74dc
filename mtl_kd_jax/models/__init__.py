"""The backbones, by name. To add one: a file, and a line here.

A backbone is a flax module called as `backbone(image, train=...)` that returns
its features by name, 'decoder' among them, with the attributes `width`,
`axis_name` and `stride` (see segnet.py).
"""

import flax.linen as nn

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.segnet import SegNet

BACKBONES = {'segnet': SegNet}


def make_backbone(
  name: str,
  *,
  width: float,
  image_size: tuple[int, int],
  axis_name: str | None,
) -> nn.Module:
  """Makes a backbone for images of (height, width) pixels.

  Raises:
    InputError: unknown name, a width that is not positive, or image sides that
      the backbone cannot take.
  """
  if name not in BACKBONES:
    raise InputError(
      expected=f'a known backbone: {", ".join(BACKBONES)}',
      found=repr(name),
      where='config.model.backbone',
      do='correct the name',
    )
  if not width > 0:
    raise InputError(
      expected='a factor above 0 on the channels of the backbone',
      found=f'{width}',
      where='config.model.width',
      do='1.0 is the size of the paper, 0.25 runs on a laptop',
    )
  backbone = BACKBONES[name](width=width, axis_name=axis_name)
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
