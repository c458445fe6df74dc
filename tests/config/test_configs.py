"""Every config builds its networks and one step, without computing anything."""

import ast
import functools
import inspect
import json
import math

from fixtures.bucket import upload
from fixtures.configs import (
  CONFIGS,
  features_once,
  module,
  plan_of,
  preview,
  tiny,
)
from fixtures.nyu_layout import make_frames, write_archive
from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from mtl_kd_jax import config as configs
from mtl_kd_jax import datasets
from mtl_kd_jax.balancing import BALANCERS, GRADIENT_BALANCERS
from mtl_kd_jax.config import defaults, validate
from mtl_kd_jax.config.balancing import make_balancer
from mtl_kd_jax.config.experiment import STUDENT, TEACHER
from mtl_kd_jax.config.renames import RENAMED, renamed_key, upgrade
from mtl_kd_jax.config.tasks import lambdas
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import torch_shapes
from mtl_kd_jax.models import segnet
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.models.resnet import ResNet
from mtl_kd_jax.models.segnet import SegNet
from mtl_kd_jax.training.loss_terms import objectives

__all__ = ['features_once']
pytestmark = pytest.mark.usefixtures('features_once')


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_builds_its_stages_and_one_step(name, tmp_path, shallow):
  _, plan = plan_of(tiny(name, tmp_path))
  student = plan.stages[-1]
  batch = student.parallel.shard(next(student.data.train(0)))
  frozen = {
    teacher: plan[name].abstract_state.variables
    for teacher, name in student.inputs.items()
  }
  state = student.abstract_state
  after, losses = jax.eval_shape(
    student.train_step.function, state, frozen, batch
  )
  same = jax.tree.map(lambda a, b: a.shape == b.shape, state, after)
  assert all(jax.tree.leaves(same))
  assert {x.shape for x in losses.values()} == {()}
  weights = {f'weight/{name}' for name in objectives(student.terms)}
  assert {'loss'} | {t.name for t in student.terms} | weights <= losses.keys()


def test_every_key_has_a_comment_of_its_own():
  source = inspect.getsource(defaults)
  lines = source.splitlines()
  keys = 0
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Assign):
      continue
    section = ast.unparse(node.value) == 'ConfigDict()'
    if isinstance(node.targets[-1], ast.Attribute) and not section:
      keys += 1
      assert lines[node.lineno - 2].lstrip().startswith('# '), lines[
        node.lineno - 1
      ]
  assert keys > 60


def test_the_shipped_experiments_are_those_of_the_folder_configs():
  """The wheel has them, launch.py reads them there; they are the same."""
  for name in CONFIGS:
    shipped = configs.get_config('' if name == 'common' else name)
    file, _, variant = name.partition(':')
    there = module(file).get_config(*filter(None, [variant]))
    assert shipped.to_json_best_effort() == there.to_json_best_effort()
  single = {n.partition(':')[0] for n in CONFIGS} - {'common'}
  folder = REPOSITORY / 'configs' / 'compare'
  compared = {f'compare/{p.stem}' for p in folder.glob('[a-z]*.py')}
  assert len(compared) > 1 and set(configs.names()) == single | compared


@pytest.mark.parametrize('name', ('quickstrat', 'nyuv2:large', 'quickstart:x'))
def test_an_unknown_experiment_is_refused(name):
  with pytest.raises(InputError) as error:
    configs.get_config(name)
  assert error.value.argument == 'name'


@pytest.mark.parametrize('name', datasets.DATASETS)
def test_the_options_of_a_dataset_are_those_of_its_function(name):
  """With the same defaults, but for those that have keys elsewhere."""
  section = json.loads(json.dumps(defaults.get_config().data[name].to_dict()))
  options = json.loads(json.dumps(datasets.options(name)))
  options.pop('maps', None)  # which config.task describes
  for elsewhere in ('data_dir', 'progress'):
    options.pop(elsewhere, None)
  assert section == options


# ---- Keys of earlier versions -----------------------------------------------


def test_old_keys_are_gone_and_lead_to_new_ones():
  flat = defaults.get_config().to_dict()

  def there(key):
    node = flat
    for part in key.split('.'):
      if part not in node:
        return False
      node = node[part]
    return True

  for old, new in RENAMED.items():
    assert there(new) and not there(old)
    assert renamed_key(old) == new


