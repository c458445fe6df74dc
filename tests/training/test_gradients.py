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
  from_gram,
  make_balancer,
  shared_only,
  update_every,
)
from mtl_kd_jax.training.combined import GRAD_WRT
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import PLACEMENTS, objectives
from mtl_kd_jax.training.step import teacher_outputs


def sums():
  """All weights 1: the plain sum, through the gradients of all tasks."""
  return from_gram(
    lambda gram, step, state: (shared_only(1 + 0 * gram.norms), state)
  )


def assert_close(one, two, rtol=1e-4, atol=1e-5):
  one, two = jax.device_get((one, two))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    one,
    two,
  )


# Updates are then minus the gradients: far above the tolerance.
SGD = {'tx': optax.sgd(1.0), 'extra_tx': optax.sgd(1.0)}


@pytest.fixture(scope='module')
def uniform():
  """One plain step: the batch, and what comes out."""
  batch = random_batch(4, plain.SIZE)
  step, state = plain.make_parts(**SGD)
  return batch, *jax.jit(step)(state, plain.make_teachers(), batch)


@pytest.mark.parametrize('grad_wrt', GRAD_WRT)
@pytest.mark.parametrize('placement', PLACEMENTS)
def test_with_weights_of_1_the_step_is_the_plain_one(
  grad_wrt, placement, uniform
):
  """All of it: parameters, heads, adaptors, statistics, losses."""
  batch, expected, losses = uniform
  step, state = plain.make_parts(
    balancer=sums(), grad_wrt=grad_wrt, placement=placement, **SGD
  )
  after, got = jax.jit(step)(state, plain.make_teachers(), batch)
  assert_close(after.params, expected.params)
  assert_close(after.extras, expected.extras)
  assert_close(after.collections, expected.collections)
  same = [n for n in losses if not n.startswith('weight/')]
  assert_close({n: got[n] for n in same}, {n: losses[n] for n in same})
  objectives = {n for n in got if n.startswith('weight/')}
  assert len(objectives) == (4 if placement == 'objective' else 2)
  assert got['norm/depth'] > 0
  assert -1 <= got['cosine/depth/normals'] <= 1


SETTINGS = {
  'nash, every second step': (
    lambda: update_every(make_balancer('nash_mtl'), 2),
    'parameters',
    'outside',
  ),
  'mgda-ub': (lambda: make_balancer('mgda'), 'features', 'objective'),
  'auto-lambda': (lambda: make_balancer('auto_lambda'), 'parameters', 'task'),
}


@pytest.mark.parametrize('setting', SETTINGS)
def test_steps_agree_on_one_device_sharded_and_under_pmap(setting):
  """In float64: rounding is then far below what three steps do."""
  make, grad_wrt, placement = SETTINGS[setting]
  tasks = ('normals', 'depth')
  updates, states = {}, {}
  with jax.enable_x64(True):
    teachers = {t: plain.as_float64(plain.make_teachers()[t]) for t in tasks}
    for name, parallel, axis_name in plain.layouts():
      if name == 'jit' and grad_wrt == 'parameters' and placement != 'outside':
        continue  # one rule of each kind: the compiler splits what it is given
      step, state = plain.make_parts(
        tasks=tasks,
        balancer=make(),
        grad_wrt=grad_wrt,
        placement=placement,
        axis_name=axis_name,
      )
      state = plain.in_float64(state)
      begun, frozen, compiled = jax.device_get(state), teachers, jax.jit(step)
      if parallel:
        compiled = parallel.compile_train_step(step)
        state, frozen = parallel.replicate((state, teachers))
      for i in range(3):
        batch = plain.as_float64(random_batch(8, plain.SIZE, seed=i))
        batch['depth'][:5] = 0
        if i == 2:
          batch['normals'][:] = 0  # no label at all
        state, losses = compiled(
          state, frozen, parallel.shard(batch) if parallel else batch
        )
      assert losses['weight/depth'] > 0
      assert placement == 'task' or losses['weight/normals'] == 0
      states[name] = jax.device_get(state)
      updates[name] = plain.learned(states[name], begun)
  reference = updates.pop('one device')
  size = np.linalg.norm(reference)
  assert np.isfinite(size) and size > 1e-3
  for name, update in updates.items():
    # Balancers compute in float32.
    assert np.linalg.norm(update - reference) < 1e-4 * size, name
    assert_close(
      states[name].balancer_state,
      states['one device'].balancer_state,
      rtol=1e-3,
      atol=1e-6,
    )


# Every rule, and one of each kind in all the ways that alignment enters.
KINDS = ('uniform', 'famo', 'mgda', 'db_mtl', 'sdmgrad', 'auto_lambda')
TRACED = [(name, placement) for name in KINDS for placement in PLACEMENTS]
TRACED += [
  (name, None) for name in BALANCERS | GRADIENT_BALANCERS if name not in KINDS
]


