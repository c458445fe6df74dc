"""The one training step: what it computes, and that devices do not matter."""

from collections.abc import Callable
import functools
from typing import NamedTuple

from fixtures.backbones import Bare
from fixtures.layers import random_variables
from fixtures.samples import random_batch
from fixtures.toy import (
  LAMBDAS,
  SIZE,
  TASKS,
  as_float64,
  in_float64,
  layouts,
  learned,
  make_network,
  make_parts,
  make_teachers,
  make_terms,
)
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import Balancer, make_balancer
from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.models import segnet
from mtl_kd_jax.models.segnet import SegNet
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.tasks.base import masked_mean
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import LossTerm, task_terms
from mtl_kd_jax.training.state import TrainState, init_state
from mtl_kd_jax.training.step import (
  eval_step,
  teacher_outputs,
  train_step,
)


@pytest.mark.parametrize(
  'batch_norm, gated', [('running', True), ('batch', False)]
)
def test_steps_agree_on_one_device_sharded_and_under_pmap(batch_norm, gated):
  """In float64: rounding is then far below what three steps do."""
  assert jax.device_count() == 4
  tasks = ('semantic', 'depth')
  updates, results = {}, {}
  with jax.enable_x64(True):
    before = as_float64({task: make_teachers()[task] for task in tasks})
    for name, parallel, axis_name in layouts():
      step, state = make_parts(
        tasks=tasks,
        terms=make_terms(distill=True, tasks=tasks, gated=gated),
        axis_name=axis_name,
        batch_norm=batch_norm,
      )
      state = in_float64(state)
      begun, teachers, compiled = jax.device_get(state), before, jax.jit(step)
      if parallel:
        compiled = parallel.compile_train_step(step)
        state, teachers = parallel.replicate((state, teachers))
      for i in range(3):
        batch = as_float64(random_batch(8, SIZE, seed=i))
        # A task without any label on some devices, and one on most.
        batch['depth'][:5] = 0
        batch['semantic'][2:] = -1
        old = jax.tree.leaves((state.params, state.extras))
        state, losses = compiled(
          state, teachers, parallel.shard(batch) if parallel else batch
        )
      if name == 'jit':  # the memory of the old state is used again
        assert all(x.is_deleted() for x in old)
      updates[name] = learned(jax.device_get(state), begun)
      results[name] = jax.device_get((losses, state.collections))
      same = jax.tree.map(np.array_equal, teachers, before)
      assert all(jax.tree.leaves(same))  # bit for bit
  reference, result = updates.pop('one device'), results.pop('one device')
  size = np.linalg.norm(reference)
  assert np.isfinite(size) and size > 1e-3
  for name, update in updates.items():
    assert np.linalg.norm(update - reference) < 1e-6 * size, name
    jax.tree.map(
      functools.partial(
        np.testing.assert_allclose, rtol=1e-6, atol=1e-9, err_msg=name
      ),
      results[name],
      result,
    )


def test_segnet_has_the_same_gradient_in_every_layout(monkeypatch):
  """In float64, since many layers make much of a rounded last bit."""
  monkeypatch.setattr(segnet, '_BLOCKS', (1,) * 4)
  with jax.enable_x64(True):
    images = np.random.default_rng(1).random((8, *SIZE, 3))
    init = functools.partial(SegNet(0.03125).init, tasks=(), train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    drawn = random_variables(shapes)
    gradients = {}
    for name, parallel, axis_name in layouts():
      network = SegNet(0.03125, axis_name)

      def step(variables, _, batch, network=network, axis_name=axis_name):
        def loss(params):
          features, updated = network.apply(
            variables | {'params': params},
            batch['image'],
            tasks=(),
            train=True,
            mutable=['batch_stats'],
          )
          # Not symmetric, or BatchNorm would make it constant.
          return sum(
            jnp.sum(jnp.sin(3 * x)) for x in features.values()
          ), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables['params'])
        if axis_name:
          gradient = jax.lax.psum(gradient, axis_name)
        return {'params': gradient, **updated}, ()

      variables, batch, compiled = drawn, {'image': images}, jax.jit(step)
      if parallel:
        batch = parallel.shard(batch)
        compiled = parallel.compile_train_step(step)
        variables = parallel.replicate(drawn)
      gradients[name], _ = compiled(variables, {}, batch)
    reference = jax.device_get(gradients.pop('one device'))
    for name, gradient in gradients.items():
      jax.tree.map(
        functools.partial(
          np.testing.assert_allclose, rtol=1e-8, atol=1e-8, err_msg=name
        ),
        jax.device_get(gradient),
        reference,
      )


