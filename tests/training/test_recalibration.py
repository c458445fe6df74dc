"""Statistics of BatchNorm that belong to the final weights."""

from fixtures.drawn import draw_variables
from fixtures.samples import random_batch
from fixtures.toy import SIZE, TASKS, make_network
import flax.linen as nn
import jax
import numpy as np
import pytest

from mtl_kd_jax import models
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.training.recalibration import recalibrate


class Normalized(nn.Module):
  """The image, normalized by a layer of choice."""

  norm: type = BatchNorm
  momentum: float = 0.9
  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, *, tasks, train):
    norm = self.norm(
      use_running_average=not train,
      momentum=self.momentum,
      axis_name=self.axis_name,
      name='norm',
    )
    return {'decoder': norm(image)}


def make(**options):
  return models.Network(
    backbone=Normalized(**options),
    channels={'depth': 1},
    head=models.HEADS['dense'],
  )


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
@pytest.mark.parametrize(
  ('norm', 'momentum'), [(BatchNorm, 0.9), (nn.BatchNorm, 0.99)]
)
def test_statistics_are_those_of_all_pixels(norm, momentum, mode):
  """Of mean and variance over the batches together, in NumPy."""
  batches = [random_batch(8, SIZE, seed) for seed in range(4)]
  for i, batch in enumerate(batches):
    batch['image'] += i  # they differ between batches
  parallel = make_parallel(mode, batch_size=8)
  network = make(norm=norm, momentum=momentum, axis_name=parallel.axis_name)
  variables = make().init(jax.random.key(0), batches[0]['image'], train=False)
  found = recalibrate(
    network,
    parallel.replicate(variables),
    iter(batches),
    parallel=parallel,
    num_batches=3,
    seed=0,
  )
  pixels = np.concatenate([b['image'] for b in batches[:3]], dtype=np.float64)
  statistics = found['batch_stats']['backbone']['norm']
  np.testing.assert_allclose(
    statistics['mean'], pixels.mean((0, 1, 2)), rtol=1e-4
  )
  # Ours records the unbiased variance of a batch, n / (n - 1) of it.
  np.testing.assert_allclose(
    statistics['var'], pixels.var((0, 1, 2)), rtol=1e-3
  )
  jax.tree.map(
    np.testing.assert_array_equal, found['params'], variables['params']
  )


def test_statistics_of_any_size_are_told_apart_from_the_old_ones():
  """Of which a module keeps a part that only its outputs tell."""
  batch = random_batch(8, SIZE, 0)
  scales = np.float64([1e3, 1e-3, 1])  # of the channels
  batch['image'] = np.float32((batch['image'] - 0.9) * scales)
  parallel = make_parallel('jit', batch_size=8)
  network = make(norm=nn.BatchNorm, momentum=0.99)
  variables = draw_variables(network, SIZE)
  found = recalibrate(
    network,
    parallel.replicate(variables),
    iter([batch]),
    parallel=parallel,
    num_batches=1,
    seed=0,
  )
  pixels = np.float64(batch['image'])
  statistics = found['batch_stats']['backbone']['norm']
  for name, expected in (
    ('mean', pixels.mean((0, 1, 2))),
    ('var', pixels.var((0, 1, 2))),
  ):
    np.testing.assert_allclose(statistics[name], expected, rtol=1e-4)


def test_a_network_without_statistics_stays_as_it_is():
  variables = {'params': {'x': np.ones(2)}}
  same = recalibrate(
    make_network(TASKS),
    variables,
    iter(()),
    parallel=make_parallel('jit', batch_size=8),
    num_batches=3,
    seed=0,
  )
  assert same == variables
