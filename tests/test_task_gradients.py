"""Steps that combine gradients: what they compute, and in every layout."""

import functools

from conftest import random_batch
import jax
import numpy as np
import optax
import pytest
import test_train_step as plain

from mtl_kd_jax.balancing import make_balancer, refreshed
from mtl_kd_jax.balancing.gram import from_gram
from mtl_kd_jax.balancing.gram import plain as weights_of
from mtl_kd_jax.objectives import LEVELS, MODES
from mtl_kd_jax.optim import make_student_optimizer
from mtl_kd_jax.train_state import init_state
from mtl_kd_jax.train_step import train_step


def sums():
  """All weights 1: the plain sum, through the gradients of all tasks."""
  return from_gram(
    lambda gram, step, state: (weights_of(1 + 0 * gram.norms), state)
  )


def make_parts(balancer, *, level='parameters', mode='outside', axis_name=None):
  parts = {
    'network': plain.make_network(plain.TASKS, axis_name=axis_name),
    'balancer': balancer,
    'tx': make_student_optimizer(optax.sgd(1e-2), optax.sgd(1e-1)),
    'distillation': plain.make_distillation(axis_name=axis_name),
    'mode': mode,
  }
  state = init_state(jax.random.key(0), image_size=plain.SIZE, **parts)
  step = functools.partial(
    train_step,
    tasks=plain.TASKS,
    seed=0,
    level=level,
    axis_name=axis_name,
    **parts,
  )
  return step, state


def assert_close(one, two, rtol=1e-4, atol=1e-5):
  one, two = jax.device_get((one, two))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    one,
    two,
  )


@pytest.fixture(scope='module')
def uniform():
  """One plain step: the batch, and what comes out."""
  batch = random_batch(4, plain.SIZE)
  step, state = make_parts(make_balancer('uniform'))
  return batch, *jax.jit(step)(state, plain.make_teachers(), batch)


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('mode', MODES)
def test_with_weights_of_1_the_step_is_the_plain_one(level, mode, uniform):
  """All of it: parameters, heads, adaptors, statistics, losses."""
  batch, expected, losses = uniform
  step, state = make_parts(sums(), level=level, mode=mode)
  after, got = jax.jit(step)(state, plain.make_teachers(), batch)
  assert_close(after.params, expected.params)
  assert_close(after.batch_stats, expected.batch_stats)
  same = [n for n in losses if not n.startswith('weight/')]
  assert_close({n: got[n] for n in same}, {n: losses[n] for n in same})
  objectives = {n for n in got if n.startswith('weight/')}
  assert len(objectives) == (6 if mode == 'objective' else 3)
  assert got['norm/depth'] > 0
  assert -1 <= got['cosine/depth/semantic'] <= 1


SETTINGS = {
  'nash': (lambda: make_balancer('nash_mtl'), 'parameters', 'outside'),
  'mgda-ub': (lambda: make_balancer('mgda'), 'features', 'objective'),
  'famo': (lambda: make_balancer('famo'), 'parameters', 'objective'),
  'every second': (
    lambda: refreshed(make_balancer('upgrad'), 2),
    'parameters',
    'task',
  ),
}


@pytest.mark.parametrize('setting', SETTINGS)
def test_steps_agree_on_one_device_sharded_and_under_pmap(setting):
  make, level, mode = SETTINGS[setting]
  results = {}
  for name, parallel, axis_name in plain.layouts():
    step, state = make_parts(
      make(), level=level, mode=mode, axis_name=axis_name
    )
    teachers = plain.make_teachers()
    compiled = jax.jit(step)
    if parallel:
      compiled = parallel.compile_train_step(step)
      state, teachers = parallel.replicate((state, teachers))
    for i in range(3):
      batch = random_batch(8, plain.SIZE, seed=i)
      batch['depth'][:5] = 0
      if i == 1:
        batch['normals'][:] = 0  # no label at all
      state, losses = compiled(
        state, teachers, parallel.shard(batch) if parallel else batch
      )
      if i == 1 and mode != 'task':
        assert losses['weight/normals'] == 0 or setting == 'every second'
    results[name] = jax.device_get((losses, state))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(results[name]))
  reference = results.pop('one device')
  for result in results.values():
    assert_close(result, reference, rtol=1e-2, atol=3e-3)


def test_a_missing_task_does_not_touch_its_head():
  batch = random_batch(4, plain.SIZE)
  batch['depth'][:] = 0
  step, state = make_parts(make_balancer('nash_mtl'))
  after, losses = jax.jit(step)(state, plain.make_teachers(), batch)
  assert losses['loss/depth'] == losses['weight/depth'] == 0
  head, head_after = (s.params['head_depth'] for s in (state, after))
  jax.tree.map(np.testing.assert_array_equal, head, head_after)
