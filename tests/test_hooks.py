"""What comes next fits without a line changed in the step: four tiny instances.

A term with a helper network and its own Adam; a live teacher that trains along;
a balancer whose weights are set between epochs, from validation metrics; and an
operation on finished runs.
"""

import dataclasses

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
from fixtures.samples import random_batch
from fixtures.stages import make_stage, run, run_killed_after
from fixtures.toy import (
  ALL_TASKS,
  SIZE,
  TASKS,
  as_float64,
  in_float64,
  layouts,
  learned,
  make_network,
  make_parts,
  make_terms,
)
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax import models
from mtl_kd_jax.balancing import Balancer, make
from mtl_kd_jax.distillation import make_loss
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting import load
from mtl_kd_jax.run import write_run
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.tasks.base import masked_mean
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm, task_terms
from mtl_kd_jax.training.state import NETWORK

# ---- A term between two tasks, with a helper network -------------------------


class Translator(nn.Module):
  """Maps predicted depth to normals; used in training only."""

  @nn.compact
  def __call__(self, depth):
    x = nn.relu(nn.Conv(4, (3, 3), name='hidden')(depth))
    return nn.Conv(3, (1, 1), name='out')(x)


def consistency(translator):
  def loss(output, teachers, batch, extras, *, axis_name=None):
    translated = translator.apply(
      extras['translator'], output.predictions['depth']
    )
    distance = jnp.sum((translated - output.predictions['normals']) ** 2, -1)
    everywhere = jnp.ones(distance.shape, bool)
    return masked_mean(distance, everywhere, axis_name=axis_name)

  return LossTerm(
    name='consistency/depth_normals',
    fn=loss,
    tasks=('depth', 'normals'),
    weight=0.1,
  )


def translator_network(translator):
  return ExtraNetwork(
    init=lambda key, output: translator.init(key, output.predictions['depth']),
    tx=optax.adam(1e-2),
  )


