"""Every config builds its networks and one step, without computing anything."""

import inspect
import itertools
import pathlib

from fixtures.configs import CONFIGS, module, preview, tiny
from fixtures.nyu_layout import make_frames, write_archive
from fixtures.paths import REPOSITORY
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mtl_kd_jax.balancing import BALANCERS, GRADIENT_BALANCERS
from mtl_kd_jax.config.build import build
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import torch_shapes
from mtl_kd_jax.models.resnet import ResNet
from mtl_kd_jax.models.segnet import SegNet
from mtl_kd_jax.training.state import network_shapes


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_builds_its_networks_and_one_step(name, tmp_path):
  experiment = build(tiny(name, tmp_path))
  student = experiment.student()
  stages = [experiment.teacher(task) for task in experiment.tasks]
  variables = {
    task: jax.eval_shape(stage.init).variables
    for task, stage in zip(experiment.tasks, stages, strict=True)
  }
  batch = student.parallel.shard(next(student.train_batches(0)))
  for stage, teachers in [(stages[0], {}), (student, variables)]:
    state = jax.eval_shape(stage.init)
    after, losses = jax.eval_shape(stage.train_step, state, teachers, batch)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, state, after)
    assert all(jax.tree.leaves(same))
    assert losses['loss'].shape == ()


def test_common_comments_every_key():
  lines = pathlib.Path(REPOSITORY / 'configs' / 'common.py').read_text()
  body = lines.split('config = ConfigDict()\n')[1].splitlines()
  for before, line in itertools.pairwise(['', *body]):
    key = line.split(' = ')[0]
    if ' = ' in line and '#' not in key and 'ConfigDict()' not in line:
      # A comment may stand above two keys that it is about.
      assert '# ' in before or (' = ' in before and 'Dict' not in before), line


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('tasks', ('semantic', 'edges'), 'a known task'),
    ('tasks', (), 'one or more'),
    ('epochs', 0, 'above 0'),
    ('batch_size', 6, '4 cpu device'),
    ('batch_size', 8, 'samples of the split'),
    ('select', 'luckiest', "'last' or 'best'"),
    ('data.name', 'imagenet', 'a known dataset'),
    ('data.eval_split', 'test', 'a split of scenes'),
    ('data.scales', (0.5,), 'zoom factors'),
    ('data.val_fraction', 1.0, 'from 0 to below 1'),
    ('data.val_fraction', 0.9, 'leaves samples to train on'),
    ('data.select_split', 'test', 'a split of scenes'),
    ('data.keep_labels', 'two', "or 'one'"),
    ('report.average_epochs', -1, '0 or more'),
    ('data.scenes.image_size', (48, 64), 'multiples of 32'),
    ('model.backbone', 'resnet1', 'a known backbone'),
    ('model.width', 0.0, 'above 0'),
    ('optim.learning_rate', -1.0, 'above 0'),
    ('optim.schedule', 'linear', 'a known schedule'),
    ('balancing.name', 'magic', 'a known balancer'),
    ('balancing.name', 'sdmgrad', '3 independent parts'),
    ('balancing.name', 'level', 'a known balancer'),
    ('balancing.level', 'weights', 'parameters, features'),
    ('balancing.distillation', 'inside', 'outside, task, objective'),
    ('balancing.normalize', 'l2', 'uniform uses losses alone'),
    ('balancing.smoothing', 1.0, 'below 1'),
    ('teacher.batch_norm', 'eval', 'running, batch'),
    ('distill.taps', ('neck',), 'a feature of the backbone'),
    ('distill.taps', ('decoder:neck',), 'a feature of the backbone'),
    ('distill.schedule', 'linear', 'a known schedule'),
    ('distill.epsilon', 0.0, 'above 0'),
    ('model.head', 'aspp', 'a head for the features of segnet'),
    ('model.pretrained', '/nowhere.pth', 'a file of PyTorch weights'),
    ('model.output_stride', 4, '8, 16, 32'),
    ('teacher.model.backbone', 'resnet1', 'a known backbone'),
    ('teacher.model.width', -1.0, 'above 0'),
    ('distill.taps', (), 'at least one'),
    ('distill.weights.depth', -1.0, '0 or more'),
    ('parallel.mode', 'xmap', 'jit, pmap'),
  ],
)
def test_a_bad_value_is_named_with_its_key(key, value, message, tmp_path):
  config = tiny('quickstart', tmp_path)
  *groups, last = key.split('.')
  group = config
  for name in groups:
    group = group[name]
  with group.ignore_type():
    group[last] = value
  with pytest.raises(InputError, match=message) as error:
    build(config)
  assert last in str(error.value) or groups[-1] in error.value.where


