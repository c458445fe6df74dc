"""The table from this project's variables to their names in PyTorch files.

The names are those of the paper's code (SegNet and MTAN), and of torchvision
(ResNet). Heads that neither has keep their own names.
"""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.errors import InputError

# (Layer of this project, its name in a file.) `place` is the index of the layer
# in an nn.Sequential, `number` and `position` are those of a task in the file.
_LAYERS = (
  # SegNet ('standard', 'wide' and 'deep'), and the trunk of MTAN.
  (
    r'(?P<side>en|de)coder_(?P<level>\d)_0/(?P<layer>\w+)',
    '{side}coder_block.{level}.{place}',
  ),
  (
    r'(?P<side>en|de)coder_(?P<level>[01])_1/(?P<layer>\w+)',
    'conv_block_{side}c.{level}.{place}',
  ),
  (
    r'(?P<side>en|de)coder_(?P<level>\d)_(?P<block>\d)/(?P<layer>\w+)',
    'conv_block_{side}c.{level}.{before}.{place}',
  ),
  # MTAN: the blocks that the tasks share, and the masks of each.
  (
    r'attention_(?P<side>en|de)coder_(?P<level>\d)/(?P<layer>\w+)',
    '{side}coder_block_att.{level}.{place}',
  ),
  (
    r'mask_(?P<side>en|de)coder_(?P<level>\d)_(?P<task>\w+)/(?P<layer>\w+)',
    '{side}coder_att.{position}.{level}.{place}',
  ),
  (r'head_(?P<task>\w+)/(?P<layer>conv|out)', 'pred_task{number}.{place}'),
  # torchvision's ResNets.
  (r'(?P<layer>conv1|bn1)', '{layer}'),
  (
    r'layer(?P<level>\d)_(?P<block>\d)/downsample_(?P<layer>conv|norm)',
    'layer{level}.{block}.downsample.{place}',
  ),
  (
    r'layer(?P<level>\d)_(?P<block>\d)/(?P<layer>\w+)',
    'layer{level}.{block}.{layer}',
  ),
)
# A block is convolution, BatchNorm, activation; in the deep form, twice.
_PLACES = {
  'conv': 0,
  'norm': 1,
  'conv_0': 0,
  'norm_0': 1,
  'conv_1': 3,
  'norm_1': 4,
  'out': 1,
}
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_TASKS = ('semantic', 'depth', 'normals')  # in the order of the reference

# Entries that may be ignored: counters, weights of losses, torchvision's
# classifier, and the parts of tasks that the network does not have.
_IGNORED = re.compile(
  r'.*\.num_batches_tracked|logsigma(_dist)?|fc\.(weight|bias)'
  r'|pred_task\d?\..*|(en|de)coder_att\.\d\..*'
)

SINGLE = 'pred_task'  # the head of a single-task MTAN, which has no number
_LAST = 'encoder_block.4.0.weight'  # the last level of a SegNet's encoder
# The entries that identify a network, its first convolution first. Where
# several networks match, the last one is meant.
_MARKS = {
  'segnet': ('encoder_block.0.0.weight',),
  'segnet_deep': ('encoder_block.0.0.weight', 'encoder_block.0.3.weight'),
  'mtan': ('encoder_block.0.0.weight', 'encoder_att.0.0.0.weight'),
  'resnet10': ('conv1.weight', 'layer1.0.conv1.weight'),
  'resnet18': ('conv1.weight', 'layer1.1.conv1.weight'),
  'resnet34': ('conv1.weight', 'layer3.5.conv1.weight'),
  'resnet50': ('conv1.weight', 'layer1.0.conv3.weight'),
}


