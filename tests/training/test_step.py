"""The one training step: what it computes, and that devices do not matter."""

import functools

from fixtures.backbones import Bare
from fixtures.samples import random_batch
from fixtures.toy import (
  LAMBDAS,
  SIZE,
  TASKS,
  layouts,
  make_network,
  make_parts,
  make_teachers,
)
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.models.segnet import SegNet
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.tasks.base import masked_mean
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import task_terms
from mtl_kd_jax.training.state import init_state
from mtl_kd_jax.training.step import eval_step, train_step


@pytest.mark.parametrize('batch_norm', ['running', 'batch'])
def test_ten_steps_agree_on_one_device_sharded_and_under_pmap(batch_norm):
  assert jax.device_count() == 4
  results = {}
  for name, parallel, axis_name in layouts():
    step, state = make_parts(
      distill=True,
      axis_name=axis_name,
      batch_norm=batch_norm,
      # Adam would blow the rounding noise of vanishing gradients, such as
      # those of biases in front of BatchNorm, up to whole steps.
      tx=optax.sgd(1e-3),
      extra_tx=optax.sgd(1e-2),
    )
    teachers = make_teachers()
    compiled = jax.jit(step)
    if parallel:
      compiled = parallel.compile_train_step(step)
      state, teachers = parallel.replicate((state, teachers))
    history = []
    for i in range(10):
      batch = random_batch(8, SIZE, seed=i)
      # A task without any label on some devices, and one on most.
      batch['depth'][:5] = 0
      batch['normals'][2:] = 0
      state, losses = compiled(
        state, teachers, parallel.shard(batch) if parallel else batch
      )
      moved = (losses, state.params, state.extras)
      history.append(jax.device_get(moved))
    results[name] = jax.device_get((history[0], (history[-1], state)))
  reference = results.pop('one device')
  for name, result in results.items():
    # Sums in another order differ in their last bits, and ten steps through
    # ReLUs and unit features make more of it.
    for when, rtol, atol in ((0, 1e-4, 1e-5), (1, 1e-2, 5e-3)):
      jax.tree.map(
        functools.partial(
          np.testing.assert_allclose, rtol=rtol, atol=atol, err_msg=name
        ),
        result[when],
        reference[when],
      )


def test_segnet_has_the_same_gradient_in_every_layout():
  """In float64, since 26 layers make much of a rounded last bit."""
  with jax.enable_x64(True):
    images = jax.random.uniform(jax.random.key(1), (8, *SIZE, 3), jnp.float64)
    gradients = {}
    for name, parallel, axis_name in layouts():
      network = SegNet(0.03125, axis_name)
      variables = network.init(
        jax.random.key(0), images[:1], tasks=(), train=False
      )
      variables = jax.tree.map(jnp.float64, variables)

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

      if parallel:
        batch = parallel.shard({'image': np.asarray(images)})
        compiled = parallel.compile_train_step(step)
        variables = parallel.replicate(variables)
      else:
        batch, compiled = {'image': images}, jax.jit(step)
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


def test_the_loss_is_the_sum_of_its_parts():
  step, state = make_parts(distill=True)
  _, losses = jax.jit(step)(state, make_teachers(), random_batch(4, SIZE))
  total = sum(losses[f'loss/{t}'] for t in TASKS) + sum(
    LAMBDAS[t] * losses[f'alignment/{t}'] for t in TASKS
  )
  np.testing.assert_allclose(losses['loss'], total, rtol=1e-6)
  assert all(0 < losses[f'alignment/{t}'] <= 8 for t in TASKS)


def test_without_teachers_there_is_no_alignment_and_there_are_no_adaptors():
  step, state = make_parts(distill=False)
  after, losses = jax.jit(step)(state, {}, random_batch(4, SIZE))
  assert not [name for name in losses if name.startswith('alignment')]
  assert after.extras == {}
  assert int(after.step) == 1