def test_nyuv2_reads_the_official_archive_by_its_name(tmp_path):
  config = module('nyuv2').get_config()
  config.batch_size = 4
  config.model.width = 0.0625
  config.data.workers = 0  # processes would take longer than all the rest
  config.data.name = 'nyuv2_mat'
  config.data.data_dir = str(tmp_path)
  config.data.nyuv2_mat.image_size = (32, 64)
  write_archive(tmp_path, make_frames(5), train=(1, 2, 3, 4), test=(5,))
  experiment = build(config)
  assert experiment.steps_per_epoch == 1
  assert experiment.tasks['semantic'].channels == 13
  batch = next(experiment.student().train_batches(0))
  assert {k: x.shape for k, x in batch.items()} == {
    'image': (4, 32, 64, 3),
    'semantic': (4, 32, 64),
    'depth': (4, 32, 64, 1),
    'normals': (4, 32, 64, 3),
  }


def test_a_folder_is_read_as_a_config_describes_it(tmp_path):
  config = tiny('nyuv2', tmp_path)
  config.model.width = 0.0625
  config.tasks = ('semantic', 'depth')
  config.data.workers = 0
  config.data.name = 'folder'
  folder = config.data.folder
  folder.image_size = (32, 32)
  folder.image = '{split}/image/{frame}.npy'
  folder.semantic.files = '{split}/label/{frame}.npy'
  folder.semantic.classes = tuple('abcdefghijklm')
  folder.depth.files = '{split}/depth/{frame}.npy'
  folder.depth.quantity = 'disparity'
  folder.depth.unit = 'px'
  experiment = build(config)
  assert experiment.tasks['semantic'].channels == 13
  assert experiment.tasks['depth'].columns['abs_error'].unit == 'px'
  batch = next(experiment.student().train_batches(0))
  assert batch['semantic'].shape == (4, 32, 32)
  assert batch['depth'].shape == (4, 32, 32, 1)
  assert 'normals' not in batch


def test_a_task_without_labels_is_refused(tmp_path):
  config = tiny('nyuv2', tmp_path)
  for split in ('train', 'val'):
    (tmp_path / split / 'normal').rename(tmp_path / split / 'elsewhere')
  with pytest.raises(InputError, match='a task that nyuv2 has labels for'):
    build(config)


def test_a_task_without_a_distillation_weight_is_refused(tmp_path):
  config = tiny('quickstart', tmp_path)
  with config.unlocked():
    del config.distill.weights['depth']
  with pytest.raises(InputError, match='none for depth'):
    build(config)


@pytest.mark.parametrize('name', BALANCERS | GRADIENT_BALANCERS)
def test_every_balancer_has_its_options_in_the_config(name):
  """All of them, with the library's defaults."""
  make = (BALANCERS | GRADIENT_BALANCERS)[name]
  values = module('common').get_config().balancing
  options = values[name].to_dict() if name in values else {}
  parameters = inspect.signature(make).parameters
  assert options.keys() == parameters.keys()
  for option, value in options.items():
    if not isinstance(value, dict) and (name, option) != ('dwa', 'window'):
      assert value == parameters[option].default, option
  options = {k: v for k, v in options.items() if (name, k) != ('dwa', 'window')}
  make(**options)


