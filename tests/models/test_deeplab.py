"""The heads of DeepLab against torchvision's numbers and NumPy in float64."""

import functools
import math

from fixtures.deeplab import HEADS, RATES, WIDTH, make, shapes_at
from fixtures.layers import (
  assert_close,
  convolve,
  jit,
  normalize,
  part,
  relu,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import models
from mtl_kd_jax.models.deeplab import ASPPHead, DeepLabV3PlusHead


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


# ---- The same in NumPy -------------------------------------------------------


def block(v, name, x, dilation=1):
  v = part(v, name)
  return relu(normalize(v, 'norm', convolve(v, 'conv', x, dilation=dilation)))


def resize(x, size):
  for axis, new in zip((1, 2), size, strict=True):
    old = x.shape[axis]
    place = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.apply_along_axis(
      lambda line, old=old, place=place: np.interp(place, np.arange(old), line),
      axis,
      x,
    )
  return x


def pyramid(v, x, rates):
  branches = [block(v, 'aspp_0', x)]
  for i, rate in enumerate(rates, start=1):
    branches.append(block(v, f'aspp_{i}', x, rate))
  pooled = block(v, 'aspp_pooled', x.mean((1, 2), keepdims=True))
  branches.append(np.broadcast_to(pooled, branches[0].shape))
  return block(v, 'aspp_joined', np.concatenate(branches, -1))


def aspp(v, features, rates):
  return block(v, 'conv', pyramid(v, features['layer4'], rates))


def deeplabv3plus(v, features, rates):
  fine = features['layer1']
  x = resize(pyramid(v, features['layer4'], rates), fine.shape[1:3])
  x = np.concatenate([x, block(v, 'low_level', fine)], -1)
  return block(v, 'conv_1', block(v, 'conv_0', x))


DECODERS = {ASPPHead: aspp, DeepLabV3PlusHead: deeplabv3plus}


# ---- Numbers -----------------------------------------------------------------


# At stride 8 a kernel of dilation 36 needs a map of more than 36 pixels.
@pytest.mark.parametrize(
  'stride, size',
  [
    (8, (296, 320)),
    (16, (320, 304)),
    (32, (320, 352)),
    (8, (299, 333)),  # no multiples of any stride
    (16, (150, 45)),
    (32, (33, 100)),
  ],
)
@pytest.mark.parametrize('head', HEADS)
def test_a_head_agrees_with_numpy(head, stride, size, float64):
  module, features, v = make(head, size, stride)
  run = jit(functools.partial(module.apply, size=size, train=False))
  prediction, computed = run(v, features)
  decoder = DECODERS[head](v, features, RATES[stride])
  assert computed.keys() == {'decoder'}
  assert_close(computed['decoder'], decoder)
  out = v['params']['out']
  assert_close(prediction, resize(decoder @ out['kernel'] + out['bias'], size))


def test_image_pooling_normalizes_one_value_per_image(float64):
  module, features, v = make(ASPPHead, (32, 64), 8)
  run = jit(
    functools.partial(
      module.apply, size=(32, 64), train=True, mutable=['batch_stats']
    )
  )
  _, updated = run(v, features)
  kernel = v['params']['aspp_pooled']['conv']['kernel']
  y = features['layer4'].mean((1, 2)) @ kernel
  old = v['batch_stats']['aspp_pooled']['norm']
  new = updated['batch_stats']['aspp_pooled']['norm']
  assert_close(new['mean'], 0.9 * old['mean'] + 0.1 * y.mean(0))
  assert_close(new['var'], 0.9 * old['var'] + 0.1 * y.var(0, ddof=1))


@pytest.mark.parametrize('head', HEADS)
def test_training_changes_all_statistics_and_parameters(head, float64):
  size = (64, 96)
  module, features, v = make(head, size, 16, batch=4)

  @jit
  def run(params, features):
    def loss(params, features):
      (prediction, computed), updated = module.apply(
        v | {'params': params},
        features,
        size=size,
        train=True,
        mutable=['batch_stats'],
      )
      total = jnp.sum(jnp.sin(prediction)) + jnp.sum(computed['decoder'] ** 2)
      return total, updated['batch_stats']

    return jax.grad(loss, (0, 1), has_aux=True)(params, features)

  (gradient, backward), updated = run(v['params'], features)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(g).all(), path
    assert abs(g).max() > 1e-9, path
  for tap, g in backward.items():
    assert np.isfinite(g).all(), tap
    assert np.any(g) == (tap in head.taps)
  old, new = jax.tree.leaves(v['batch_stats']), jax.tree.leaves(updated)
  for before, after in zip(old, new, strict=True):
    assert np.isfinite(after).all()
    assert np.any(before != after)


@pytest.mark.parametrize('head', HEADS)
def test_statistics_of_a_batch_split_over_an_axis(
  head,
  float64,
):
  size = (32, 48)
  _, features, v = make(head, size, 8, batch=4)

  def apply(axis_name, features):
    module = head(channels=2, width=WIDTH, axis_name=axis_name)
    return module.apply(
      v, features, size=size, train=True, mutable=['batch_stats']
    )

  @jit
  def run(features):
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), features)
    split = jax.vmap(functools.partial(apply, 'devices'), axis_name='devices')
    return apply(None, features), split(halves)

  (outputs, stats), (split_outputs, split_stats) = run(features)
  for x, y in zip(
    jax.tree.leaves(outputs), jax.tree.leaves(split_outputs), strict=True
  ):
    assert_close(y.reshape(x.shape), x)
  for x, y in zip(
    jax.tree.leaves(stats), jax.tree.leaves(split_stats), strict=True
  ):
    assert_close(y, np.stack([x, x]))


