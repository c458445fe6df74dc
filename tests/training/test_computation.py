"""Micro-batches, half precision, activations computed again: the same steps."""

import functools
import types

from fixtures.backbones import Bare
from fixtures.drawn import draw_variables
from fixtures.layers import random_variables
from fixtures.samples import random_batch
from fixtures.toy import (
  SIZE,
  TASKS,
  as_float64,
  in_float64,
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

from mtl_kd_jax import balancing, models
from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.training import computation
from mtl_kd_jax.training.computation import (
  Computation,
  make_computation,
  run_network,
)
from mtl_kd_jax.training.conflict import measure_conflict
from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm

PIECES = Computation(accumulate=4)
UNROLLED = Computation(accumulate=4, unrolled=True)
HALF = Computation(dtype=jnp.bfloat16)


def labeled_unevenly(seed):
  """A batch whose micro-batches have very different numbers of labels."""
  batch = as_float64(random_batch(8, SIZE, seed=seed))
  batch['depth'][[0, 1, 2, 4, 5, 6]] = 0
  batch['semantic'][3] = -1
  return batch


@pytest.mark.parametrize(
  'balancer, grad_wrt, gated, pieces',
  [
    ('gls', 'parameters', True, PIECES),  # weights follow the batch's losses
    ('mgda', 'parameters', False, UNROLLED),
    ('graddrop', 'features', False, PIECES),
  ],
)
def test_a_step_in_pieces_is_the_step(balancer, grad_wrt, gated, pieces):
  """Without BatchNorm, and in float64."""
  after = []
  with jax.enable_x64(True):
    for how in (Computation(), pieces):
      step, state = make_parts(
        network=make_network(backbone=Bare()),
        terms=make_terms(distill=True, gated=gated),
        balancer=make_balancer(balancer),
        grad_wrt=grad_wrt,
        tx=optax.adam(1e-2),
        computation=how,
      )
      begun = state = in_float64(state)
      step = jax.jit(step)
      for seed in range(2):
        state, losses = step(
          state, as_float64(make_teachers()), labeled_unevenly(seed)
        )
      after.append((learned(state, begun), losses))
  (whole, losses), (divided, same) = after
  assert np.linalg.norm(whole) > 1e-3
  np.testing.assert_allclose(divided, whole, rtol=1e-6, atol=1e-9)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-7),
    same,
    losses,
  )


class Norm(nn.Module):
  """BatchNorm alone."""

  @nn.compact
  def __call__(self, x):
    return BatchNorm(use_running_average=False, name='norm')(x)


def test_batch_norm_takes_one_micro_batch_after_another():
  norm = Norm()
  x = np.random.default_rng(0).normal(3, 2, (8, 2, 2, 5)).astype('float32')
  variables = norm.init(jax.random.key(0), x)

  def call(variables, x, key):
    del key
    return norm.apply(variables, x, mutable=['batch_stats'])

  outputs, collections = run_network(
    call, variables, x, jax.random.key(0), computation=PIECES
  )
  running, var = np.zeros(5), np.ones(5)
  for i in range(4):
    piece = x[i::4]
    mean, unbiased = piece.mean((0, 1, 2)), piece.var((0, 1, 2), ddof=1)
    running, var = 0.9 * running + 0.1 * mean, 0.9 * var + 0.1 * unbiased
    expected = (piece - mean) / np.sqrt(piece.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(outputs[i::4], expected, rtol=1e-5, atol=1e-5)
  statistics = collections['batch_stats']['norm']
  np.testing.assert_allclose(statistics['mean'], running, rtol=1e-5)
  np.testing.assert_allclose(statistics['var'], var, rtol=1e-5)


def test_every_micro_batch_draws_numbers_of_its_own():
  dropout = nn.Dropout(0.5, deterministic=False)

  def call(variables, x, key):
    del variables
    return dropout.apply({}, x, rngs={'dropout': key}), {}

  dropped, _ = run_network(
    call,
    {'params': {}},
    jnp.ones((8, 64)),
    jax.random.key(0),
    computation=PIECES,
  )
  assert len({tuple(row) for row in np.asarray(dropped[:4])}) == 4


def segnet_gradient(*, remat=False, how=None):
  """(Parameters, image) -> gradient of a backbone with memory to save."""
  network = models.make('segnet', {'depth': 1}, width=0.125)
  network = network.with_remat() if remat else network

  def call(variables, image, key):
    del key
    return network.apply(
      variables, image, train=True, mutable=['batch_stats'], method='encode'
    )

  def vjp(variables, image):
    def loss(params):
      features, _ = run_network(
        call,
        {**variables, 'params': params},
        image,
        jax.random.key(0),
        computation=how or Computation(),
      )
      return sum(jnp.sum(jnp.sin(x)) for x in features.values())

    return jax.vjp(loss, variables['params'])[1]

  image = jnp.asarray(random_batch(8, (64, 64), seed=0)['image'])
  variables = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False), image
  )
  return vjp, variables, image


