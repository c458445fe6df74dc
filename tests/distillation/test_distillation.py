"""The alignment loss in NumPy, and how teachers are asked."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.distillation import (
  LOSSES,
  Adaptors,
  Alignment,
  Pair,
  Teacher,
  loss_options,
  make_adaptors,
  make_loss,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.network import Network, Output
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.training.loss_terms import ADAPTORS, alignment_terms
from mtl_kd_jax.training.step import teacher_outputs

SHAPE = (2, 3, 4, 5)
EPS = 1e-6  # as the reference has it
BN_EPS = 1e-5
TEACHERS = {'depth': 1, 'normals': 3}
# The names differ so that mixing them up is found out.
PAIRS = (Pair('bottleneck', 'deep'), Pair('decoder', 'decoder'))


def draw(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


alignment_loss = make_loss('feature_l2')


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
  halved = make_loss('feature_l2', epsilon=1.0)(a / 2, b / 2)
  np.testing.assert_allclose(
    halved, make_loss('feature_l2', epsilon=4.0)(a, b), rtol=1e-5
  )


def test_only_pixels_of_the_mask_count():
  a, b = draw(*SHAPE), draw(*SHAPE, seed=1)
  mask = np.zeros(SHAPE[:3], bool)
  mask[0, :2] = True
  expected = alignment_by_numpy(a[0, :2], b[0, :2])
  np.testing.assert_allclose(alignment_loss(a, b, mask), expected, rtol=1e-5)
  assert alignment_loss(a, b, np.zeros_like(mask)) == 0


@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_is_a_scalar_that_pulls_the_student_toward_the_teacher(name):
  """Of every loss of the registry, made with its defaults."""
  loss = make_loss(name, **loss_options(name))
  a, b = draw(*SHAPE), draw(*SHAPE, seed=1)
  value, gradient = jax.jit(jax.value_and_grad(loss))(a, b)
  assert value.shape == () and value.dtype == jnp.float32
  assert jnp.isfinite(gradient).all() and gradient.any()
  step = 0.1 / jnp.abs(gradient).max()
  assert loss(a - step * gradient, b) < value
  assert loss(b, b) < value


@pytest.mark.parametrize(
  'name, options, argument',
  [
    ('magic', {}, 'loss'),
    ('feature_l2', {'margin': 1.0}, 'margin'),
    ('feature_l2', {'epsilon': 0.0}, 'epsilon'),
  ],
)
def test_a_loss_that_cannot_be_is_refused(name, options, argument):
  with pytest.raises(InputError) as error:
    make_loss(name, **options)
  assert error.value.argument == argument


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


def make_teacher(task, **options):
  return Teacher(
    Network(Backbone(), {task: TEACHERS[task]}, DenseHead), **options
  )


def make_terms():
  channels = dict(zip(PAIRS, (4, 6), strict=True))
  adaptors = Adaptors({t: Alignment(t, t, channels) for t in TEACHERS})
  weights = {'depth': 1.0, 'normals': 2.0}
  return adaptors, alignment_terms(adaptors, weights, alignment_loss)


def make_variables():
  """Teachers whose every number is its own, also the running statistics."""
  image = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
  rng = np.random.default_rng(0)
  variables = {}
  for task in TEACHERS:
    init = functools.partial(make_teacher(task).network.init, train=False)
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
def test_teachers_normalize_with_the_statistics_of_the_mode(mode):
  variables, image = make_variables(), make_image()
  before = jax.tree.map(np.copy, variables)
  for task in TEACHERS:
    teacher = make_teacher(task, batch_norm=mode)
    # Not compiled: a compiled function could not change its arguments anyway.
    output = teacher.outputs(variables[task], image)
    expected = features_by_numpy(variables[task], image, mode)
    assert output.features.keys() == expected.keys()
    for tap, x in output.features.items():
      np.testing.assert_allclose(x, expected[tap], rtol=1e-3, atol=1e-3)
    assert output.predictions[task].shape == (2, 4, 4, TEACHERS[task])
  jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_running_statistics_are_the_default():
  assert make_teacher('depth').batch_norm == 'running'


def test_a_teacher_of_no_task_and_several_of_one():
  """Teachers are named for themselves; alignments say whom they are about."""
  variables, image = make_variables(), make_image()
  teachers = {'one': make_teacher('depth'), 'two': make_teacher('depth')}
  frozen = {'one': variables['depth'], 'two': variables['depth']}
  outputs = teacher_outputs(teachers, frozen, image)
  pair = {Pair('decoder', 'decoder'): 6}
  adaptors = Adaptors(
    {'a': Alignment('one', 'depth', pair), 'b': Alignment('two', '', pair)}
  )
  terms = alignment_terms(
    adaptors, {'a': 1.0, 'b': 1.0}, alignment_loss, placement='task'
  )
  assert [t.name for t in terms] == ['alignment/a', 'alignment/b']
  assert [t.objective for t in terms] == ['depth', None]
  extras = {ADAPTORS: adaptors.init(jax.random.key(0), make_student())}
  student = Output({}, make_student())
  one, two = (t.fn(student, outputs, {}, extras) for t in terms)
  assert 0 < one <= 4 and 0 < two <= 4 and one != two  # adaptors differ


def make_student():
  return {
    'bottleneck': draw(2, 4, 4, 3, seed=2),
    'decoder': draw(2, 4, 4, 2, seed=3),
  }


@pytest.mark.parametrize('mode', ['running', 'batch'])
def test_no_gradient_reaches_a_teacher_but_it_does_reach_the_student(mode):
  adaptors, terms = make_terms()
  image = make_image()
  teachers = {t: make_teacher(t, batch_norm=mode) for t in TEACHERS}

  def total(variables, adaptor_params, student):
    outputs = teacher_outputs(teachers, variables, image)
    extras = {ADAPTORS: adaptor_params}
    return sum(t.fn(Output({}, student), outputs, {}, extras) for t in terms)

  gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
  of_teachers, of_adaptors, of_student = gradients(
    make_variables(),
    adaptors.init(jax.random.key(0), make_student()),
    make_student(),
  )
  assert not any(x.any() for x in jax.tree.leaves(of_teachers))
  assert all(x.any() for x in jax.tree.leaves((of_adaptors, of_student)))


def test_a_term_sums_over_taps_and_carries_no_weight():
  adaptors, terms = make_terms()
  student = make_student()
  params = adaptors.init(jax.random.key(0), student)
  teachers = {t: make_teacher(t) for t in TEACHERS}
  outputs = teacher_outputs(teachers, make_variables(), make_image())
  assert [t.weight for t in terms] == [1.0, 2.0]
  values = []
  for task, term in zip(TEACHERS, terms, strict=True):
    expected = 0
    for pair in PAIRS:
      kernel = params['params'][f'{task}_{pair}']['kernel']
      adapted = student[pair.student] @ np.asarray(kernel, np.float64)
      expected += alignment_by_numpy(
        adapted, outputs[task].features[pair.teacher]
      )
    values.append(term.fn(Output({}, student), outputs, {}, {ADAPTORS: params}))
    np.testing.assert_allclose(values[-1], expected, rtol=1e-4)
  assert abs(values[0] - values[1]) > 1e-3


def test_an_unknown_batch_norm_mode_is_refused_with_advice():
  with pytest.raises(InputError) as error:
    make_teacher('depth', batch_norm='train')
  assert 'train' in error.value.found
  assert 'running' in error.value.expected
  assert error.value.argument == 'batch_norm'


def test_an_unknown_placement_is_refused():
  adaptors, _ = make_terms()
  with pytest.raises(InputError, match='outside, task, objective'):
    alignment_terms(
      adaptors, {'depth': 1, 'normals': 1}, alignment_loss, placement='inside'
    )


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
  assert {t: a.channels for t, a in adaptors.alignments.items()} == {
    'depth': dict(zip(pairs, (32, 32, 7), strict=True)),
    'normals': dict(zip(pairs, (5, 5, 7), strict=True)),
  }


def test_a_name_alone_is_a_tap_of_both():
  adaptors = make_adaptors(('decoder',), STUDENT, {'depth': STUDENT})
  (alignment,) = adaptors.alignments.values()
  assert alignment == Alignment(
    'depth', 'depth', {Pair('decoder', 'decoder'): 8}
  )


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
    (('decoder:odd', 'decoder: odd'), 'decoder', 'each named once'),
    ((), '()', 'at least one'),
  ],
  ids=str,
)
def test_an_impossible_pair_is_refused_with_the_shapes(taps, found, expected):
  with pytest.raises(InputError) as error:
    make_adaptors(taps, STUDENT, {'depth': TEACHER})
  assert found in error.value.found
  assert expected in error.value.expected
  assert error.value.argument == 'taps'


def test_a_tap_that_only_one_task_has_cannot_meet_the_others_teachers():
  taps, teachers = ('own:layer4',), {'depth': TEACHER, 'normals': TEACHER}
  assert make_adaptors(taps, STUDENT, {'depth': TEACHER})
  with pytest.raises(InputError, match="the student's"):
    make_adaptors(taps, STUDENT, teachers)