class Stepped(NamedTuple):
  """One step on a batch: the compiled step, and what is before and after."""

  step: Callable
  batch: dict
  before: TrainState
  after: TrainState
  losses: dict


def take_step(*, frozen=None, **options):
  step, before = make_parts(tx=optax.sgd(1.0), **options)
  step, batch = jax.jit(step), random_batch(4, SIZE)
  return Stepped(step, batch, before, *step(before, frozen or {}, batch))


@pytest.fixture(scope='module')
def distilled():
  return take_step(frozen=make_teachers())


@pytest.fixture(scope='module')
def plain():
  """Without distillation."""
  return take_step(distill=False)


def test_the_loss_is_the_sum_of_its_parts(distilled):
  losses = distilled.losses
  total = sum(losses[f'loss/{t}'] for t in TASKS) + sum(
    LAMBDAS[t] * losses[f'alignment/{t}'] for t in TASKS
  )
  np.testing.assert_allclose(losses['loss'], total, rtol=1e-6)
  assert all(0 < losses[f'alignment/{t}'] <= 8 for t in TASKS)


def test_without_teachers_there_is_no_alignment_and_there_are_no_adaptors(
  plain,
):
  assert not [name for name in plain.losses if name.startswith('alignment')]
  assert plain.after.extras == {}
  assert int(plain.after.step) == 1


def test_a_student_without_its_adaptors_is_a_plain_network(distilled, plain):
  one, other = distilled.before.variables, plain.before.variables
  shape = functools.partial(jax.tree.map, jnp.shape)
  assert shape(one) == shape(other)
  # And begins as the baseline does: the comparison is between the methods.
  same = jax.tree.map(lambda a, b: (a == b).all(), one, other)
  assert all(jax.tree.leaves(same))


def test_a_missing_task_does_not_touch_the_update(plain):
  """Depth labels all missing: the same step as without the depth task."""
  batch = plain.batch | {'depth': np.zeros_like(plain.batch['depth'])}
  after, losses = plain.step(plain.before, {}, batch)
  assert losses['loss/depth'] == 0
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after))
  head, head_after = (s.params['head_depth'] for s in (plain.before, after))
  assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, head, head_after)))

  without, begun = make_parts(
    tasks=('normals',), distill=False, tx=optax.sgd(1.0)
  )
  expected, _ = jax.jit(without)(begun, {}, batch)
  rest = {name: after.params[name] for name in expected.params}
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    (rest, after.collections),
    (expected.params, expected.collections),
  )


def test_gradients_are_those_of_the_masked_mean_over_the_global_batch():
  """Against finite differences of a float64 NumPy loss of the last layer."""
  batch = random_batch(8, SIZE)
  batch['depth'][:6] = 0  # valid pixels on the last of four devices only
  parallel = make_parallel('pmap', batch_size=8)
  network = make_network(('depth',), axis_name='batch')
  terms = task_terms({'depth': TASKS['depth']})
  balancer, tx = make_balancer('uniform'), optax.sgd(1.0)
  state = init_state(
    jax.random.key(0),
    network=network,
    image_size=SIZE,
    tx=tx,  # the update is minus the gradient
    init_balancer=balancer_init(balancer, terms),
  )
  step = functools.partial(
    train_step,
    network=network,
    terms=terms,
    balancer=balancer,
    tx=tx,
    seed=0,
    axis_name='batch',
  )
  before = jax.device_get(state.params)['head_depth']['out']['bias']
  compiled = parallel.compile_train_step(step)
  after, losses = compiled(parallel.replicate(state), {}, parallel.shard(batch))
  bias = jax.device_get(after.params)['head_depth']['out']['bias']
  output, _ = make_network(('depth',)).apply(
    state.variables, batch['image'], train=True, mutable=['batch_stats']
  )
  valid = batch['depth'] > 0
  error = np.float64(output.predictions['depth'] - batch['depth'])[valid]
  # Of equal terms, added one by one in float32.
  np.testing.assert_allclose(before - bias, [np.sign(error).mean()], atol=3e-5)
  np.testing.assert_allclose(losses['loss'], np.abs(error).mean(), rtol=1e-5)


