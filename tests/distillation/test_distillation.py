"""The alignment loss in NumPy, and how teachers are asked."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.distillation.adaptors import Adaptors, Pair
from mtl_kd_jax.distillation.alignment import (
  Distillation,
  alignment_loss,
  make_adaptors,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.ops.resize import resize_bilinear

SHAPE = (2, 3, 4, 5)
EPS = 1e-6  # as the reference has it
BN_EPS = 1e-5
TEACHERS = {'depth': 1, 'normals': 3}
# The names differ so that mixing them up is found out.
PAIRS = (Pair('bottleneck', 'deep'), Pair('decoder', 'decoder'))


def draw(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def alignment_by_numpy(a, b):
  def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + EPS)

  return ((unit(a) - unit(b)) ** 2).sum(-1).mean()


# ---- The loss ---------------------------------------------------------------


# At 1e-3 eps is a fifth of the squared norm, at 1e-6 nearly all of it.
@pytest.mark.parametrize('scale', [1e-6, 1e-3, 1, 1e3])
def test_alignment_is_that_of_numpy(scale):
  a, b = draw(*SHAPE, scale=scale), draw(*SHAPE, seed=1, scale=scale)
  loss = alignment_loss(a, b)
  assert loss.shape == ()
  np.testing.assert_allclose(loss, alignment_by_numpy(a, b), rtol=1e-5)


def test_alignment_is_computed_in_float32():
  a, b = draw(*SHAPE), draw(*SHAPE, seed=1)
  a, b = jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)
  loss = alignment_loss(a, b)
  assert loss.dtype == jnp.float32
  expected = alignment_by_numpy(a.astype(jnp.float32), b.astype(jnp.float32))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_alignment_lies_between_0_and_4():
  a = draw(*SHAPE)
  # The lengths differ from pixel to pixel, and only directions count.
  lengths = np.exp(draw(*SHAPE[:3], 1, seed=1))
  assert alignment_loss(a, 100 * lengths * a) == pytest.approx(0, abs=1e-5)
  assert alignment_loss(a, -100 * lengths * a) == pytest.approx(4, abs=1e-4)
  assert 0 < alignment_loss(a, draw(*SHAPE, seed=2)) < 4


def test_alignment_of_orthogonal_features_is_2():
  a = np.zeros(SHAPE, np.float32)
  b = a.copy()
  a[..., 0], b[..., 1] = 3, -7
  assert alignment_loss(a, b) == pytest.approx(2, abs=1e-5)


def test_alignment_of_zero_features_has_finite_gradients():
  zero = np.zeros(SHAPE, np.float32)
  b = draw(*SHAPE)
  value, gradient = jax.jit(jax.value_and_grad(alignment_loss))(zero, b)
  assert value == pytest.approx(1, abs=1e-5)
  assert jnp.isfinite(gradient).all()
  assert gradient.any()


def test_a_student_of_another_size_is_resized_to_the_teacher():
  a, b = draw(2, 2, 3, 5), draw(2, 6, 5, 5, seed=1)
  resized = np.asarray(resize_bilinear(a, (6, 5)))
  np.testing.assert_allclose(
    alignment_loss(a, b), alignment_by_numpy(resized, b), rtol=1e-5
  )


def test_epsilon_stands_under_the_root():
  a, b = draw(*SHAPE), draw(*SHAPE, seed=1)
  halved = alignment_loss(a / 2, b / 2, epsilon=1.0)
  np.testing.assert_allclose(
    halved, alignment_loss(a, b, epsilon=4.0), rtol=1e-5
  )


# ---- Asking teachers --------------------------------------------------------


class Backbone(nn.Module):
  """Two taps, each a dense layer and BatchNorm: easily done in NumPy."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, epsilon=BN_EPS
    )
    return {
      'deep': norm(name='deep_norm')(nn.Dense(4, name='deep')(image)),
      'decoder': norm(name='decoder_norm')(nn.Dense(6, name='decoder')(image)),
    }


def make_distillation(**options):
  teachers = {t: Network(Backbone(), {t: c}) for t, c in TEACHERS.items()}
  channels = dict(zip(PAIRS, (4, 6), strict=True))
  adaptors = Adaptors(dict.fromkeys(TEACHERS, channels))
  weights = {'depth': 1.0, 'normals': 2.0}
  return Distillation(teachers, adaptors, weights, **options)


def make_variables(distillation):
  """Teachers whose every number is its own, also the running statistics."""
  image = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
  rng = np.random.default_rng(0)
  variables = {}
  for task, network in distillation.teachers.items():
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), image)
    # Above 0, as variances have to be.
    variables[task] = jax.tree.map(
      lambda s: rng.uniform(0.5, 2, s.shape).astype(np.float32), shapes
    )
  return variables


def features_by_numpy(variables, image, mode):
  params, statistics = (
    jax.tree.map(lambda x: np.asarray(x, np.float64), variables[k]['backbone'])
    for k in ('params', 'batch_stats')
  )
  features = {}
  for tap in ('deep', 'decoder'):
    x = image.astype(np.float64) @ params[tap]['kernel'] + params[tap]['bias']
    used = statistics[f'{tap}_norm']
    if mode == 'batch':
      used = {'mean': x.mean((0, 1, 2)), 'var': x.var((0, 1, 2))}
    x = (x - used['mean']) / np.sqrt(used['var'] + BN_EPS)
    norm = params[f'{tap}_norm']
    features[tap] = x * norm['scale'] + norm['bias']
  return features


def make_image():
  return np.random.default_rng(1).random((2, 4, 4, 3)).astype(np.float32)