def test_the_last_part_of_an_old_key_leads_on_where_it_is_unique(monkeypatch):
  assert renamed_key('step_epochs') == 'optim.decay_every_epochs'
  monkeypatch.setitem(RENAMED, 'distill.step_epochs', 'distill.every')
  assert renamed_key('step_epochs') is None
  assert renamed_key('distill.step_epochs') == 'distill.every'


def test_a_config_of_an_earlier_version_is_upgraded():
  old = {
    'balancing': {'level': 'features', 'name': 'mgda'},
    'distill': {'epsilon': 1e-12, 'taps': ('decoder',)},
    'data': {'workers': 2, 'folder': {'partial': True}},
  }
  before = json.dumps(old)
  assert upgrade(old) == {
    'balancing': {'grad_wrt': 'features', 'name': 'mgda'},
    'distill': {'feature_l2': {'epsilon': 1e-12}, 'taps': ('decoder',)},
    'data': {'num_workers': 2, 'folder': {'allow_missing': True}},
  }
  assert json.dumps(old) == before
  assert upgrade(upgrade(old)) == upgrade(old)


# ---- Bad values -------------------------------------------------------------


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
  """A folder in which the scenes of all these tests are rendered once."""
  return tmp_path_factory.mktemp('rendered')


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('tasks', ('semantic', 'edges'), 'a task that scenes'),
    ('tasks', (), 'one or more'),
    ('epochs', 0, 'above 0'),
    ('batch_size', 6, 'multiple of 4'),
    ('batch_size', 8, 'samples of the split'),
    ('select', 'luckiest', "'last' or 'best'"),
    ('data.name', 'imagenet', 'a known dataset'),
    ('data.eval_split', 'test', 'a split of scenes'),
    ('data.scales', (0.5,), 'zoom factors'),
    ('data.val_fraction', 1.0, 'from 0 to below 1'),
    ('data.val_fraction', 0.9, 'leaves samples to train on'),
    ('data.select_split', 'test', 'a split of scenes'),
    ('data.label_fraction', 'two', "or 'one'"),
    ('report.average_epochs', -1, '0 or more'),
    ('report.trackers', ('comet',), 'names of trackers'),
    ('data.scenes.image_size', (48, 64), 'multiples of 32'),
    ('model.backbone', 'resnet1', 'a known backbone'),
    ('model.width', 0.0, 'above 0'),
    ('optim.learning_rate', -1.0, 'above 0'),
    ('optim.schedule', 'linear', 'a known schedule'),
    ('balancing.name', 'magic', 'a known balancer'),
    ('balancing.name', 'grad_wrt', 'a known balancer'),
    ('method', 'magic', 'a known method'),
    ('distill.loss', 'magic', 'a known distillation loss'),
    ('balancing.grad_wrt', 'weights', "'features', which is cheaper"),
    ('balancing.distillation', 'inside', 'outside, task, objective'),
    ('balancing.normalize', 'l2', 'uniform uses losses alone'),
    ('balancing.mean_weight', -1.0, 'above 0'),
    ('balancing.weight_ema', 1.0, 'below 1'),
    ('balancing.update_every', 2, 'uniform uses losses alone'),
    ('teacher.batch_norm', 'eval', 'running, batch'),
    ('distill.taps', ('neck',), 'a feature of the backbone'),
    ('distill.taps', ('decoder:neck',), 'a feature of the backbone'),
    ('distill.schedule', 'linear', 'a known schedule'),
    ('distill.feature_l2.epsilon', 0.0, 'above 0'),
    ('distill.schedule_lambda', 'step', 'constant, linear, cosine'),
    ('distill.lambda_until', 0.0, 'above 0 and up to 1'),
    ('distill.lambda_until', 1.5, 'above 0 and up to 1'),
    (
      'distill.adapt',
      'always',
      r'none, gap, baseline, cosine, cosine_all, gap\+cosine',
    ),
    ('distill.adapt', 'gap+baseline', 'none, gap, baseline, cosine'),
    ('distill.adapt', 'gap+cosine', 'neither trained on nor reported'),
    ('distill.adapt', 'baseline', 'neither trained on nor reported'),
    ('model.head', 'aspp', 'a head for the features of segnet'),
    ('model.pretrained', '/nowhere.pth', 'a file of PyTorch weights'),
    ('model.output_stride', 4, '8, 16, 32'),
    ('teacher.model.backbone', 'resnet1', 'a known backbone'),
    ('teacher.model.width', -1.0, 'above 0'),
    ('distill.taps', (), 'at least one'),
    ('distill.weights.depth', -1.0, '0 or more'),
    ('parallel.mode', 'xmap', 'jit, pmap'),
    ('epochs', 2**31, 'at most 2147483647'),
    ('seed', 2**63, 'at most'),
    ('data.scales', ('1',), 'zoom factors'),
    ('optim.learning_rate', math.inf, 'finite'),
    ('distill.weights.depth', math.inf, 'finite'),
    ('model.width', math.inf, 'finite'),
    ('model.pretrained', '~nobody-of-this-name/a.pth', 'no user'),
    ('teacher.workdir', '~nobody-of-this-name/a', 'no user'),
    ('teacher.workdir', 'a\0b', 'null byte'),
    ('teacher.workdir', 'http://host/run', 'or in a bucket'),
  ],
)
def test_a_bad_value_is_named_with_its_key(
  key, value, message, rendered, shallow
):
  config = tiny('rooms', rendered)
  *groups, last = key.split('.')
  group = config
  for name in groups:
    group = group[name]
  with group.ignore_type():
    group[last] = value
  with pytest.raises(InputError, match=message) as error:
    plan_of(config)
  assert f'config.{key}' in error.value.where
  assert f'--config.{key}' in error.value.do


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('distill.full_gap', 0.0, 'percent above 0'),
    ('report.eval_every_epochs', 0, 'after which'),
  ],
)
def test_lambda_by_the_gap_needs_scores(key, value, message, shallow):
  held_out = {'distill.adapt': 'gap', 'data.val_fraction': 0.5}
  _, plan = preview('rooms', **held_out)
  assert plan['distilled'].adapt.terms == (
    'alignment/semantic',
    'alignment/depth',
    'alignment/normals',
  )
  with pytest.raises(InputError, match=message) as error:
    preview('rooms', **held_out, **{key: value})
  assert error.value.where == f'config.{key}'