@pytest.mark.parametrize('batch_norm', ['running', 'batch'])
def test_teachers_stay_as_they_are_bit_for_bit(batch_norm):
  parallel = make_parallel('jit', batch_size=8)
  step, state = make_parts(distill=True, batch_norm=batch_norm)
  teachers = make_teachers()
  before = jax.device_get(teachers)
  compiled = parallel.compile_train_step(step)
  state, teachers = parallel.replicate((state, teachers))
  for i in range(5):
    batch = parallel.shard(random_batch(8, SIZE, seed=i))
    state, _ = compiled(state, teachers, batch)
  same = jax.tree.map(lambda a, b: (a == b).all(), before, teachers)
  assert all(jax.tree.leaves(same))


def test_a_student_without_its_adaptors_is_a_plain_network():
  _, state = make_parts(distill=True)
  _, plain = make_parts(distill=False)
  shape = functools.partial(jax.tree.map, jnp.shape)
  assert shape(state.variables) == shape(plain.variables)
  # And begins as the baseline does: the comparison is between the methods.
  same = jax.tree.map(
    lambda a, b: (a == b).all(), state.variables, plain.variables
  )
  assert all(jax.tree.leaves(same))


def test_a_missing_task_does_not_touch_the_update():
  """Depth labels all missing: the same step as without the depth task."""
  batch = random_batch(4, SIZE)
  batch['depth'][:] = 0
  step, state = make_parts(distill=False)
  after, losses = jax.jit(step)(state, {}, batch)
  assert losses['loss/depth'] == 0
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after))
  head, head_after = (s.params['head_depth'] for s in (state, after))
  assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, head, head_after)))


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
  # 1829 equal terms, added one by one in float32, are 1.02e-5 off.
  np.testing.assert_allclose(before - bias, [np.sign(error).mean()], atol=3e-5)
  np.testing.assert_allclose(losses['loss'], np.abs(error).mean(), rtol=1e-5)


def test_evaluation_is_the_same_in_every_layout():
  network = make_network(TASKS)
  batch = random_batch(8, SIZE)
  variables = network.init(jax.random.key(0), batch['image'], train=False)
  results = []
  for mode in ('jit', 'pmap'):
    parallel = make_parallel(mode, batch_size=8)
    step = functools.partial(
      eval_step, network=network, tasks=TASKS, axis_name=parallel.axis_name
    )
    statistics, predictions = parallel.compile_eval_step(step)(
      parallel.replicate(variables), parallel.shard(batch)
    )
    results.append((jax.device_get(statistics), parallel.local(predictions)))
  (first, p), (second, q) = results
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4), first, second
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), p, q
  )
  assert p['depth'].shape == (8, *SIZE, 1)


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
  statistics, _ = eval_step(
    second.variables, batch, network=network, tasks=TASKS
  )
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
  step, state = make_parts(network=network, distill=False, tx=optax.sgd(0.0))
  step, batch = jax.jit(step), random_batch(4, SIZE)
  losses = []
  for _ in range(3):
    state, measured = step(state, {}, batch)
    losses.append(float(measured['loss']))
  assert len(set(losses)) == 3
  again, _ = make_parts(network=network, distill=False, tx=optax.sgd(0.0))
  _, fresh = make_parts(network=network, distill=False, tx=optax.sgd(0.0))
  _, measured = jax.jit(again)(fresh, {}, batch)
  assert float(measured['loss']) == losses[0]  # the seed says it all
  evaluate = functools.partial(eval_step, network=network, tasks=TASKS)
  one, two = (evaluate(state.variables, batch)[1]['depth'] for _ in range(2))
  np.testing.assert_array_equal(one, two)


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


def test_the_parts_of_the_network_give_what_the_whole_gives():
  """The step runs encoder and heads by themselves; here they run together."""
  step, state = make_parts(distill=False, tx=optax.sgd(1.0))
  batch = random_batch(4, SIZE)
  after, losses = jax.jit(step)(state, {}, batch)
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