@pytest.mark.parametrize('mode', ['running', 'batch'])
def test_teachers_are_asked_with_the_statistics_of_the_mode(mode):
  distillation = make_distillation(batch_norm=mode)
  variables, image = make_variables(distillation), make_image()
  before = jax.tree.map(np.copy, variables)
  # Not compiled: a compiled function could not change its arguments anyway.
  features = distillation.ask(variables, image)
  assert features.keys() == TEACHERS.keys()
  for task, taps in features.items():
    expected = features_by_numpy(variables[task], image, mode)
    assert taps.keys() == expected.keys()
    for tap, x in taps.items():
      np.testing.assert_allclose(x, expected[tap], rtol=1e-3, atol=1e-3)
  jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_the_modes_differ_and_running_is_the_default():
  modes = [{'batch_norm': 'running'}, {'batch_norm': 'batch'}, {}]
  image = make_image()
  running, batch, default = (
    jax.jit(d.ask)(make_variables(d), image)['depth']['decoder']
    for d in (make_distillation(**options) for options in modes)
  )
  assert abs(running - batch).min() > 1e-3
  np.testing.assert_array_equal(running, default)


def make_student():
  return {
    'bottleneck': draw(2, 4, 4, 3, seed=2),
    'decoder': draw(2, 4, 4, 2, seed=3),
  }


def make_adaptor_params(distillation):
  init = distillation.adaptors.init
  return init(jax.random.key(0), make_student())['params']


@pytest.mark.parametrize('mode', ['running', 'batch'])
def test_no_gradient_reaches_a_teacher_but_it_does_reach_the_student(mode):
  distillation = make_distillation(batch_norm=mode)
  image = make_image()

  def total(variables, adaptor_params, student):
    asked = distillation.ask(variables, image)
    return sum(distillation.losses(adaptor_params, student, asked).values())

  gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
  of_teachers, of_adaptors, of_student = gradients(
    make_variables(distillation),
    make_adaptor_params(distillation),
    make_student(),
  )
  assert not any(x.any() for x in jax.tree.leaves(of_teachers))
  assert all(x.any() for x in jax.tree.leaves((of_adaptors, of_student)))


def test_losses_sum_over_taps_and_carry_no_weight():
  distillation = make_distillation()
  student = make_student()
  params = make_adaptor_params(distillation)
  ask, measure = jax.jit(distillation.ask), jax.jit(distillation.losses)
  asked = ask(make_variables(distillation), make_image())
  losses = measure(params, student, asked)
  assert losses.keys() == TEACHERS.keys()
  for task, loss in losses.items():
    expected = 0
    for pair in PAIRS:
      kernel = np.asarray(params[f'{task}_{pair}']['kernel'], np.float64)
      adapted = student[pair.student] @ kernel
      expected += alignment_by_numpy(adapted, asked[task][pair.teacher])
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
  assert abs(losses['depth'] - losses['normals']) > 1e-3


def test_an_unknown_batch_norm_mode_is_refused_with_advice():
  with pytest.raises(InputError) as error:
    make_distillation(batch_norm='train')
  assert 'train' in error.value.found
  assert 'running' in error.value.expected
  assert error.value.where == 'config.teacher.batch_norm'


# ---- Which tap meets which ---------------------------------------------------

STUDENT = {
  'bottleneck': (1, 2, 3, 16),
  'decoder': (1, 64, 96, 8),
  'own/depth': (1, 16, 24, 4),
}
TEACHER = {
  'layer4': (1, 8, 12, 32),
  'odd': (1, 9, 12, 7),
  'turned': (1, 12, 8, 7),
  'pooled': (1, 7),
}


def test_adaptors_take_their_channels_from_the_teachers_taps():
  adaptors = make_adaptors(
    ('bottleneck:layer4', 'decoder : layer4', 'decoder:odd'),
    STUDENT,
    {'depth': TEACHER, 'normals': TEACHER | {'layer4/normals': (1, 8, 12, 5)}},
  )
  pairs = [
    Pair('bottleneck', 'layer4'),
    Pair('decoder', 'layer4'),
    Pair('decoder', 'odd'),
  ]
  assert adaptors.channels == {
    'depth': dict(zip(pairs, (32, 32, 7), strict=True)),
    'normals': dict(zip(pairs, (5, 5, 7), strict=True)),
  }


def test_a_name_alone_is_a_tap_of_both():
  adaptors = make_adaptors(('decoder',), STUDENT, {'depth': STUDENT})
  assert adaptors.channels == {'depth': {Pair('decoder', 'decoder'): 8}}


@pytest.mark.parametrize(
  'taps, found, expected',
  [
    (('neck:layer4',), "'neck'", 'bottleneck [b 2 3 16]'),
    (('decoder:neck',), "'neck'", 'layer4 [b 8 12 32]'),
    (('decoder',), "'decoder'", "the teacher's of depth"),
    (
      ('decoder:turned',),
      'decoder [b 64 96 8] of the student and turned [b 12 8 7] of the teacher',
      'the same image',
    ),
    (('decoder:pooled',), 'pooled [b 7]', 'the same image'),
    (('decoder:odd', 'decoder: odd'), 'decoder', 'different pairs'),
  ],
  ids=str,
)
def test_an_impossible_pair_is_refused_with_the_shapes(taps, found, expected):
  with pytest.raises(InputError) as error:
    make_adaptors(taps, STUDENT, {'depth': TEACHER})
  assert found in error.value.found
  assert expected in error.value.expected
  assert error.value.where == 'config.distill.taps'


def test_a_tap_that_only_one_task_has_cannot_meet_the_others_teachers():
  taps, teachers = ('own:layer4',), {'depth': TEACHER, 'normals': TEACHER}
  assert make_adaptors(taps, STUDENT, {'depth': TEACHER})
  with pytest.raises(InputError, match="the student's"):
    make_adaptors(taps, STUDENT, teachers)