# ---- Shapes ------------------------------------------------------------------


def test_the_number_of_parameters_is_that_of_torchvision():
  network = models.make(
    'resnet50', {'semantic': 21}, head='aspp', output_stride=8
  )
  image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
  output, variables = jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=False), image
  )
  assert output.predictions['semantic'].shape == (2, 64, 96, 21)
  assert output.features['decoder/semantic'].shape == (2, 8, 12, 256)
  leaves = jax.tree.leaves(variables['params'])
  # deeplabv3_resnet50, less its auxiliary classifier over layer3.
  auxiliary = 9 * 1024 * 256 + 2 * 256 + (256 + 1) * 21
  assert sum(math.prod(x.shape) for x in leaves) == 42_004_074 - auxiliary


@pytest.mark.parametrize(
  'width, filters, low_level',
  [(1.0, 256, 48), (0.5, 128, 24), (1 / 16, 16, 3), (1e-6, 1, 1)],
)
def test_a_width_scales_all_channels_but_the_predictions(
  width, filters, low_level
):
  features = {
    tap: jax.ShapeDtypeStruct(shape, jnp.float32)
    for tap, shape in shapes_at((64, 96), 16, channels=(256, 2048)).items()
  }
  head = DeepLabV3PlusHead(channels=13, width=width)
  (prediction, computed), variables = jax.eval_shape(
    lambda x: head.init_with_output(
      jax.random.key(0), x, size=(64, 96), train=False
    ),
    features,
  )
  assert prediction.shape == (2, 64, 96, 13)
  assert computed['decoder'].shape == (2, 16, 24, filters)
  params = variables['params']
  kernels = {
    name: layer['conv']['kernel'].shape
    for name, layer in params.items()
    if name != 'out'
  }
  assert kernels == {
    'low_level': (256, low_level),
    'aspp_0': (2048, filters),
    **{f'aspp_{i}': (3, 3, 2048, filters) for i in (1, 2, 3)},
    'aspp_pooled': (2048, filters),
    'aspp_joined': (5 * filters, filters),
    'conv_0': (3, 3, filters + low_level, filters),
    'conv_1': (3, 3, filters, filters),
  }
  assert all(set(params[name]['conv']) == {'kernel'} for name in kernels)
  assert {name: x.shape for name, x in params['out'].items()} == {
    'kernel': (filters, 13),
    'bias': (13,),
  }