def test_lambda_by_a_baseline_needs_one(shallow):
  changes = {'distill.adapt': 'baseline', 'data.val_fraction': 0.5}
  _, plan = preview('rooms', **changes)
  assert plan['distilled'].adapt.baseline is plan['uniform'].network
  with pytest.raises(InputError, match='a baseline to compare') as error:
    preview('rooms', **changes, baseline=False)
  assert error.value.where == 'config.baseline'


@pytest.mark.parametrize('key', ('epochs', 'optim.decay_every_epochs'))
def test_steps_that_cannot_be_counted_are_refused(key):
  config = defaults.get_config()
  config.update_from_flattened_dict({key: 2**29})
  validate.check_steps(config, 3)
  with pytest.raises(InputError, match='of 4 steps') as error:
    validate.check_steps(config, 4)
  assert error.value.where == f'config.{key}'


@pytest.mark.parametrize('key', ('parallel', 'teacher.model.width'))
def test_a_config_without_a_key_is_refused(key):
  config = defaults.get_config()
  *groups, last = key.split('.')
  with config.unlocked():
    del functools.reduce(getattr, groups, config)[last]
  with pytest.raises(InputError, match=f'none of {key}'):
    validate.check_values(config)


def test_a_batch_that_a_balancer_cannot_split_is_refused(rendered, shallow):
  config = tiny('rooms', rendered)
  config.balancing.name = 'sdmgrad'
  with pytest.raises(InputError, match='3 mini-batches') as error:
    plan_of(config)
  assert error.value.where == 'config.batch_size'
  assert '--config.batch_size' in error.value.do


def test_nyuv2_reads_the_official_archive_by_its_name(tmp_path, shallow):
  config = module('nyuv2').get_config()
  config.batch_size = 4
  config.model.width = 0.0625
  config.data.num_workers = 0  # processes would take longer than all the rest
  config.data.name = 'nyuv2_mat'
  config.data.data_dir = str(tmp_path)
  config.data.nyuv2_mat.image_size = (32, 64)
  write_archive(tmp_path, make_frames(5), train=(1, 2, 3, 4), test=(5,))
  experiment, plan = plan_of(config)
  assert experiment.steps_per_epoch == 1
  assert experiment.tasks['semantic'].channels == 13
  batch = next(plan.stages[-1].data.train(0))
  assert {k: x.shape for k, x in batch.items()} == {
    'image': (4, 32, 64, 3),
    'semantic': (4, 32, 64),
    'depth': (4, 32, 64, 1),
    'normals': (4, 32, 64, 3),
  }


