"""Devices that share the training state take the same steps."""

import functools

from fixtures.samples import random_batch
from fixtures.stages import make_stage, run
from fixtures.toy import (
  SIZE,
  as_float64,
  in_float64,
  learned,
  make_parts,
  make_teachers,
)
import jax
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import parallel as placement
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.training.computation import Computation


@pytest.fixture(autouse=True)
def small_arrays_count(monkeypatch):
  monkeypatch.setattr(placement, '_MIN_SHARED', 16)


def bytes_on_a_device(tree):
  device = jax.devices()[0]
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.device == device
  )


@pytest.mark.parametrize(
  'balancer, how',
  # One that keeps gradients, which are shared, too.
  [('moco', Computation(accumulate=2))],
)
def test_steps_agree_and_each_device_holds_a_part(balancer, how):
  results, sizes = [], []
  with jax.enable_x64(True):
    for fsdp in (False, True):
      parallel = make_parallel('jit', batch_size=8, fsdp=fsdp)
      step, state = make_parts(
        tx=optax.adam(1e-2),
        extra_tx=optax.adam(1e-2),
        balancer=make_balancer(balancer),
        gather=parallel.gather,
        computation=how,
        ema=0.9,
      )
      state = in_float64(state)
      begun = jax.device_get(state)
      compiled = parallel.compile_train_step(step, state)
      state = parallel.place(state)
      teachers = parallel.replicate(as_float64(make_teachers()))
      for i in range(2):
        batch = as_float64(random_batch(8, SIZE, seed=i))
        state, losses = compiled(state, teachers, parallel.shard(batch))
      sizes.append(bytes_on_a_device((state.params, state.opt_state)))
      results.append((learned(jax.device_get(state), begun), losses))
  (whole, losses), (shared, same) = results
  assert np.linalg.norm(whole) > 1e-3
  np.testing.assert_allclose(shared, whole, rtol=1e-5, atol=1e-9)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
    jax.device_get(same),
    jax.device_get(losses),
  )
  assert sizes[1] < 0.5 * sizes[0]  # 6 channels are no multiple of 4 devices


def test_a_stage_is_trained_scored_and_continued_with_a_shared_state(
  toy_dataset, tmp_path
):
  make = functools.partial(make_stage, toy_dataset, epochs=1)
  shared = make(parallel=make_parallel('jit', batch_size=4, fsdp=True))
  state = run(shared, tmp_path / 'shared')
  expected = run(make(parallel=make_parallel('jit', batch_size=4)), tmp_path)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    state.params,
    expected.params,
  )
  # What one layout saved is what the other reads.
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  restored = checkpoints.restore_last(shared.abstract_state)
  checkpoints.close()
  assert any(not x.is_fully_replicated for x in jax.tree.leaves(restored))
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(restored), expected
  )


def test_pmap_does_not_share():
  with pytest.raises(InputError, match="'pmap'"):
    make_parallel('pmap', batch_size=8, fsdp=True)


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
  """Four devices here, and two processes: the other one has none, or all."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(InputError, match='as many devices in every process'):
    make_parallel('jit', batch_size=8)