@pytest.mark.parametrize('rule', ['uniform', 'nash_mtl'])
def test_a_consistency_term_trains_its_helper_with_an_adam_of_its_own(rule):
  translator = Translator()
  term = consistency(translator)
  terms = (*make_terms(distill=False, tasks=ALL_TASKS), term)
  extras = {'translator': translator_network(translator)}
  batch = random_batch(4, SIZE)
  step, state = make_parts(
    tasks=ALL_TASKS,
    distill=False,
    balancer=make(rule),
    terms=terms,
    extras=extras,
  )
  after, measured = jax.jit(step)(state, {}, batch)

  def total(params, helper):
    output, _ = make_network(ALL_TASKS).apply(
      {'params': params, **state.collections},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    return term.fn(output, {}, batch, {'translator': {'params': helper}})

  helper = state.extras['translator']['params']
  value, (of_heads, of_helper) = jax.jit(
    jax.value_and_grad(total, argnums=(0, 1))
  )(state.params, helper)
  np.testing.assert_allclose(measured[term.name], value, rtol=1e-5)
  # The helper follows an Adam of its own: its first step is 1e-2 of the sign,
  # where the network's SGD has 1e-2 of the gradient.
  moved = jax.tree.map(
    lambda a, b: b - a, helper, after.extras['translator']['params']
  )
  for step_taken, g in zip(
    jax.tree.leaves(moved), jax.tree.leaves(of_helper), strict=True
  ):
    big = np.abs(g) > 1e-4  # above Adam's epsilon
    np.testing.assert_allclose(
      step_taken[big], -1e-2 * np.sign(g)[big], rtol=1e-2
    )
    assert big.any()
  assert set(after.opt_state) == {NETWORK, 'translator'}
  # And both heads feel it: more than they do without the term.
  without, begun = make_parts(
    tasks=ALL_TASKS, distill=False, balancer=make(rule)
  )
  plain, _ = jax.jit(without)(begun, {}, batch)
  for head in ('head_depth', 'head_normals'):
    pull = after.params[head]['out']['bias'] - plain.params[head]['out']['bias']
    expected = -1e-2 * term.weight * of_heads[head]['out']['bias']
    np.testing.assert_allclose(pull, expected, rtol=2e-2, atol=1e-7)
  same = after.params['head_semantic']['out']['bias']
  np.testing.assert_allclose(
    same, plain.params['head_semantic']['out']['bias'], rtol=1e-5, atol=1e-7
  )


# ---- A live teacher ----------------------------------------------------------


def live_teacher(network):
  """A single-task network that learns in the same steps."""

  def apply(variables, image, *, key):
    collections = [name for name in variables if name != 'params']
    return network.apply(variables, image, train=True, mutable=collections)

  def init(key, output):
    image = jnp.zeros((1, *SIZE, 3))
    return network.init(key, image, train=False)

  return ExtraNetwork(init=init, tx=optax.adam(1e-2), apply=apply)


def live_terms():
  task = TASKS['depth']
  imitate = make_loss('feature_l2')

  def teach(output, teachers, batch, extras, *, axis_name=None):
    prediction = teachers['live'].predictions['depth']
    valid = task.valid(batch['depth'])
    return masked_mean(
      task.loss(prediction, batch['depth']), valid, axis_name=axis_name
    )

  def follow(output, teachers, batch, extras, *, axis_name=None):
    target = jax.lax.stop_gradient(teachers['live'].features['decoder'])
    return imitate(output.features['decoder'], target, axis_name=axis_name)

  return (
    LossTerm('teacher/depth', teach),
    LossTerm('alignment/live', follow, weight=0.5),
  )


def test_a_live_teacher_trains_along_and_only_on_its_own_loss(
  toy_dataset, tmp_path
):
  """Through the loop, with checkpoints: it is saved and resumed too."""
  network = make_network(('depth',))
  stage = make_stage(
    toy_dataset,
    terms=task_terms(TASKS) + live_terms(),
    extras={'live': live_teacher(network)},
    teachers={},
    inputs={},
  )
  begun = jax.device_get(stage.init())
  state = run(stage, tmp_path)
  log = [e for e in read_log(tmp_path) if e['kind'] == 'train']
  assert log[-1]['teacher/depth'] < log[0]['teacher/depth']
  assert 'alignment/live' in log[-1]
  # Its statistics move too, and it is no part of the result.
  before, after = (s.extras['live'] for s in (begun, state))
  mean = lambda v: v['batch_stats']['backbone']['BatchNorm_0']['mean']  # noqa: E731
  assert np.abs(mean(after) - mean(before)).max() > 1e-4
  assert set(state.variables['params']) == set(begun.params)

  # The student's alignment does not pull the teacher.
  only = dataclasses.replace(stage, terms=task_terms(TASKS) + live_terms()[:1])
  batch = random_batch(4, SIZE)
  one, _ = jax.block_until_ready(stage.train_step(stage.init(), {}, batch))
  other, _ = jax.block_until_ready(only.train_step(only.init(), {}, batch))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    jax.device_get(one.extras['live']['params']),
    jax.device_get(other.extras['live']['params']),
  )
  trunk = lambda s: jax.device_get(s.params['backbone'])  # noqa: E731
  differs = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), trunk(one), trunk(other)
  )
  assert max(jax.tree.leaves(differs)) > 1e-6


def test_a_live_teacher_learns_the_same_on_one_device_and_under_pmap():
  """In float64, where Adam makes nothing of the rounding of zero gradients."""
  updates, batch = {}, as_float64(random_batch(8, SIZE))
  batch['depth'][:5] = 0
  with jax.enable_x64(True):
    for name, parallel, axis_name in layouts():
      if name == 'jit':
        continue  # the compiler splits what it is given
      network = make_network(('depth',), axis_name=axis_name)
      step, state = make_parts(
        tasks=('depth',),
        distill=False,
        axis_name=axis_name,
        terms=make_terms(distill=False, tasks=('depth',)) + live_terms(),
        extras={'live': live_teacher(network)},
      )
      begun = state = in_float64(state)
      compiled = (
        parallel.compile_train_step(step) if parallel else jax.jit(step)
      )
      for _ in range(2):
        state, _ = compiled(
          state, {}, parallel.shard(batch) if parallel else batch
        )
      updates[name] = learned(*jax.device_get((state, begun)))
  reference = updates.pop('one device')
  assert np.linalg.norm(reference) > 1e-2
  for name, update in updates.items():
    difference = np.linalg.norm(update - reference)
    assert difference < 1e-6 * np.linalg.norm(reference), name


