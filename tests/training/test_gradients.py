"""Steps that combine gradients: what they compute, and in every layout."""

import functools

from fixtures import toy as plain
from fixtures.samples import random_batch
import jax
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import (
  BALANCERS,
  GRADIENT_BALANCERS,
  make_balancer,
  refreshed,
)
from mtl_kd_jax.balancing.gram import from_gram
from mtl_kd_jax.balancing.gram import plain as weights_of
from mtl_kd_jax.training.loss_terms import LEVELS, MODES, objective_names
from mtl_kd_jax.training.optim import ADAPTORS, make_student_optimizer
from mtl_kd_jax.training.state import init_state, network_params
from mtl_kd_jax.training.step import task_losses, train_step


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
  'auto-lambda': (lambda: make_balancer('auto_lambda'), 'parameters', 'task'),
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


@pytest.fixture(scope='module')
def taught():
  """Teachers, and a batch that is split into 2 or 3 parts."""
  return plain.make_teachers(), random_batch(6, plain.SIZE)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', BALANCERS | GRADIENT_BALANCERS)
def test_every_balancer_fits_every_way_that_alignment_enters(
  name, mode, taught
):
  """Traced only: the state keeps its shape, and each objective is weighed."""
  weights = dict.fromkeys(
    objective_names(tuple(plain.TASKS), distilled=True, mode=mode), 1.0
  )
  options = {'weights': weights} if name == 'fixed' else {}
  balancer = make_balancer(name, **options)

  def first_step():
    step, state = make_parts(balancer, mode=mode)
    return state, *step(state, *taught)

  before, after, losses = jax.eval_shape(first_step)
  shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(before)]
  assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == shapes
  weighed = {n.partition('/')[2] for n in losses if n.startswith('weight/')}
  assert weighed == weights.keys()


@pytest.mark.parametrize('name', ('modo', 'auto_lambda'))
def test_a_rule_gets_its_independent_parts_of_the_batch(name):
  """As it would in a loop of its own, on every n-th sample.

  MoDo combines the gradients of the backbone, Auto-Lambda those of all.
  """
  options = {'modo': {'learning_rate': 10.0}, 'auto_lambda': {'step_size': 1.0}}
  balancer = make_balancer(name, **options[name])
  step, state = make_parts(balancer, mode='outside')
  teachers, batch = plain.make_teachers(), random_batch(6, plain.SIZE)
  after, got = jax.jit(step)(state, teachers, batch)

  network, distillation = step.keywords['network'], plain.make_distillation()
  whole = network_params(state.params)
  params = whole if name == 'auto_lambda' else {'backbone': whole['backbone']}

  def losses(params, part):
    own = {k: x[part :: balancer.parts] for k, x in batch.items()}
    output, updated = network.apply(
      {
        'params': whole | params,
        'batch_stats': state.batch_stats,
      },
      own['image'],
      train=True,
      mutable=['batch_stats'],
    )
    asked = jax.tree.map(
      lambda x: x[part :: balancer.parts],
      distillation.ask(teachers, batch['image']),
    )
    aligned = distillation.losses(
      state.params[ADAPTORS], output.features, asked
    )
    rest = sum(distillation.weights[t] * x for t, x in aligned.items())
    return task_losses(output.predictions, own, plain.TASKS), (rest, updated)

  def gradients(part, shift):
    at = params
    if shift is not None:
      at = jax.tree.map(lambda x, s: x - s, at, shift)
    return jax.jacrev(lambda p: losses(p, part)[0])(at)

  @jax.jit
  def alone():
    values, (_, updated) = losses(params, 0)
    combined, balancer_state = balancer.update(
      values,
      gradients(0, None),
      state.balancer_state,
      jax.random.key(0),
      probe=gradients,
    )
    rest = jax.grad(lambda p: losses(p, 0)[1][0])(params)
    moved = jax.tree.map(
      lambda x, d, r: x - 1e-2 * (d + r), params, combined.direction, rest
    )
    return moved, balancer_state, values, updated['batch_stats']

  moved, balancer_state, values, batch_stats = alone()
  assert_close({k: after.params[k] for k in moved}, moved)
  assert_close(after.balancer_state, balancer_state)
  assert_close(after.batch_stats, batch_stats)
  assert_close({t: got[f'loss/{t}'] for t in values}, values)
  before, moved = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(s)])
    for s in (state.balancer_state, after.balancer_state)
  )
  assert np.abs(before - moved).max() > 1e-5


def test_a_step_that_reuses_weights_is_the_weighted_sum_of_all_losses():
  """One backward pass, with the weights of the step before."""
  teachers = plain.make_teachers()
  first, second = (random_batch(4, plain.SIZE, seed=i) for i in range(2))
  step, state = make_parts(refreshed(make_balancer('mgda'), 2), mode='task')
  step = jax.jit(step)
  state, losses = step(state, teachers, first)
  after, reused = step(state, teachers, second)
  weights = {t: float(losses[f'weight/{t}']) for t in plain.TASKS}
  assert weights == {t: float(reused[f'weight/{t}']) for t in plain.TASKS}
  assert (losses['combined'], reused['combined']) == (1, 0)
  assert len(set(weights.values())) > 1

  fixed, _ = make_parts(make_balancer('fixed', weights=weights), mode='task')
  state = state.replace(balancer_state=())
  expected, _ = jax.jit(fixed)(state, teachers, second)
  assert_close(after.params['backbone'], expected.params['backbone'])
  assert_close(after.batch_stats, expected.batch_stats)


def test_a_missing_task_does_not_touch_its_head():
  batch = random_batch(4, plain.SIZE)
  batch['depth'][:] = 0
  step, state = make_parts(make_balancer('nash_mtl'))
  after, losses = jax.jit(step)(state, plain.make_teachers(), batch)
  assert losses['loss/depth'] == losses['weight/depth'] == 0
  head, head_after = (s.params['head_depth'] for s in (state, after))
  jax.tree.map(np.testing.assert_array_equal, head, head_after)