# ---- Networks with other variables ------------------------------------------


@pytest.mark.parametrize('rule', ['uniform', 'mgda'])
def test_a_network_without_batch_norm_is_trained_and_evaluated(rule):
  network = make_network(TASKS, backbone=Bare())
  step, state = make_parts(network=network, balancer=make_balancer(rule))
  batch = random_batch(4, SIZE)
  step = jax.jit(step)
  assert state.collections == {}
  first, second = [], state
  for _ in range(6):
    second, losses = step(second, make_teachers(), batch)
    first.append(float(losses['loss']))
  assert first[-1] < first[0]
  assert second.collections == {} and set(second.variables) == {'params'}
  evaluate = functools.partial(eval_step, network=network, tasks=TASKS)
  statistics, _ = jax.jit(evaluate)(second.variables, batch)
  assert statistics['depth']['count'] > 0


class Raw(nn.Module):
  """A backbone without parameters: the heads see the image."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    return {'bottleneck': image, 'decoder': image}


@pytest.mark.parametrize('rule', ['uniform', 'mgda', 'modo'])
def test_heads_are_trained_on_a_backbone_without_parameters(rule):
  network = make_network(TASKS, backbone=Raw())
  step, state = make_parts(
    network=network, distill=False, balancer=make_balancer(rule)
  )
  batch = random_batch(4, SIZE)
  after, measured = jax.jit(step)(state, {}, batch)
  assert after.params.keys() == {f'head_{task}' for task in TASKS}
  assert np.isfinite(float(measured['loss']))
  for x, y in zip(
    *map(jax.tree.leaves, (state.params, after.params)), strict=True
  ):
    assert not np.array_equal(x, y)


def test_dropout_draws_anew_in_every_step_and_not_in_evaluation():
  network = make_network(TASKS, backbone=Bare(dropout=0.5))
  # Without learning, so that only the draws differ.
  step, begun = make_parts(network=network, distill=False, tx=optax.sgd(0.0))
  step, batch = jax.jit(step), random_batch(4, SIZE)
  losses, state = [], begun
  for _ in range(3):
    state, measured = step(state, {}, batch)
    losses.append(float(measured['loss']))
  assert len(set(losses)) == 3
  _, measured = step(begun, {}, batch)
  assert float(measured['loss']) == losses[0]  # the seed says it all
  evaluate = functools.partial(eval_step, network=network, tasks=TASKS)
  evaluate = jax.jit(evaluate)
  one, two = (evaluate(state.variables, batch)[1]['depth'] for _ in range(2))
  np.testing.assert_array_equal(one, two)


def test_every_device_drops_its_own():
  """On four devices with the same image, predictions differ."""

  def spread(output, teachers, batch, extras, *, axis_name=None):
    depth = output.predictions['depth']
    mean = jax.lax.pmean(depth, axis_name)
    return jnp.sum(jax.lax.pmean(depth**2, axis_name) - mean**2)

  for dropout in (0.0, 0.5):
    network = make_network(TASKS, backbone=Bare(dropout=dropout))
    term = LossTerm('spread/depth', spread, tasks=('depth',), weight=0.0)
    step, state = make_parts(
      network=network,
      distill=False,
      terms=(*task_terms(TASKS), term),
      axis_name='batch',
    )
    parallel = make_parallel('pmap', batch_size=4)
    image = random_batch(1, SIZE)
    batch = {name: np.repeat(x, 4, axis=0) for name, x in image.items()}
    step = parallel.compile_train_step(step)
    _, measured = step(state, {}, parallel.shard(batch))
    assert (float(measured['spread/depth']) > 1e-3) == (dropout > 0)


def test_teachers_draw_apart_from_each_other_and_on_every_device():
  """In mode 'batch', with dropout; two of one network and the same weights."""
  network = make_network(('depth',), backbone=Bare(dropout=0.5))
  teachers = {name: Teacher(network, 'batch') for name in 'ab'}
  image = np.repeat(random_batch(1, SIZE)['image'], 4, axis=0)
  variables = network.init(jax.random.key(0), image[:1], train=False)
  frozen = dict.fromkeys(teachers, variables)

  def outputs(image):
    seen = teacher_outputs(
      teachers, frozen, image, jax.random.key(1), axis_name='batch'
    )
    return {name: output.predictions['depth'] for name, output in seen.items()}

  seen = jax.pmap(outputs, 'batch')(image[:, None])
  draws = [seen[name][i] for name in seen for i in range(4)]
  for i, one in enumerate(draws):
    assert not any(np.allclose(one, other) for other in draws[:i])


def test_a_balancer_observes_a_step_through_the_dropout_of_that_step():
  """Or it would take the luck of a draw for what the step has done."""

  def init(names, gradients=None):
    return {'before': {n: jnp.zeros(()) for n in names}}

  def update(losses, state, key, *, present=None):
    return {n: jnp.ones(()) for n in losses}, {'before': losses}

  def observe(losses, state, *, present=None):
    return state | {'after': losses}

  network = make_network(TASKS, backbone=Bare(dropout=0.5))
  step, begun = make_parts(
    network=network,
    distill=False,
    balancer=Balancer(init, update, observe),
    tx=optax.sgd(0.0),  # the step does nothing
  )
  step, batch = jax.jit(step), random_batch(4, SIZE)
  state, _ = step(begun, {}, batch)
  later, _ = step(state, {}, batch)
  seen, other = state.balancer_state, later.balancer_state
  for name, loss in seen['before'].items():
    np.testing.assert_allclose(seen['after'][name], loss, rtol=1e-6)
    assert abs(other['before'][name] - loss) > 1e-4 * loss


class Shared(nn.Module):
  """A head-like part that counts how often it was called, in a collection."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    calls = self.variable('counts', 'calls', lambda: jnp.zeros((), jnp.int32))
    if train:
      calls.value += 1
    x = nn.Conv(8, (3, 3))(image)
    return {'bottleneck': x, 'decoder': nn.BatchNorm(not train)(x)}


def test_every_collection_is_kept_and_updated_once():
  network = make_network(TASKS, backbone=Shared())
  step, state = make_parts(network=network, distill=False)
  assert set(state.collections) == {'batch_stats', 'counts'}
  batch, step = random_batch(4, SIZE), jax.jit(step)
  for _ in range(2):
    state, _ = step(state, {}, batch)
  assert int(state.collections['counts']['backbone']['calls']) == 2
  mean = state.collections['batch_stats']['backbone']['BatchNorm_0']['mean']
  assert np.abs(mean).max() > 0


def test_the_parts_of_the_network_give_what_the_whole_gives(plain):
  """The step runs encoder and heads by themselves; here they run together."""
  _, batch, state, after, losses = plain
  network = make_network(TASKS)

  def loss(params):
    output, updated = network.apply(
      {'params': params, **state.collections},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    parts = [
      masked_mean(
        task.loss(output.predictions[t], batch[t]), task.valid(batch[t])
      )
      for t, task in TASKS.items()
    ]
    return sum(parts), updated

  (total, updated), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    state.params
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  close(losses['loss'], total)
  jax.tree.map(
    lambda a, b, g: close(b - a, -g), state.params, after.params, gradient
  )
  jax.tree.map(close, after.collections, dict(updated))