def kept(vjp, variables, image):
  """Bytes that stay between the way forward and the way back."""
  return sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves(jax.eval_shape(vjp, variables, image))
  )


def test_pieces_and_computing_again_take_less_memory(shallow):
  """XLA's CPU backend undoes remat: what counts is what JAX would keep."""
  plain, variables, image = segnet_gradient()
  again, same, _ = segnet_gradient(remat=True)
  pieces, _, _ = segnet_gradient(how=PIECES)
  need = [kept(f, variables, image) for f in (plain, again, pieces)]
  assert need[1] < 0.5 * need[0] and need[2] < 0.5 * need[0]
  # A loop is one on every backend.
  compiled = [
    jax.jit(lambda *x, f=f: f(*x)(1.0)).lower(variables, image).compile()
    for f in (plain, pieces)
  ]
  one, other = (c.memory_analysis().temp_size_in_bytes for c in compiled)
  assert other < 0.5 * one

  assert jax.tree.structure(same) == jax.tree.structure(variables)
  drawn = random_variables(variables)
  expected, actual = (
    compiled[0](drawn, image),
    jax.jit(again)(drawn, image)(1.0),
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3),
    actual,
    expected,
  )


def test_networks_compute_in_half_precision_and_nothing_else_does():
  step, state = make_parts(computation=HALF, tx=optax.adam(1e-3))
  batch = random_batch(4, SIZE, seed=0)
  jaxpr = jax.make_jaxpr(step)(state, make_teachers(), batch)
  convolutions = [
    eqn
    for eqn in _equations(jaxpr.jaxpr)
    if eqn.primitive.name == 'conv_general_dilated'
  ]
  assert len(convolutions) > 8
  assert {v.aval.dtype for eqn in convolutions for v in eqn.invars} == {
    jnp.dtype(jnp.bfloat16)
  }
  after, losses = jax.eval_shape(step, state, make_teachers(), batch)
  floats = [
    x.dtype
    for x in jax.tree.leaves((after, losses))
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  assert set(floats) == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize('head', [*models.HEADS, *models.IMAGE_HEADS])
def test_every_head_computes_in_half_precision(head, shallow):
  """Only traced."""
  task = types.SimpleNamespace(
    channels=4, of_image=head in models.IMAGE_HEADS, head=head
  )
  backbone = 'segnet' if head == 'dense' else 'resnet10'

  def total(output, teachers, batch, extras, *, axis_name):
    return jnp.sum(output.predictions['depth'])

  step, state = make_parts(
    network=models.make(backbone, {'depth': task}, width=1 / 16),
    terms=(LossTerm('loss/depth', total, ('depth',), 'depth'),),
    tasks=('depth',),
    distill=False,
    computation=HALF,
  )
  jaxpr = jax.make_jaxpr(step)(state, {}, random_batch(8, SIZE, seed=0))
  products = [
    eqn
    for eqn in _equations(jaxpr.jaxpr)
    if eqn.primitive.name in ('conv_general_dilated', 'dot_general', 'convolve')
  ]
  assert len(products) > 10
  assert {v.aval.dtype for eqn in products for v in eqn.invars} == {
    jnp.dtype(jnp.bfloat16)
  }
  floats = {
    x.dtype for x in jaxpr.out_avals if jnp.issubdtype(x.dtype, jnp.floating)
  }
  assert floats == {jnp.dtype(jnp.float32)}


def test_terms_read_predictions_in_float32():
  """Of the student, of a frozen teacher and of a live one."""
  read = []

  def total(output, teachers, batch, extras, *, axis_name):
    given = (output, teachers['depth'], teachers['live'])
    read.extend(x.predictions['depth'].dtype for x in given)
    return sum(jnp.mean(x.predictions['depth']) for x in given)

  live = make_network(('depth',))
  step, state = make_parts(
    tasks=('depth',),
    terms=(LossTerm('loss/depth', total, ('depth',), 'depth'),),
    extras={
      'live': ExtraNetwork(
        lambda key, output: draw_variables(live, SIZE, 1),
        optax.sgd(1e-1),
        lambda variables, image, *, key: live.apply(
          variables, image, train=True, mutable=['batch_stats']
        ),
      )
    },
    computation=HALF,
  )
  batch = random_batch(4, SIZE, seed=0)
  jax.eval_shape(step, state, make_teachers(), batch)
  assert len(read) == 3 and set(read) == {jnp.dtype(jnp.float32)}


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        if hasattr(inner, 'jaxpr'):
          inner = inner.jaxpr
        if hasattr(inner, 'eqns'):
          yield from _equations(inner)


def test_half_precision_gives_nearly_the_gradient():
  directions = []
  for how in (Computation(), HALF):
    step, state = make_parts(computation=how)
    after, losses = jax.jit(step)(
      state, make_teachers(), random_batch(8, SIZE, seed=0)
    )
    directions.append(learned(after, state))
  one, other = directions
  cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
  assert 0.99 < cosine < 1 - 1e-9
  assert np.isfinite(losses['loss'])


# One rule of each kind that the step tells apart; that all of them keep the
# dtype of what they combine is a part of their contract.
@pytest.mark.parametrize(
  'name', ('mgda', 'graddrop', 'moco', 'sdmgrad', 'auto_lambda')
)
def test_gradients_are_combined_in_half_precision_and_in_pieces(name):
  """Only traced."""
  balancer = make_balancer(name, **_needed(name))
  how = Computation(jnp.bfloat16, accumulate=2)
  for grad_wrt in ('parameters', 'features'):
    able = balancer.on_parameters, balancer.on_features
    if not able[grad_wrt == 'features']:
      continue
    step, state = make_parts(
      balancer=balancer, grad_wrt=grad_wrt, computation=how
    )
    after, _ = jax.eval_shape(
      step, state, make_teachers(), random_batch(12, SIZE, seed=0)
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
      lambda x: (x.shape, x.dtype), state
    )


def _needed(name):
  known = balancing.options(name)
  return {'steps_per_epoch': 3} if 'steps_per_epoch' in known else {}


def test_conflict_is_measured_as_the_step_computes():
  step, state = make_parts()
  batch = random_batch(8, SIZE, seed=0)
  given = {
    k: step.keywords[k] for k in ('network', 'terms', 'teachers', 'extras')
  }
  seen = [
    jax.jit(
      functools.partial(measure_conflict, seed=0, computation=how, **given)
    )(state, make_teachers(), batch)
    for how in (Computation(), HALF)
  ]
  for name, value in seen[0].items():
    np.testing.assert_allclose(seen[1][name], value, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
  'precision, accumulate, message',
  [
    ('float16', 1, 'bfloat16'),
    ('bfloat16', 3, 'a divisor of 8'),
    ('float32', 0, 'a divisor of 8'),
    ('float32', 16, 'a divisor of 8'),
  ],
)
def test_what_cannot_be_computed_so_is_refused(precision, accumulate, message):
  with pytest.raises(InputError, match=message):
    make_computation(precision, accumulate, device_batch=8)


@pytest.mark.parametrize(
  'platform, capability, refused',
  [('gpu', '7.5', True), ('gpu', '9.0', False), ('gpu', 'gfx90a', False)],
)
def test_a_device_without_bfloat16_is_named(
  monkeypatch, platform, capability, refused
):
  class Device:
    device_kind = 'a card'

  Device.platform, Device.compute_capability = platform, capability
  monkeypatch.setattr(computation.jax, 'devices', lambda: [Device()])
  if refused:
    with pytest.raises(InputError, match=r'a card, of 7\.5'):
      make_computation('bfloat16', 1, device_batch=8)
  else:
    make_computation('bfloat16', 1, device_batch=8)
  make_computation('float32', 1, device_batch=8)


def test_a_backbone_that_cannot_compute_again_says_so():
  with pytest.raises(InputError, match='remat'):
    make_network(TASKS).with_remat()
