"""Backbones, network, heads and adaptors: shapes, counts, statistics."""

import collections
import functools
import json
import math

from conftest import REPOSITORY
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models import BACKBONES, make_backbone
from mtl_kd_jax.models.adaptors import Adaptors
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.network import Network

REFERENCE = (
  REPOSITORY.parent / 'shared' / 'reference' / 'kd4mtl_state_dict_shapes.json'
)
CHANNELS = {'semantic': 13, 'depth': 1, 'normals': 3}
WIDTH = 1 / 16


@pytest.fixture(params=BACKBONES)
def name(request):
  return request.param


def make(name, width=WIDTH, image_size=None):
  stride = BACKBONES[name].stride
  return make_backbone(
    name,
    width=width,
    image_size=image_size or (stride, 2 * stride),
    axis_name=None,
  )


def make_network(name, width=WIDTH):
  return Network(make(name, width), CHANNELS)


def shapes_of(network, image_size):
  """Shapes of output and variables, without computing either."""
  image = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
  return jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=False), image
  )


def count(params):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def kernels_of(params):
  """Path -> kernel."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {
    jax.tree_util.keystr(path): x
    for path, x in leaves
    if path[-1].key == 'kernel'
  }


def kernel_shape(kernel):
  """[h w i o]: a dense kernel is the 1x1 convolution that it stands for."""
  return (1,) * (4 - kernel.ndim) + kernel.shape


class Ran:
  """A network of width 1/16, initialised and applied in both modes."""

  def __init__(self, name):
    self.network = network = make_network(name)
    stride = network.backbone.stride
    rng = np.random.default_rng(0)
    self.image = rng.random((2, stride, 2 * stride, 3)).astype(np.float32)

    @jax.jit
    def init(image):
      # The default generator takes 15 s to compile for so many kernels.
      return network.init(jax.random.key(0, impl='rbg'), image, train=False)

    @jax.jit
    def run(variables, image):
      apply = functools.partial(network.apply, mutable=['batch_stats'])
      train, updated = apply(variables, image, train=True)
      # Other statistics than the initial ones, so that they show.
      used = {**variables, **updated}
      evaluation, kept = apply(used, image, train=False)
      asked, _ = apply(used, image, train=False, method='features')
      return train, updated, evaluation, kept, asked

    self.variables = init(self.image)
    self.train, self.updated, self.evaluation, self.kept, self.asked = run(
      self.variables, self.image
    )


@functools.cache
def run(name):
  return Ran(name)


@pytest.mark.parametrize('sides', [(1, 1), (2, 3)])
def test_features_are_named_and_the_decoder_has_full_size(name, sides):
  stride = BACKBONES[name].stride
  image_size = tuple(stride * side for side in sides)
  network = Network(make(name, image_size=image_size), CHANNELS)
  (predictions, features), _ = shapes_of(network, image_size)
  assert features['decoder'].shape[:3] == (2, *image_size)
  assert len(features) > 1
  for x in features.values():
    assert x.ndim == 4
    assert x.dtype == jnp.float32
  shapes = {task: x.shape for task, x in predictions.items()}
  assert shapes == {t: (2, *image_size, c) for t, c in CHANNELS.items()}


def test_width_scales_the_channels(name):
  size = (BACKBONES[name].stride,) * 2
  (_, half), _ = shapes_of(make_network(name, 0.5), size)
  (_, full), _ = shapes_of(make_network(name, 1), size)
  for tap, x in full.items():
    assert x.shape[:3] == half[tap].shape[:3]
    assert x.shape[3] == 2 * half[tap].shape[3]


def test_the_narrowest_backbone_still_has_a_channel(name):
  size = (BACKBONES[name].stride,) * 2
  (_, features), _ = shapes_of(make_network(name, 1e-6), size)
  assert all(x.shape[3] >= 1 for x in features.values())


def test_features_alone_are_those_of_a_call(name):
  ran = run(name)
  assert ran.asked.keys() == ran.evaluation.features.keys()
  for tap, x in ran.evaluation.features.items():
    np.testing.assert_array_equal(ran.asked[tap], x)
    assert x.any()


def test_running_statistics_move_in_training_only(name):
  ran = run(name)
  old = jax.tree.leaves(ran.variables['batch_stats'])
  new = jax.tree.leaves(ran.updated['batch_stats'])
  kept = jax.tree.leaves(ran.kept['batch_stats'])
  for before, after, still in zip(old, new, kept, strict=True):
    assert (np.asarray(before) != after).any()
    np.testing.assert_array_equal(still, after)
  # The two modes normalise differently, so they see different features.
  difference = (
    ran.train.features['decoder'] - ran.evaluation.features['decoder']
  )
  assert abs(difference).max() > 1e-3


def test_kernels_have_xavier_variance_and_biases_are_zero(name):
  params = run(name).variables['params']
  standard = []
  for path, kernel in kernels_of(params).items():
    h, w, i, o = kernel_shape(kernel)
    fan_in, fan_out = h * w * i, h * w * o
    z = np.asarray(kernel, np.float64) * math.sqrt((fan_in + fan_out) / 2)
    # Of a sample variance the relative deviation is sqrt(2 / n).
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / z.size), path
    standard.append(z.ravel())
  standard = np.concatenate(standard)
  assert abs((standard**2).mean() - 1) < 5 * math.sqrt(2 / standard.size)
  # PyTorch's xavier_normal_ has tails: flax's own ends at 2.3 deviations.
  assert abs(standard).max() > 3.5
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'bias':
      assert not x.any(), path


@pytest.mark.parametrize(
  'options, found, advice',
  [
    ({'name': 'vgg'}, 'vgg', 'correct the name'),
    ({'width': 0}, '0', '0.25'),
    ({'width': -1.0}, '-1.0', '0.25'),
    ({'width': float('nan')}, 'nan', '0.25'),
    ({'image_size': (64, 50)}, '64 x 50', '64 x 64'),
    ({'image_size': (1, 96)}, '1 x 96', '32 x 96'),
    ({'image_size': (0, 32)}, '0 x 32', '32 x 32'),
  ],
  ids=str,
)
def test_backbones_that_cannot_be_are_refused_with_advice(
  options, found, advice
):
  options = {'name': 'segnet', 'width': 1, 'image_size': (32, 32)} | options
  with pytest.raises(InputError) as error:
    make_backbone(options.pop('name'), axis_name=None, **options)
  assert found in error.value.found
  assert advice in error.value.do


# ---- SegNet, as the reference has it ----------------------------------------


@pytest.fixture(scope='module')
def segnet():
  return shapes_of(make_network('segnet', 1), (64, 96))


def test_segnet_has_the_features_of_the_reference(segnet):
  (_, features), _ = segnet
  shapes = {tap: x.shape for tap, x in features.items()}
  assert shapes == {
    'bottleneck': (2, 2, 3, 512),
    'decoder': (2, 64, 96, 64),
  }


def test_segnet_has_the_parameters_of_the_reference(segnet):
  _, variables = segnet
  assert count(variables['params']) == 25_055_185


def test_segnet_has_the_kernels_of_the_reference(segnet):
  if not REFERENCE.is_file():
    pytest.skip('no shapes of the reference here')
  shapes = json.loads(REFERENCE.read_text())['segnet'].values()
  expected = [(h, w, i, o) for o, i, h, w in (s for s in shapes if len(s) == 4)]
  kernels = kernels_of(segnet[1]['params']).values()
  actual = [kernel_shape(x) for x in kernels]
  assert collections.Counter(actual) == collections.Counter(expected)


def test_segnet_records_the_statistics_of_its_first_convolution():
  ran = run('segnet')
  params = ran.variables['params']['backbone']['encoder_0_0']['conv']
  kernel = np.asarray(params['kernel'], np.float64)
  _, h, w, _ = ran.image.shape
  padded = np.pad(ran.image, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = sum(
    padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in np.ndindex(3, 3)
  )
  updated = ran.updated['batch_stats']['backbone']['encoder_0_0']['norm']
  # PyTorch's momentum of 0.1: a tenth of the batch, nine of what was.
  np.testing.assert_allclose(
    updated['mean'], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    updated['var'], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4
  )


# ---- Heads and adaptors -----------------------------------------------------


def test_a_head_is_its_two_convolutions_and_nothing_between():
  head = DenseHead(hidden=5, channels=2)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
  shapes = jax.eval_shape(head.init, jax.random.key(0), x)
  variables = jax.tree.map(
    lambda s: rng.normal(size=s.shape).astype(np.float32), shapes
  )
  conv, out = variables['params']['conv'], variables['params']['out']
  assert conv['kernel'].shape == (3, 3, 6, 5)
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  hidden = sum(
    padded[:, i : i + 3, j : j + 4] @ conv['kernel'][i, j]
    for i, j in np.ndindex(3, 3)
  )
  expected = (hidden + conv['bias']) @ out['kernel'] + out['bias']
  np.testing.assert_allclose(
    head.apply(variables, x), expected, rtol=1e-4, atol=1e-4
  )


def test_adaptors_for_three_tasks_have_the_parameters_of_the_reference(segnet):
  (_, features), _ = segnet
  taps = {tap: x.shape[-1] for tap, x in features.items()}
  adaptors = Adaptors({task: taps for task in CHANNELS})
  variables = jax.eval_shape(adaptors.init, jax.random.key(0), features)
  assert count(variables) == 798_720
  assert len(kernels_of(variables)) == len(jax.tree.leaves(variables)) == 6


def test_adaptors_are_linear_maps_without_bias():
  adaptors = Adaptors(
    {'depth': {'low': 4, 'high': 2}, 'normals': {'low': 3, 'high': 6}}
  )
  rng = np.random.default_rng(0)
  features = {
    'low': rng.normal(size=(2, 1, 2, 5)).astype(np.float32),
    'high': rng.normal(size=(2, 2, 4, 3)).astype(np.float32),
  }
  variables = adaptors.init(jax.random.key(0), features)
  adapted = adaptors.apply(variables, features)
  assert adapted.keys() == {'depth', 'normals'}
  for task, taps in adapted.items():
    assert taps.keys() == features.keys()
    for tap, x in taps.items():
      params = variables['params'][f'{task}_{tap}']
      assert params.keys() == {'kernel'}
      kernel = np.asarray(params['kernel'], np.float64)
      np.testing.assert_allclose(
        x, features[tap] @ kernel, rtol=1e-4, atol=1e-5
      )
