"""How many values BatchNorm sees in a step."""

from fixtures.configs import preview, tiny
import flax.linen as nn
import pytest

from mtl_kd_jax import methods, models
from mtl_kd_jax.config.build import build
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import feature_shapes


class Pooled(nn.Module):
  """A backbone with BatchNorm on a map, and on its mean."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, *, tasks, train):
    x = nn.BatchNorm(not train, name='map')(image)
    mean = x.mean((1, 2), keepdims=True)
    return {'decoder': x + nn.BatchNorm(not train, name='mean')(mean)}


def test_values_are_counted_by_image():
  own = models.Network(
    backbone=Pooled(), channels={'depth': 1}, head=models.HEADS['dense']
  )
  assert feature_shapes(own, (4, 6)).normalized == {
    'backbone/map': 24,
    'backbone/mean': 1,
  }
  shipped = models.make('resnet18', {'depth': 1}, head='aspp', width=1 / 16)
  counts = feature_shapes(shipped, (32, 64)).normalized
  pooled = [path for path, n in counts.items() if n == 1]
  assert pooled == ['head_depth/aspp_pooled/norm']
  assert min(n for n in counts.values() if n > 1) == 32  # 1/8 of 32 x 64


@pytest.fixture
def config(tmp_path):
  config = tiny('quickstart', tmp_path)
  config.method, config.tasks = 'multi_task', ('depth',)
  config.model.backbone, config.model.head = 'resnet18', 'aspp'
  config.model.width = 1 / 16
  return config


@pytest.mark.parametrize(
  ('name', 'batch_size', 'message'),
  [
    ('uniform', 1, '1 sample in a step'),
    ('auto_lambda', 2, '1 sample in a step'),
    ('uniform', 2, ''),
  ],
)
def test_single_values_are_refused_before_training(
  name, batch_size, message, config
):
  config.balancing.name = name
  experiment = build(config)
  # As on one device; here are four.
  experiment.config.batch_size = batch_size * experiment.parallel.num_devices
  object.__setattr__(
    experiment,
    '_samples',
    lambda balancer: batch_size // getattr(balancer, 'num_minibatches', 1),
  )
  if not message:
    methods.plan(experiment)
    return
  with pytest.raises(InputError, match=message) as error:
    methods.plan(experiment)
  assert error.value.where == 'config.batch_size'
  assert 'aspp_pooled' in error.value.found


def test_few_values_are_noted():
  size = {'data.scenes.image_size': (32, 32)}  # 2 x 2 at the bottleneck
  experiment, plan = preview('quickstart', **size)
  assert experiment.note(plan['uniform']) == ''
  experiment.config.batch_size = 1
  note = experiment.note(plan['uniform'])
  assert 'normalizes 4 values' in note and 'backbone/' in note
