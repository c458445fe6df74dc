"""The one training step: what it computes, and that devices do not matter."""

import functools

from fixtures.samples import random_batch
from fixtures.toy import (
  SIZE,
  TASKS,
  layouts,
  make_network,
  make_parts,
  make_teachers,
)
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.models.segnet import SegNet
from mtl_kd_jax.runtime.parallel import make_parallel
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
      optimizer=optax.sgd,
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
      history.append(jax.device_get((losses, state.params)))
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
  weights = {'semantic': 1.0, 'depth': 0.5, 'normals': 2.0}
  total = sum(losses[f'loss/{t}'] for t in TASKS) + sum(
    weights[t] * losses[f'alignment/{t}'] for t in TASKS
  )
  np.testing.assert_allclose(losses['loss'], total, rtol=1e-6)
  assert all(0 < losses[f'alignment/{t}'] <= 8 for t in TASKS)


def test_without_teachers_there_is_no_alignment_and_there_are_no_adaptors():
  step, state = make_parts(distill=False)
  after, losses = jax.jit(step)(state, {}, random_batch(4, SIZE))
  assert not [name for name in losses if name.startswith('alignment')]
  assert 'adaptors' not in after.params
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
  parts = {
    'network': network,
    'balancer': make_balancer('uniform'),
    'tx': optax.sgd(1.0),  # the update is minus the gradient
  }
  state = init_state(jax.random.key(0), image_size=SIZE, **parts)
  step = functools.partial(
    train_step,
    tasks={'depth': TASKS['depth']},
    seed=0,
    axis_name='batch',
    **parts,
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