@pytest.mark.parametrize('name', ['network', 'depth'])
def test_an_extra_network_has_a_name_of_its_own(name, toy_dataset):
  """Or it would take the place of the network's optimizer, or a teacher's."""
  extras = {name: live_teacher(make_network(('depth',)))}
  with pytest.raises(InputError, match='names of their own') as error:
    make_stage(toy_dataset, extras=extras)
  assert error.value.argument == 'extras' and name in error.value.found


# ---- Weights between epochs, from validation metrics -------------------------


def fed_balancer():
  """Weighs a task by how far its network is from a potential, per epoch."""
  potentials = {'depth': 0.0, 'normals': 180.0}

  def init(names, gradients=None):
    return {name: jnp.ones((), jnp.float32) for name in names}

  def update(losses, state, key, *, present=None):
    return dict(state), state

  def on_metrics(metrics, state):
    gaps = {
      name: abs(next(iter(metrics[name].values())) - potentials[name])
      for name in state
    }
    return {
      name: jnp.float32(len(gaps) * gap / sum(gaps.values()))
      for name, gap in gaps.items()
    }

  return Balancer(init, update, on_metrics=on_metrics)


@pytest.fixture(scope='module')
def fed(toy_dataset):
  """A stage with that balancer, compiled once."""
  return make_stage(
    toy_dataset,
    terms=task_terms(TASKS),
    balancer=fed_balancer(),
    teachers={},
    inputs={},
    extras={},
  )


def test_a_balancer_learns_between_epochs_from_validation_metrics(
  fed, tmp_path
):
  state = run(fed, tmp_path)
  log = read_log(tmp_path)
  scores = {e['step']: e for e in log if e['kind'] == 'eval'}
  train = [e for e in log if e['kind'] == 'train']
  assert all(e['weight/depth'] == 1 for e in train if e['step'] <= 3)
  # In the second epoch: the weights that the metrics after the first one give.
  after = next(e for e in train if e['step'] == 4)
  gaps = {
    'depth': scores[3]['depth/abs_error'],
    'normals': 180 - scores[3]['normals/mean_angle'],
  }
  for task, gap in gaps.items():
    expected = 2 * gap / sum(gaps.values())
    np.testing.assert_allclose(after[f'weight/{task}'], expected, rtol=1e-5)
  # What it learned last is part of the last checkpoint.
  assert float(state.balancer_state['depth']) != after['weight/depth']


def test_a_fed_balancer_goes_on_where_it_was(fed, tmp_path):
  """Also one that ended right after the step that fed it was saved."""
  whole = run(fed, tmp_path / 'whole')
  run_killed_after(fed, tmp_path / 'killed', 3)
  resumed = run(fed, tmp_path / 'killed')
  same = jax.tree.map(np.array_equal, resumed, whole)
  assert all(jax.tree.leaves(same))


# ---- An operation on finished runs -------------------------------------------


def finished_run(workdir, seed):
  """A run whose network was drawn, and not trained."""
  tasks = {t: TASKS[t] for t in ('depth', 'normals')}
  network = models.make('tiny', tasks)
  variables = draw_variables(network, (32, 32), seed)
  trained = TrainedNetwork('distilled', network, variables, tasks, (32, 32))
  config = {'name': f'drawn {seed}', 'select': 'last', 'tasks': list(tasks)}
  return write_run(workdir, config, {'distilled': trained})


def test_two_finished_runs_are_averaged_into_a_third(tmp_path, monkeypatch):
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  for seed in (0, 1):
    finished_run(tmp_path / str(seed), seed)
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  one, two = (load(tmp_path / str(seed))['distilled'] for seed in (0, 1))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, one.variables, two.variables)
  merged = dataclasses.replace(one, variables=mean, metrics=None)
  write_run(
    tmp_path / 'mean', {'name': 'mean', 'select': 'last'}, {'soup': merged}
  )

  run = load(tmp_path / 'mean')
  assert list(run) == ['soup']
  image = random_batch(1, (32, 32))['image']
  expected = jax.jit(one.apply)(mean, image)
  actual = jax.jit(run['soup'].apply)(run['soup'].variables, image)
  for task, x in expected.items():
    np.testing.assert_allclose(actual[task], x, rtol=1e-4, atol=1e-5)
  assert run['soup'].predict(image[0]).depth.shape == (32, 32)
  # Reading has changed nothing of the two.
  after = {p: p.read_bytes() for p in before}
  assert after == before
