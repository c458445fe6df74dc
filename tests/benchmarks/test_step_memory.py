"""What a step is said to need on each device."""

import sys

from fixtures.configs import features_once, preview
from fixtures.paths import REPOSITORY
import jax
import numpy as np
import pytest

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import step_memory

__all__ = ['features_once']
pytestmark = pytest.mark.usefixtures('features_once', 'shallow')


def last_stage(**changes):
  _, plan = preview('nyuv2:deeplab', tasks=('depth', 'normals'), **changes)
  return plan.stages[-1]


def test_a_state_is_shared_by_the_devices():
  stage = last_stage()
  whole = step_memory.of_a_device(stage.abstract_state)
  shapes = jax.tree.leaves(stage.abstract_state)
  assert whole == sum(x.size * x.dtype.itemsize for x in shapes)
  stage = last_stage(**{'parallel.fsdp': True})
  shared = step_memory.of_a_device(stage.abstract_state)
  assert 1 / 4 < shared / whole < 0.3
  device = jax.devices()[0]
  zeros = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), stage.abstract_state
  )
  held = [
    shard.data.nbytes
    for x in jax.tree.leaves(stage.parallel.place(zeros))
    for shard in x.addressable_shards
    if shard.device == device
  ]
  assert sum(held) == shared


def test_remat_keeps_fewer_activations():
  image = jax.ShapeDtypeStruct((8, 64, 96, 3), np.float32)
  plain, again = (
    step_memory.activations(last_stage(remat=remat), image)
    for remat in (False, True)
  )
  assert again < 0.7 * plain
  # At least the largest map, of the first convolution and of its BatchNorm.
  assert plain > 2 * 4 * 8 * 32 * 48 * 64