def torch_name(path: str, *, single: bool = False, dense: bool = True) -> str:
  """The name in a PyTorch file of one of this project's variables.

  Args:
    path: e.g. 'params/backbone/encoder_0_0/conv/kernel'.
    single: whether the file is of a single-task MTAN, whose task has no number.
    dense: whether heads are those of the reference. Others, which no reference
      has, keep their own names: 'head_depth.aspp_0.conv.weight'.

  Raises:
    InputError: the table lacks the layer.
  """
  _, *layers, leaf = path.split('/')
  if layers[0].startswith('head_') and not dense:
    return '.'.join([*layers, _LEAVES[leaf]])
  layer = '/'.join(part for part in layers if part != 'backbone')
  for pattern, template in _LAYERS:
    if match := re.fullmatch(pattern, layer):
      groups = match.groupdict()
      task = groups.get('task')
      position = _TASKS.index(task) if task in _TASKS else len(_TASKS)
      name = template.format(
        **groups,
        place=_PLACES.get(groups['layer']),
        before=int(groups.get('block') or 0) - 1,
        position=0 if single else position,
        number='' if single else position + 1,
      )
      return f'{name}.{_LEAVES[leaf]}'
  raise InputError(
    expected="one of the reference's layers, or of torchvision's ResNets",
    found=layer,
    where='the network to import into',
    argument='path',
    do='import into segnet, mtan or a resnet',
  )


def torch_names(
  paths: Iterable[str], *, single: bool = False
) -> dict[str, str]:
  """The names in a PyTorch file of a network's variables, path -> name.

  Args:
    paths: as in `torch_name`.
    single: as in `torch_name`.

  Raises:
    InputError: the table lacks a layer, or has one name for two variables.
  """
  paths, names, path_of = [*paths], {}, {}
  heads = [path for path in paths if path.startswith('params/head_')]
  # The others have layers in their layers, and no bias in their convolutions.
  dense = not heads or any(path.endswith('/conv/bias') for path in heads)
  for path in paths:
    name = torch_name(path, single=single, dense=dense)
    if name in path_of:
      raise InputError(
        expected='another name in the file for every variable',
        found=f'{name} for {path_of[name]} and {path}',
        where='the network to import into',
        argument='paths',
        do='import a network with one task, or with some of '
        f'{", ".join(_TASKS)}, which have numbers of their own',
      )
    names[path], path_of[name] = name, path
  return names


def is_ignored(name: str) -> bool:
  """Whether an entry of a file may be ignored."""
  return bool(_IGNORED.fullmatch(name))


class Description(NamedTuple):
  """The network that a file is of, as far as names and shapes tell.

  Attributes:
    network: of `models.BACKBONES`, None for none of them.
    width: factor on the network's channels.
    channels: task -> channels of its head. The file of a single-task MTAN does
      not name its task: {'pred_task': channels}.
  """

  network: str | None
  width: float | None
  channels: dict[str, int]

  def __str__(self):
    if self.network is None:
      return 'none of the known networks'
    heads = [f'{task} {channels}' for task, channels in self.channels.items()]
    text = f'{self.network} of width {self.width:g}'
    return text + (f', channels of heads: {", ".join(heads)}' if heads else '')


def describe(weights: Mapping[str, np.ndarray]) -> Description:
  """Recognizes the network of a file by names and shapes.

  Args:
    weights: name -> array in PyTorch's axes, as a file has them.
  """
  looks = [n for n, marks in _MARKS.items() if all(m in weights for m in marks)]
  if not looks:
    return Description(None, None, {})
  network = looks[-1]
  sizes = {name: len(np.atleast_1d(x)) for name, x in weights.items()}
  first = sizes[_MARKS[network][0]]
  if network == 'segnet' and sizes.get(_LAST, 0) >= 12 * first:
    network = 'segnet_wide'  # 16 times the first, where others have 8
  names = {
    task: torch_name(f'params/head_{task}/out/bias') for task in _TASKS
  } | {SINGLE: f'{SINGLE}.1.bias'}
  channels = {task: sizes[n] for task, n in names.items() if n in sizes}
  return Description(network, first / 64, channels)