def test_balancing_is_wired_with_all_that_goes_around_it():
  experiment = preview(
    'quickstart',
    **{
      'balancing.name': 'upgrad',
      'balancing.level': 'features',
      'balancing.distillation': 'objective',
      'balancing.normalize': 'l2',
      'balancing.smoothing': 0.5,
      'balancing.refresh_every': 3,
    },
  )
  stage = experiment.student()
  assert (stage.level, stage.mode) == ('features', 'objective')
  state = jax.eval_shape(stage.init).balancer_state
  assert state['weights'].shape == state['inner']['mean'].shape == (6,)
  assert experiment.baseline().balancer.init(('depth',)) == ()


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'balancing.name': 'moco'}, 'compares gradients'),
    (
      {'balancing.name': 'mgda', 'model.backbone': 'mtan'},
      'features of their own',
    ),
  ],
)
def test_what_cannot_work_on_features_is_refused(changes, message):
  with pytest.raises(InputError, match=message):
    preview('quickstart', **changes, **{'balancing.level': 'features'})


# ---- Networks of teachers and students --------------------------------------


@pytest.mark.parametrize(
  'name, pairs, parameters',
  [
    ('nyuv2', {'bottleneck_to_bottleneck', 'decoder_to_decoder'}, 798_720),
    ('nyuv2:mtan', {'bottleneck_to_bottleneck', 'decoder_to_decoder'}, 798_720),
    ('nyuv2:url', {'bottleneck_to_decoder', 'decoder_to_decoder'}, 110_592),
  ],
)
def test_the_adaptors_are_those_of_the_papers(name, pairs, parameters):
  experiment = preview(name)
  stage = experiment.student()
  channels = stage.distillation.adaptors.channels
  assert channels.keys() == {'semantic', 'depth', 'normals'}
  assert all({str(p) for p in c} == pairs for c in channels.values())
  adaptors = jax.eval_shape(stage.init).params['adaptors']
  assert sum(x.size for x in jax.tree.leaves(adaptors)) == parameters


def test_teachers_are_as_the_student_until_they_are_not():
  same = preview('quickstart', **{'model.width': 0.125})
  assert same.teacher('depth').network.backbone.width == 0.125
  other = preview(
    'quickstart',
    **{
      'teacher.model.backbone': 'resnet18',
      'teacher.model.head': 'aspp',
      'teacher.model.width': 0.0625,
      'distill.taps': ('decoder', 'bottleneck:layer4'),
    },
  )
  assert isinstance(other.student().network.backbone, SegNet)
  assert isinstance(other.teacher('depth').network.backbone, ResNet)
  assert other.config.model.width == 0.25
  channels = other.student().distillation.adaptors.channels['depth']
  assert {str(p): c for p, c in channels.items()} == {
    'decoder_to_decoder': 16,
    'bottleneck_to_layer4': 32,
  }


def test_pretrained_weights_are_what_a_backbone_begins_with(tmp_path):
  changes = {
    'model.backbone': 'resnet18',
    'model.head': 'aspp',
    'model.width': 0.0625,
    'distill.taps': ('layer4',),
  }
  stage = preview('quickstart', **changes).student()
  _, like = network_shapes(stage.network, stage.image_size)
  backbone = {kind: {'backbone': like[kind]['backbone']} for kind in like}
  rng = np.random.default_rng(0)
  weights = {
    name: np.float32(rng.random(shape))
    for name, shape in torch_shapes(backbone).items()
  }
  path = tmp_path / 'resnet18.safetensors'
  save_file(weights | {'fc.bias': np.zeros(1000, np.float32)}, path)
  experiment = preview(
    'quickstart', **changes, **{'model.pretrained': str(path)}
  )
  for stage in (experiment.student(), experiment.teacher('depth')):
    state = stage.init()
    conv = state.params['backbone']['layer2_0']['conv1']['kernel']
    expected = weights['layer2.0.conv1.weight'].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(conv, expected)
    norm = state.batch_stats['backbone']['bn1']
    np.testing.assert_array_equal(norm['var'], weights['bn1.running_var'])
    assert 'head_depth' in state.params
  del weights['layer1.0.conv2.weight']
  save_file(weights, path)
  with pytest.raises(InputError, match=r'1 missing: layer1\.0\.conv2'):
    preview('quickstart', **changes, **{'model.pretrained': str(path)})