def test_a_folder_is_read_as_a_config_describes_it(tmp_path, shallow):
  config = tiny('nyuv2', tmp_path)
  config.model.width = 0.0625
  config.tasks = ('semantic', 'depth')
  config.data.name = 'folder'
  folder = config.data.folder
  folder.image_size = (32, 32)
  folder.image = '{split}/image/{frame}.npy'
  folder.semantic.files = '{split}/label/{frame}.npy'
  folder.semantic.classes = tuple('abcdefghijklm')
  folder.depth.files = '{split}/depth/{frame}.npy'
  folder.depth.quantity = 'disparity'
  folder.depth.unit = 'px'
  experiment, plan = plan_of(config)
  assert experiment.tasks['semantic'].channels == 13
  assert experiment.tasks['depth'].columns['abs_error'].unit == 'px'
  batch = next(plan.stages[-1].data.train(0))
  assert batch['semantic'].shape == (4, 32, 32)
  assert batch['depth'].shape == (4, 32, 32, 1)
  assert 'normals' not in batch


def test_a_task_without_labels_is_refused(tmp_path):
  config = tiny('nyuv2', tmp_path)
  for split in ('train', 'val'):
    (tmp_path / split / 'normal').rename(tmp_path / split / 'elsewhere')
  with pytest.raises(InputError, match='a task that nyuv2 has labels for'):
    plan_of(config)


def test_a_task_without_a_distillation_weight_has_1():
  config = defaults.get_config()
  with config.unlocked():
    del config.distill.weights['depth']
  assert lambdas(config, ('normals', 'depth')) == {'normals': 2, 'depth': 1}


@pytest.mark.parametrize('name', BALANCERS | GRADIENT_BALANCERS)
def test_every_balancer_is_made_of_the_options_of_the_config(name):
  values = defaults.get_config().balancing
  values.name = name
  if name == 'fixed':
    values.fixed.weights = ConfigDict({'depth': 2.0, 'normals': 0.5})
  balancer = make_balancer(
    values,
    objectives=('depth', 'normals'),
    task_kinds={'depth': 'regression', 'normals': 'regression'},
    steps_per_epoch=10,
  )
  assert balancer.made_by.startswith(f'{name}(')
  state = balancer.init(
    ('depth', 'normals'), {n: {} for n in ('depth', 'normals')}
  )
  assert set(state['names']) == {'depth', 'normals'}


def test_balancing_is_wired_with_all_that_goes_around_it(shallow):
  _, plan = preview(
    'rooms',
    **{
      'balancing.name': 'upgrad',
      'balancing.grad_wrt': 'features',
      'balancing.distillation': 'objective',
      'balancing.normalize': 'l2',
      'balancing.weight_ema': 0.5,
      'balancing.update_every': 3,
    },
  )
  stage = plan['distilled']
  assert stage.grad_wrt == 'features'
  state = jax.eval_shape(stage.init).balancer_state
  assert state['weights'].shape == state['inner']['mean'].shape == (6,)
  assert plan['uniform'].balancer.made_by == 'uniform()'


def test_how_steps_compute_is_wired(shallow):
  _, plan = preview(
    'quickstart',
    **{
      'batch_size': 8,
      'accumulate': 2,
      'precision': 'bfloat16',
      'remat': True,
      'optim.ema': 0.9,
      'optim.clip_norm': 1.0,
      'optim.warmup_epochs': 0.5,
    },
  )
  for stage in plan.stages:
    # On CPUs without a loop, which would take ten times as long.
    assert stage.computation == (jnp.bfloat16, 2, True)
    assert stage.ema == 0.9
    assert stage.network.backbone.remat
    state = jax.eval_shape(stage.init)
    assert state.result is state.opt_state['averaged']
    clipping, adam = state.opt_state['network']
    assert jax.tree.leaves(clipping) == []
    assert jax.tree.leaves(adam)


def test_the_optimizer_is_wired(shallow, monkeypatch):
  options = {
    'weight_decay': 0.01,
    'decay_on': 'kernels',
    'momentum': 0.5,
    'clip_norm': 2.0,
    'backbone_rate': 0.25,
  }
  seen = []

  def make(name, schedule, **given):
    seen.append((name, float(schedule(0)), given))
    return optax.sgd(schedule)

  monkeypatch.setattr('mtl_kd_jax.config.experiment.make_optimizer', make)
  given = {f'optim.{name}': value for name, value in options.items()}
  given |= {'optim.name': 'sgd', 'optim.learning_rate': 0.125}
  _, plan = preview('rooms', **given)
  assert len(seen) == len(plan.stages)
  assert all(how == ('sgd', 0.125, options) for how in seen)


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
def test_what_cannot_work_on_features_is_refused(changes, message, shallow):
  with pytest.raises(InputError, match=message):
    preview('rooms', **changes, **{'balancing.grad_wrt': 'features'})


