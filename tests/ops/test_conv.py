"""The CPU's forms against XLA's convolutions, alone and split over devices."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from mtl_kd_jax.ops import conv
from mtl_kd_jax.ops.conv import blocks, direct, forms, taps, winograd

SHAPES = [
  (2, 3, 4, 3, 16),
  (1, 6, 8, 512, 64),
  (3, 7, 5, 16, 3),
  (4, 1, 1, 8, 8),
  (4, 13, 9, 16, 64),
  (2, 96, 128, 16, 16),
]

needs_4_devices = pytest.mark.skipif(
  jax.device_count() < 4, reason='4 (fake) devices are needed'
)


FORMS = {
  'blocks': forms.DIRECT._replace(weight_gradient=blocks.weight_gradient),
  'few': forms.TO_FEW,
  'small': forms.DIRECT._replace(input_gradient=taps.input_gradient_of_small),
  'winograd': forms.Forms(
    winograd.convolve, winograd.input_gradient, winograd.weight_gradient
  ),
}


@pytest.fixture
def blocked(monkeypatch):
  """Small maps take the blocked rule, in blocks of a few rows."""
  monkeypatch.setattr(conv, 'choose', lambda *_: FORMS['blocks'])
  monkeypatch.setattr(conv, '_MIN_NUMBERS', 0)
  monkeypatch.setattr(blocks, '_BLOCK_SIZE', 8000)


def plain(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def chosen(*shape, dtype=jnp.float32):
  return forms.choose(shape[:-1], shape[-1], dtype)


def make_arrays(b, h, w, c, d, dtype=jnp.float32):
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  return draw(b, h, w, c), draw(3, 3, c, d), draw(b, h, w, d)


def value_and_gradients(function):
  def run(x, kernel, g):
    y, vjp = jax.vjp(function, x, kernel)
    return (y, *vjp(g))

  return run


def assert_close(actual, expected, tolerance=1e-5):
  for a, e in zip(actual, expected, strict=True):
    assert a.dtype == e.dtype
    a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
    np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('form', FORMS)
def test_value_and_gradients_are_those_of_the_plain_form(
  form, shape, blocked, monkeypatch
):
  if form == 'winograd' and (shape[1] % 2 or shape[2] % 2):
    pytest.skip('is never chosen')
  monkeypatch.setattr(conv, 'choose', lambda *_: FORMS[form])
  arrays = make_arrays(*shape)
  assert_close(
    jax.jit(value_and_gradients(conv.conv3x3))(*arrays),
    jax.jit(value_and_gradients(plain))(*arrays),
  )


@pytest.mark.parametrize('form', FORMS)
def test_exact_in_float64(form):
  with jax.enable_x64(True):
    x, kernel, g = make_arrays(2, 6, 10, 5, 7, dtype=jnp.float64)
    convolve, input_gradient, weight_gradient = FORMS[form]
    actual = (
      convolve(x, kernel),
      input_gradient(g, kernel),
      weight_gradient(x, g),
    )
    expected = value_and_gradients(plain)(x, kernel, g)
    assert_close(actual, expected, tolerance=1e-14)


def test_to_few_channels_is_the_plain_form_too():
  arrays = make_arrays(2, 6, 8, 64, 3)
  assert_close(
    jax.jit(value_and_gradients(conv.conv3x3_to_few))(*arrays),
    jax.jit(value_and_gradients(plain))(*arrays),
  )


def dense(x, kernel):
  return nn.Dense(
    kernel.shape[1], use_bias=False, dot_general=conv.dot_general
  ).apply({'params': {'kernel': kernel}}, x)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_a_blocked_product_is_the_plain_one(blocked, shape):
  x, kernel, g = make_arrays(*shape)
  kernel = kernel[0, 0]
  step = jax.jit(value_and_gradients(dense))
  assert_close(
    step(x, kernel, g), value_and_gradients(jnp.matmul)(x, kernel, g)
  )
  assert 'stablehlo.while' in step.lower(x, kernel, g).as_text()


def test_small_maps_and_vectors_keep_the_plain_product():
  for shape in ((2, 8, 8, 16), (4, 16)):
    x, kernel = jnp.ones(shape), jnp.ones((16, 8))
    step = value_and_gradients(dense)
    program = str(jax.make_jaxpr(step)(x, kernel, dense(x, kernel)))
    assert 'dot_general' in program and 'weight_gradient' not in program


def test_low_precision_is_summed_in_float32(blocked):
  arrays = make_arrays(2, 24, 32, 16, 16)
  low = [a.astype(jnp.bfloat16) for a in arrays]
  _, _, dkernel = jax.jit(value_and_gradients(conv.conv3x3))(*low)
  exact = value_and_gradients(plain)(*[a.astype(jnp.float32) for a in low])[2]
  assert_close([dkernel], [exact.astype(jnp.bfloat16)], tolerance=2**-7)


def test_forms_follow_from_the_size():
  assert chosen(2, 24, 32, 64, 64) == forms.DIRECT  # too little work
  assert chosen(2, 288, 384, 16, 64) == forms.DIRECT  # too few channels
  assert chosen(2, 288, 384, 64, 32) == forms.DIRECT
  assert chosen(2, 288, 384, 64, 64) == FORMS['blocks']
  assert chosen(2, 6, 8, 512, 512) == FORMS['small']._replace(
    weight_gradient=blocks.weight_gradient
  )
  assert chosen(2, 12, 16, 512, 512) == FORMS['winograd']
  assert chosen(2, 48, 64, 128, 64) == FORMS['winograd']._replace(
    weight_gradient=blocks.weight_gradient
  )


def test_winograd_wants_even_sides_and_single_precision():
  for shape in ((2, 13, 16, 512, 512), (2, 12, 17, 512, 512)):
    assert chosen(*shape).convolve == direct.convolve
  half = chosen(2, 12, 16, 512, 512, dtype=jnp.bfloat16)
  assert half.convolve == direct.convolve
  assert half.weight_gradient != winograd.weight_gradient


@needs_4_devices
@pytest.mark.parametrize('form', FORMS)
def test_split_batch(form, blocked, monkeypatch):
  monkeypatch.setattr(conv, 'choose', lambda *_: FORMS[form])
  arrays = make_arrays(8, 12, 10, 16, 64)
  expected = value_and_gradients(plain)(*arrays)
  mesh = Mesh(np.array(jax.devices()[:4]), ('batch',))
  split = NamedSharding(mesh, PartitionSpec('batch'))
  replicated = NamedSharding(mesh, PartitionSpec())
  x, kernel, g = jax.device_put(arrays, (split, replicated, split))
  step = jax.jit(
    value_and_gradients(conv.conv3x3), out_shardings=(split, split, replicated)
  )
  program = step.lower(x, kernel, g).compile()
  assert_close(program(x, kernel, g), expected)
  for movement in ('all-gather', 'all-to-all', 'collective-permute'):
    assert movement not in program.as_text()


@needs_4_devices
def test_pmap(blocked):
  x, kernel, g = make_arrays(8, 13, 9, 16, 64)
  expected = value_and_gradients(plain)(x, kernel, g)

  def run(x, g):
    y, dx, dkernel = value_and_gradients(conv.conv3x3)(x, kernel, g)
    return y, dx, lax.psum(dkernel, 'batch')

  devices = jax.devices()[:4]
  y, dx, dkernel = jax.pmap(run, axis_name='batch', devices=devices)(
    x.reshape(4, 2, *x.shape[1:]), g.reshape(4, 2, *g.shape[1:])
  )
  actual = (y.reshape(g.shape), dx.reshape(x.shape), dkernel[0])
  assert_close(actual, expected)


@pytest.mark.parametrize(
  'options, is_ours',
  [
    ({}, True),
    ({'use_bias': False, 'padding': 1}, True),
    ({'strides': 2}, False),
    ({'padding': 'VALID'}, False),
    ({'kernel_dilation': 2}, False),
    ({'feature_group_count': 2}, False),
    ({'kernel_size': (1, 1)}, False),
  ],
  ids=str,
)
def test_in_linen_conv(blocked, monkeypatch, options, is_ours):
  calls = []

  def count(x, kernel):
    calls.append(x.shape)
    return _conv3x3(x, kernel)

  _conv3x3 = conv.conv3x3
  monkeypatch.setattr(conv, 'conv3x3', count)
  options = {'kernel_size': (3, 3), **options}
  module = nn.Conv(
    16, conv_general_dilated=conv.conv_general_dilated, **options
  )
  x, *_ = make_arrays(2, 6, 8, 4, 16)
  variables = module.init(jax.random.key(0), x)
  reference = nn.Conv(16, **options)
  assert_close([module.apply(variables, x)], [reference.apply(variables, x)])
  assert bool(calls) == is_ours


@pytest.mark.parametrize(
  'size, options, live',
  [
    ((8, 12), {'kernel_dilation': 12}, (1, 1)),
    ((8, 12), {'kernel_dilation': 8}, (1, 3)),
    ((8, 12), {'kernel_dilation': 7}, (3, 3)),
    ((12, 8), {'kernel_dilation': (11, 9)}, (3, 1)),
    ((8, 12), {'kernel_dilation': 12, 'strides': 2}, (1, 1)),
    ((5, 9), {'kernel_dilation': 6, 'strides': 4}, (1, 3)),
    ((5, 6), {'kernel_size': (5, 5), 'kernel_dilation': 3}, (3, 3)),
    ((4, 4), {'kernel_dilation': 5, 'padding': ((0, 12), (7, 9))}, (1, 3)),
    # Outputs that read only padding.
    ((4, 4), {'kernel_dilation': 5, 'padding': ((12, 0), (5, 5))}, (1, 1)),
  ],
  ids=str,
)
def test_taps_that_read_only_padding_are_left_out(size, options, live):
  options = {'kernel_size': (3, 3), 'use_bias': False, **options}
  if 'padding' not in options:
    sides = zip(
      np.broadcast_to(options['kernel_dilation'], 2),
      options['kernel_size'],
      strict=True,
    )
    options['padding'] = [(int(d * (k // 2)),) * 2 for d, k in sides]
  ours = nn.Conv(16, conv_general_dilated=conv.conv_general_dilated, **options)
  reference = nn.Conv(16, **options)
  x, *_ = make_arrays(2, *size, 4, 16)
  variables = reference.init(jax.random.key(0), x)

  def of(module):
    y, vjp = jax.vjp(module.apply, variables, x)
    gradient, of_x = vjp(jnp.cos(jnp.arange(y.size).reshape(y.shape)))
    return y, gradient['params']['kernel'], of_x

  expected = of(reference)
  assert_close(of(ours), expected)
  # The others have no gradient: they see nothing.
  seen = np.abs(expected[1]).max(axis=(2, 3)) > 0
  assert (seen.any(axis=1).sum(), seen.any(axis=0).sum()) == live
  program = jax.jit(ours.apply).lower(variables, x).as_text()
  assert f'tensor<{live[0]}x{live[1]}x4x16xf32>' in program


def test_wrong_kernel_is_refused():
  x, kernel, _ = make_arrays(2, 6, 8, 4, 16)
  with pytest.raises(ValueError, match=r'\[3 3 c d\]'):
    conv.conv3x3(x, kernel[:2])
