"""What a step is said to need on each device."""

import sys

from fixtures.configs import features_once, preview
from fixtures.paths import REPOSITORY
import jax
import numpy as np
import pytest

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import step_memory

from mtl_kd_jax import models
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.training.computation import PLAIN

__all__ = ['features_once']
pytestmark = pytest.mark.usefixtures('features_once', 'shallow')


def test_a_state_is_shared_by_the_devices():
  _, plan = preview('nyuv2', tasks=('depth', 'normals'))
  whole = plan.stages[-1].abstract_state
  parallel = make_parallel('jit', batch_size=4, fsdp=True)
  shared = jax.tree.map(
    lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
    whole,
    parallel.state_sharding(whole),
  )
  sizes = [step_memory.of_a_device(tree) for tree in (whole, shared)]
  shapes = jax.tree.leaves(whole)
  assert sizes[0] == sum(x.size * x.dtype.itemsize for x in shapes)
  assert 1 / 4 < sizes[1] / sizes[0] < 0.3
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), whole)
  held = [
    shard.data.nbytes
    for x in jax.tree.leaves(parallel.place(zeros))
    for shard in x.addressable_shards
    if shard.device == jax.devices()[0]
  ]
  assert sum(held) == sizes[1]


@pytest.mark.parametrize('backbone', ['segnet', 'mtan', 'resnet18'])
def test_remat_keeps_fewer_activations_of_the_same_network(backbone):
  plain = models.make(backbone, {'depth': 1, 'normals': 3}, width=0.125)
  (_, variables), (_, same) = (
    abstract_init(network, (64, 96)) for network in (plain, plain.with_remat())
  )
  assert jax.tree.map(str, variables) == jax.tree.map(str, same)
  image = jax.ShapeDtypeStruct((8, 64, 96, 3), np.float32)
  kept, less = (
    step_memory.activations(network, variables, image, PLAIN)
    for network in (plain, plain.with_remat())
  )
  assert less < 0.7 * kept
