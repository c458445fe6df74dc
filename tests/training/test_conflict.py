"""Measured norms and cosines, against gradients taken another way."""

import functools

from fixtures import toy as plain
from fixtures.backbones import Bare
from fixtures.samples import random_batch
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.distillation import Adaptors, Alignment, Pair, make_loss
from mtl_kd_jax.models.features import task_tap
from mtl_kd_jax.training.conflict import measure_conflict
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import (
  ADAPTORS,
  ExtraNetwork,
  alignment_terms,
  task_terms,
)
from mtl_kd_jax.training.state import init_state
from mtl_kd_jax.training.step import teacher_outputs


class Shifted(nn.Module):
  """Adds a parameter to every shared feature: its gradient is the feature's."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    features = plain.Tiny(name='tiny')(image, tasks=tasks, train=train)
    return {
      tap: x + self.param(f'shift_{tap}', nn.initializers.zeros, x.shape)
      for tap, x in features.items()
    }


class Own(nn.Module):
  """Every task has a decoder feature of its own."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, *, tasks, train):
    tiny = plain.Tiny(axis_name=self.axis_name, name='tiny')
    features = tiny(image, tasks=tasks, train=train)
    return {
      task_tap('decoder', t): (i + 1) * features['decoder']
      for i, t in enumerate(tasks)
    }


NETWORKS = {'shared': (Shifted(), 'bottleneck'), 'own': (Own(), 'decoder')}


def make_parts(backbone, tap):
  """What `measure_conflict` is given by keyword, and a state."""
  network = plain.make_network(plain.ALL_TASKS, backbone=backbone)
  pair = {Pair(tap, tap): plain.CHANNELS[tap]}
  adaptors = Adaptors({t: Alignment(t, t, pair) for t in plain.ALL_TASKS})
  loss = make_loss('feature_l2')
  terms = task_terms(plain.ALL_TASKS)
  terms += alignment_terms(adaptors, plain.LAMBDAS, loss)
  extras = {
    ADAPTORS: ExtraNetwork(
      lambda key, output: adaptors.init(key, output.features), optax.sgd(1e-2)
    )
  }
  state = init_state(
    jax.random.key(0),
    network=network,
    image_size=plain.SIZE,
    tx=optax.sgd(1e-2),
    extras=extras,
    init_balancer=balancer_init(make_balancer('uniform'), terms),
  )
  parts = {
    'network': network,
    'terms': terms,
    'extras': extras,
    'teachers': plain.make_teacher_networks(tasks=plain.ALL_TASKS),
  }
  return parts, state


def gradients(parts, state, frozen, batch):
  """name -> flat gradient with respect to what is measured, by jax.jacrev."""
  outputs = teacher_outputs(parts['teachers'], frozen, batch['image'])

  def losses(params):
    output, _ = parts['network'].apply(
      {'params': params, **state.collections},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    return {
      term.name.removeprefix('loss/'): term.weight
      * term.fn(output, outputs, batch, state.extras)
      for term in parts['terms']
    }

  def flat(tree):
    shifts = {k: v for k, v in tree.items() if k.startswith('shift_')}
    leaves = jax.tree.leaves(shifts or tree)
    return np.concatenate([np.ravel(x) for x in leaves]).astype(np.float64)

  return {
    name: flat(gradient['backbone'])
    for name, gradient in jax.jit(jax.jacrev(losses))(state.params).items()
  }


@pytest.mark.parametrize('network', NETWORKS)
def test_norms_and_cosines_are_those_of_the_gradients(network):
  parts, state = make_parts(*NETWORKS[network])
  teachers = plain.make_teachers()
  batch = random_batch(1, plain.SIZE)
  batch['normals'][:] = 0  # no label at all
  seen = jax.jit(functools.partial(measure_conflict, seed=0, **parts))(
    state, teachers, batch
  )
  expected = gradients(parts, state, teachers, batch)
  norms = {n: np.linalg.norm(g) for n, g in expected.items()}
  assert norms['normals'] == 0 < norms['alignment/normals']
  pairs = 0
  for name, value in seen.items():
    kind, _, names = name.partition('/')
    if kind == 'norm':
      np.testing.assert_allclose(value, norms[names], rtol=1e-4, atol=1e-9)
    elif kind == 'cosine':
      one, _, other = names.partition('/')
      product = expected[one] @ expected[other]
      scale = norms[one] * norms[other]
      cosine = product / scale if scale else 0
      np.testing.assert_allclose(value, cosine, rtol=1e-3, atol=1e-5)
      pairs += 1
  assert pairs == 6  # three of tasks, three of a task and its alignment
  assert seen['labeled/normals'] == 0 and seen['labeled/depth'] == 1


@pytest.mark.parametrize(
  ('backbone', 'tap'), [(plain.Tiny, 'bottleneck'), (Own, 'decoder')]
)
def test_what_is_measured_does_not_depend_on_the_layout(backbone, tap):
  results = {}
  batch = random_batch(8, plain.SIZE)
  batch['depth'][:5] = 0
  for name, parallel, axis_name in plain.layouts():
    if name == 'jit' and backbone is Own:
      continue  # the compiler splits what it is given
    parts, state = make_parts(backbone(axis_name=axis_name), tap)
    measure = functools.partial(
      measure_conflict, seed=0, axis_name=axis_name, **parts
    )
    teachers = plain.make_teachers()
    compiled = jax.jit(measure)
    if parallel:
      compiled = parallel.compile_measurement(measure)
      state, teachers = parallel.replicate((state, teachers))
    results[name] = jax.device_get(
      compiled(state, teachers, parallel.shard(batch) if parallel else batch)
    )
  reference = results.pop('one device')
  assert results
  for result in results.values():
    assert result.keys() == reference.keys()
    for name, value in result.items():
      np.testing.assert_allclose(
        value, reference[name], rtol=1e-3, atol=1e-5, err_msg=name
      )


def test_a_network_with_dropout_is_measured_by_the_draw_of_the_step():
  parts, state = make_parts(Bare(dropout=0.5), 'bottleneck')
  measure = jax.jit(functools.partial(measure_conflict, seed=0, **parts))
  teachers, batch = plain.make_teachers(), random_batch(2, plain.SIZE)
  one, again = (measure(state, teachers, batch) for _ in range(2))
  later = measure(state.replace(step=state.step + 1), teachers, batch)
  assert all(np.isfinite(x) for x in one.values())
  for name in ('norm/semantic', 'norm/alignment/depth'):
    assert 0 < one[name] == again[name] != later[name]