@pytest.fixture(scope='module')
def begun():
  """States before the first step, without distillation and with it."""
  return [plain.make_parts(distill=distill)[1] for distill in (False, True)]


@pytest.mark.parametrize('name, placement', TRACED)
def test_every_balancer_fits_every_way_that_alignment_enters(
  name, placement, begun
):
  """Traced only: the state keeps its shape, and each objective is weighed."""
  distill = placement is not None
  names = objectives(
    plain.make_terms(distill=distill, placement=placement or 'outside')
  )
  weights = dict.fromkeys(names, 1.0)
  options = {'weights': weights} if name == 'fixed' else {}
  balancer = make_balancer(name, **options)
  step = plain.make_step(
    balancer=balancer, distill=distill, placement=placement or 'outside'
  )
  init_balancer = balancer_init(balancer, step.keywords['terms'])
  before = begun[distill]
  before = before.replace(balancer_state=init_balancer(before))
  teachers = plain.make_teachers() if distill else {}
  batch = random_batch(6, plain.SIZE)  # is split into 2 or 3 parts
  after, losses = jax.eval_shape(step, before, teachers, batch)
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
  names = ('depth', 'normals')
  step, state = plain.make_parts(tasks=names, balancer=balancer, **SGD)
  teachers = {task: plain.make_teachers()[task] for task in names}
  batch = random_batch(6, plain.SIZE)
  after, got = jax.jit(step)(state, teachers, batch)

  network, terms = step.keywords['network'], step.keywords['terms']
  every = {
    'params': state.params,
    'extras': {n: v['params'] for n, v in state.extras.items()},
  }
  params = every if name == 'auto_lambda' else state.params['backbone']

  def losses(params, part):
    if name != 'auto_lambda':
      params = every | {'params': state.params | {'backbone': params}}
    own = {k: x[part :: balancer.num_minibatches] for k, x in batch.items()}
    output, updated = network.apply(
      {'params': params['params'], **state.collections},
      own['image'],
      train=True,
      mutable=['batch_stats'],
    )
    # Of the whole batch: in mode 'running' parts are the same by themselves.
    outputs = jax.tree.map(
      lambda x: x[part :: balancer.num_minibatches],
      teacher_outputs(step.keywords['teachers'], teachers, batch['image']),
    )
    extras = {n: {'params': p} for n, p in params['extras'].items()}
    values = {t.name: t.fn(output, outputs, own, extras) for t in terms}
    aligned = {t.name: t.weight for t in terms if t.objective is None}
    rest = sum(w * values[n] for n, w in aligned.items())
    tasks = {n.partition('/')[2]: values[n] for n in values if n not in aligned}
    return tasks, (rest, updated)

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
      lambda x, d, r: x - (d + r), params, combined.direction, rest
    )
    return moved, balancer_state, values, updated

  moved, balancer_state, values, batch_stats = alone()
  if name == 'auto_lambda':
    learned = {
      'params': after.params,
      'extras': {n: v['params'] for n, v in after.extras.items()},
    }
  else:
    learned = after.params['backbone']
  assert_close(learned, moved, atol=3e-5)  # by steps of 10
  assert_close(after.balancer_state, balancer_state)
  assert_close(after.collections, dict(batch_stats))
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
  step, state = plain.make_parts(
    balancer=update_every(make_balancer('mgda'), 2), placement='task', **SGD
  )
  step = jax.jit(step)
  state, losses = step(state, teachers, first)
  after, reused = step(state, teachers, second)
  weights = {t: float(losses[f'weight/{t}']) for t in plain.TASKS}
  assert weights == {t: float(reused[f'weight/{t}']) for t in plain.TASKS}
  assert (losses['combined'], reused['combined']) == (1, 0)
  assert len(set(weights.values())) > 1

  fixed, begun = plain.make_parts(
    balancer=make_balancer('fixed', weights=weights), placement='task', **SGD
  )
  state = state.replace(balancer_state=begun.balancer_state)
  expected, _ = jax.jit(fixed)(state, teachers, second)
  assert_close(after.params['backbone'], expected.params['backbone'])
  assert_close(after.collections, expected.collections)


def test_a_missing_task_does_not_touch_its_head():
  batch = random_batch(4, plain.SIZE)
  batch['depth'][:] = 0
  step, state = plain.make_parts(balancer=make_balancer('nash_mtl'))
  after, losses = jax.jit(step)(state, plain.make_teachers(), batch)
  assert losses['loss/depth'] == losses['weight/depth'] == 0
  head, head_after = (s.params['head_depth'] for s in (state, after))
  jax.tree.map(np.testing.assert_array_equal, head, head_after)
