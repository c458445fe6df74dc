"""Weights for PyTorch: read back bit for bit, under the names of its code."""

import json

from fixtures.paths import SHARED_DATA
import jax
import numpy as np
import pytest
from safetensors import safe_open

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.export_torch import (
  read_safetensors,
  state_dict,
  write_safetensors,
)
from mtl_kd_jax.interop.torch_names import describe
from mtl_kd_jax.models import make
from mtl_kd_jax.models.network import abstract_init

REFERENCE = SHARED_DATA.parent / 'reference/kd4mtl_state_dict_shapes.json'
CHANNELS = {'semantic': 13, 'depth': 1, 'normals': 3}
SIZE = (64, 96)


def draw(like):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), like)


@pytest.mark.parametrize(
  'backbone, head, tasks',
  [
    ('segnet', 'dense', tuple(CHANNELS)),
    ('segnet_deep', 'dense', ('depth',)),
    ('mtan', 'dense', tuple(CHANNELS)),
    ('mtan', 'dense', ('normals',)),
    ('resnet18', 'deeplabv3plus', tuple(CHANNELS)),
    ('resnet50', 'aspp', ('depth',)),
    ('resnet34', 'fpn', ('semantic', 'depth')),
  ],
)
def test_what_is_written_is_read_bit_for_bit(
  backbone, head, tasks, shallow, tmp_path
):
  channels = {task: CHANNELS[task] for task in tasks}
  network = make(backbone, channels, head=head, width=1 / 16)
  _, like = abstract_init(network, SIZE)
  variables = draw(like)
  state = state_dict(variables, backbone=backbone, tasks=channels)
  path = tmp_path / 'network.safetensors'
  write_safetensors(path, state, {'about': 'text'})
  again = read_safetensors(path, like)
  jax.tree.map(np.testing.assert_array_equal, again, variables)
  with safe_open(path, 'np') as file:
    assert file.metadata() == {'format': 'pt', 'about': 'text'}
  assert path.stat().st_mode & 0o044  # others may read it, as other files


@pytest.mark.parametrize('backbone', ['segnet', 'mtan'])
def test_the_papers_code_finds_all_that_it_expects(backbone):
  """As by `load_state_dict(strict=True)`."""
  if not REFERENCE.is_file():
    pytest.skip('no shapes of the reference here')
  _, like = abstract_init(make(backbone, CHANNELS), SIZE)
  zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), like)
  state = state_dict(zeros, backbone=backbone, tasks=CHANNELS)
  reference = json.loads(REFERENCE.read_text())[backbone]
  assert {name: [*x.shape] for name, x in state.items()} == reference


def test_a_resnet_has_torchvisions_names(shallow):
  network = make('resnet50', {'depth': 1}, head='aspp', width=1 / 16)
  _, like = abstract_init(network, SIZE)
  state = state_dict(draw(like), backbone='resnet50', tasks={'depth': 1})
  assert describe(state).network == 'resnet50'
  for name, shape in {
    'conv1.weight': (4, 3, 7, 7),
    'layer1.0.downsample.0.weight': (16, 4, 1, 1),
    'layer1.0.bn3.running_var': (16,),
    'layer4.0.conv2.weight': (32, 32, 3, 3),
    'layer4.0.bn1.num_batches_tracked': (),
    'head_depth.aspp_1.conv.weight': (16, 128, 3, 3),
    'head_depth.out.bias': (1,),
  }.items():
    assert state[name].shape == shape, name


def test_layers_without_names_are_refused():
  variables = {'params': {'backbone': {'mixer': {'kernel': np.zeros((3, 3))}}}}
  with pytest.raises(InputError) as error:
    state_dict(variables, backbone='own', tasks={'depth': 1})
  assert error.value.argument == 'to' and 'mixer' in error.value.found
