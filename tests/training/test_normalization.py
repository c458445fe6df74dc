"""How many values BatchNorm sees in a step."""

import dataclasses

from fixtures.configs import preview, tiny
from fixtures.samples import LABELS, RandomSource
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax import balancing, methods, models
from mtl_kd_jax.config.build import build
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import NormInput, feature_shapes
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.runtime.parallel import AXIS, Parallel
from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm


class Pooled(nn.Module):
  """A backbone with BatchNorm on a map, and on its mean."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, *, tasks, train):
    x = nn.BatchNorm(not train, axis_name=self.axis_name, name='map')(image)
    norm = BatchNorm(not train, self.axis_name, name='mean')
    return {'decoder': x + norm(x=x.mean((1, 2), keepdims=True))}


class Twice(nn.Module):
  """A backbone that calls one layer on a pixel, and then on a map."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, *, tasks, train):
    norm = BatchNorm(not train, self.axis_name, name='shared')
    return {'decoder': norm(image[:, :1, :1]) + norm(image)}


def network(backbone=Pooled):
  return models.Network(
    backbone=backbone(), channels={'depth': 1}, head=models.HEADS['dense']
  )


def parallel(mode, devices):
  return Parallel(
    mode, jax.sharding.Mesh(np.array(jax.devices()[:devices]), (AXIS,))
  )


# ---- What a network's layers are given ---------------------------------------


def test_values_are_counted_by_image():
  assert feature_shapes(network(), (4, 6)).norms == {
    'backbone/map': NormInput(24),
    'backbone/mean': NormInput(1),
  }
  shipped = models.make('resnet18', {'depth': 1}, head='aspp', width=1 / 16)
  norms = feature_shapes(shipped.with_axis('batch'), (32, 64)).norms
  pooled = [path for path, norm in norms.items() if norm.values == 1]
  assert pooled == ['head_depth/aspp_pooled/norm']
  # 1/8 of 32 x 64.
  assert min(norm.values for norm in norms.values() if norm.values > 1) == 32
  assert {norm.axis_name for norm in norms.values()} == {'batch'}


def test_the_least_counts_where_a_layer_is_called_twice():
  norms = feature_shapes(network(Twice), (4, 6)).norms
  assert norms == {'backbone/shared': NormInput(1)}


# ---- Configs -----------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
  config = tiny('rooms', tmp_path)
  config.method, config.tasks = 'multi_task', ('depth',)
  config.model.backbone, config.model.head = 'resnet18', 'aspp'
  config.model.width = 1 / 16
  return config


# As many samples as a balancer splits the batch into leave one of each.
@pytest.mark.parametrize(
  ('rule', 'splits'),
  [('uniform', 1), ('auto_lambda', 2), ('sdmgrad', 3), ('modo', 3)],
)
def test_single_values_are_refused_before_training(rule, splits, config):
  config.balancing.name = rule
  experiment = dataclasses.replace(build(config), parallel=parallel('jit', 1))
  config = experiment.config
  config.batch_size = splits
  with pytest.raises(InputError, match='1 sample in a step') as error:
    methods.plan(experiment)
  assert error.value.where == 'config.batch_size'
  assert 'aspp_pooled' in error.value.found
  config.batch_size = 2 * splits
  methods.plan(experiment)


# ---- Devices, teachers and extra networks ------------------------------------


@pytest.fixture
def experiment():
  """On four devices, with one sample on each."""
  return preview('rooms', tasks=('depth',), baseline=False)[0]


@pytest.mark.parametrize('backbone', [Pooled, Twice])
def test_mapped_devices_normalize_together_only_by_their_axis(
  backbone, experiment
):
  mapped = dataclasses.replace(experiment, parallel=parallel('pmap', 4))
  mapped.stage('a', network(backbone).with_axis(AXIS))
  with pytest.raises(InputError, match='1 sample on a device') as error:
    mapped.stage('a', network(backbone))
  assert 'axis_name' in error.value.do
  # The batch of a step is one under jit, which knows no axis.
  experiment.stage('a', network(backbone))
  mapped.config.batch_size = 8
  note = mapped.note(mapped.stage('a', network(backbone)))
  assert 'normalizes 2 values of each channel on a device' in note


def split_in_four():
  rule = balancing.make('modo')
  return rule._replace(num_minibatches=4)


def test_teachers_see_the_batch_that_a_balancer_splits(experiment):
  on_one = dataclasses.replace(experiment, parallel=parallel('jit', 1))
  student = models.make('segnet', {'depth': 1}, width=1 / 16)

  def stage(batch_norm, batch_size=4):
    on_one.config.batch_size = batch_size
    return on_one.stage(
      'a',
      student,
      balancer=split_in_four() if batch_size == 4 else None,
      teachers={'depth': Teacher(network(), batch_norm)},
    )

  stage('batch')
  stage('running', 1)
  with pytest.raises(InputError, match='teacher depth: backbone/mean'):
    stage('batch', 1)


def test_a_network_of_another_run_is_not_trained(experiment, tmp_path):
  on_one = dataclasses.replace(experiment, parallel=parallel('jit', 1))
  on_one.config.batch_size = 1
  stage = on_one.stage('a', network(), trained_in=tmp_path)
  assert on_one.note(stage) == ''


def helper():
  """An extra network that normalizes the mean of predicted depth."""
  norm = nn.BatchNorm(use_running_average=False)
  return ExtraNetwork(
    lambda key, output: norm.init(
      key, jnp.mean(output.predictions['depth'], (1, 2))
    ),
    optax.sgd(1.0),
  )


def test_extra_networks_are_checked_in_a_trainer(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda kind=None: jax.local_devices()[:1])
  data = Dataset(
    name='toy',
    image_size=(32, 32),
    labels=LABELS,
    sources={
      split: lambda: RandomSource(2, (32, 32), seed=0)
      for split in ('train', 'val')
    },
  )
  settings = {'data.check': False}
  fit = mtl.Trainer(
    data, workdir=tmp_path, batch_size=1, epochs=1, config=settings
  )
  with pytest.raises(InputError, match='one for backbone/mean: 1 sample'):
    fit(network())
  bare = models.make('segnet', data.tasks('depth'), width=1 / 16)
  term = LossTerm('helper/depth', lambda *a, **k: 0.0, tasks=('depth',))
  with pytest.raises(InputError, match='one for helper: 1 sample'):
    fit(bare, terms=[term], extras={'helper': helper()})
  assert not (tmp_path / 'checkpoints').exists()


def test_few_values_are_noted():
  size = {'data.scenes.image_size': (32, 32)}  # 2 x 2 at the bottleneck
  experiment, plan = preview('rooms', **size)
  assert experiment.note(plan['uniform']) == ''
  experiment.config.batch_size = 1
  note = experiment.note(plan['uniform'])
  assert 'normalizes 4 values' in note and 'backbone/' in note