# ---- Networks of teachers and students --------------------------------------


@pytest.mark.parametrize(
  'name, pairs, parameters',
  [
    ('nyuv2', {'bottleneck_to_bottleneck', 'decoder_to_decoder'}, 798_720),
    ('nyuv2:mtan', {'bottleneck_to_bottleneck', 'decoder_to_decoder'}, 798_720),
    ('nyuv2:url', {'bottleneck_to_decoder', 'decoder_to_decoder'}, 110_592),
  ],
)
def test_the_adaptors_are_those_of_the_papers(
  name, pairs, parameters, monkeypatch
):
  monkeypatch.setattr(segnet, '_BLOCKS', (1,) * 5)  # ends with as many channels
  _, plan = preview(name)
  adaptors = plan['distilled'].abstract_state.extras['adaptors']['params']
  tasks = ('semantic', 'depth', 'normals')
  assert adaptors.keys() == {f'{t}_{p}' for t in tasks for p in pairs}
  assert sum(x.size for x in jax.tree.leaves(adaptors)) == parameters


def test_teachers_are_as_the_student_until_they_are_not(shallow):
  _, same = preview('rooms', **{'model.width': 0.125})
  assert same['teacher_depth'].network.backbone.width == 0.125
  experiment, other = preview(
    'rooms',
    **{
      'teacher.model.backbone': 'resnet18',
      'teacher.model.head': 'aspp',
      'teacher.model.width': 0.0625,
      'distill.taps': ('decoder', 'bottleneck:layer4'),
    },
  )
  assert isinstance(other['distilled'].network.backbone, SegNet)
  assert isinstance(other['teacher_depth'].network.backbone, ResNet)
  assert experiment.config.model.width == 0.25
  adaptors = experiment.adaptors(
    experiment.network(STUDENT),
    {'depth': experiment.network(TEACHER, 'depth')},
  )
  channels = adaptors.alignments['depth'].channels
  assert {str(p): c for p, c in channels.items()} == {
    'decoder_to_decoder': 16,
    'bottleneck_to_layer4': 32,
  }


def test_pretrained_weights_are_what_a_backbone_begins_with(
  tmp_path, shallow, bucket
):
  changes = {
    'model.backbone': 'resnet18',
    'model.head': 'aspp',
    'model.width': 0.0625,
    'distill.taps': ('layer4',),
  }
  _, plan = preview('rooms', **changes)
  stage = plan['distilled']
  _, like = abstract_init(stage.network, stage.data.image_size)
  backbone = {kind: {'backbone': like[kind]['backbone']} for kind in like}
  rng = np.random.default_rng(0)
  weights = {
    name: np.float32(rng.random(shape))
    for name, shape in torch_shapes(backbone).items()
  }
  path = tmp_path / 'resnet18.safetensors'
  save_file(weights | {'fc.bias': np.zeros(1000, np.float32)}, path)
  _, plan = preview('rooms', **changes, **{'model.pretrained': str(path)})
  for stage in (plan['distilled'], plan['teacher_depth']):

    @jax.jit  # leaves out the draws of the heads
    def begun(stage=stage):
      variables = stage.init().variables
      return {kind: tree['backbone'] for kind, tree in variables.items()}

    backbone = begun()
    conv = backbone['params']['layer2_0']['conv1']['kernel']
    expected = weights['layer2.0.conv1.weight'].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(conv, expected)
    norm = backbone['batch_stats']['bn1']
    np.testing.assert_array_equal(norm['var'], weights['bn1.running_var'])
    assert 'head_depth' in stage.abstract_state.params
  upload(path, f'{bucket}/resnet18.safetensors')
  remote = f'{bucket}/resnet18.safetensors'
  _, other = preview('rooms', **changes, **{'model.pretrained': remote})
  jax.tree.map(
    np.testing.assert_array_equal,
    other['distilled'].pretrained,
    plan['distilled'].pretrained,
  )
  del weights['layer1.0.conv2.weight']
  save_file(weights, path)
  with pytest.raises(InputError, match=r'1 missing: layer1\.0\.conv2'):
    preview('rooms', **changes, **{'model.pretrained': str(path)})
