"""Backbones, networks and heads: shapes, counts, statistics."""

import collections
import functools
import json
import math

from fixtures.layers import make_shallow
from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import models
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models import BACKBONES, HEADS
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.resnet import ResNet

REFERENCE = (
  REPOSITORY.parent / 'shared' / 'reference' / 'kd4mtl_state_dict_shapes.json'
)
CHANNELS = {'semantic': 13, 'depth': 1, 'normals': 3}
WIDTH = 1 / 16
SIZE = (64, 96)


# The head that suits a backbone.
HEAD_OF = {n: 'deeplabv3plus' for n in BACKBONES if n.startswith('resnet')}
# What its kernels are drawn from: fans (in, out) -> variance.
KAIMING = {name: lambda fan_in, fan_out: 2 / fan_out for name in HEAD_OF}


def xavier(fan_in, fan_out):
  return 2 / (fan_in + fan_out)


# One of each family is compiled, the one with the most kinds of layers; the
# others are traced.
COMPILED = ('segnet_deep', 'mtan', 'resnet18')


@pytest.fixture(params=BACKBONES)
def name(request):
  return request.param


def make_network(name, width=WIDTH, head=None):
  return models.make(
    name,
    CHANNELS,
    head=head or HEAD_OF.get(name, 'dense'),
    width=width,
    output_stride=32,
    image_size=SIZE,
  )


@functools.cache
def shapes_of(name, width=WIDTH, head=None):
  """Shapes of output and variables, without computing either."""
  network = make_network(name, width, head)
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
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
  """A shallow network, initialized and applied in both modes.

  It is wide enough for statistics of its kernels.
  """

  def __init__(self, name):
    # Two tasks, for each of which MTAN has a network.
    network = make_network(name, 1 / 4).only('semantic', 'depth')
    rng = np.random.default_rng(0)
    self.image = rng.random((2, *SIZE, 3)).astype(np.float32)

    @jax.jit
    def run(variables, image):
      apply = functools.partial(network.apply, mutable=['batch_stats'])
      train, updated = apply(variables, image, train=True)
      # Other statistics than the initial ones, so that they show.
      used = {**variables, **updated}
      evaluation, kept = apply(used, image, train=False)
      return train, updated, evaluation, kept

    self.variables = network.lazy_init(
      jax.random.key(0),
      jax.ShapeDtypeStruct(self.image.shape, self.image.dtype),
      train=False,
    )
    self.train, self.updated, self.evaluation, self.kept = run(
      self.variables, self.image
    )


@functools.cache
def run(name):
  with pytest.MonkeyPatch.context() as patch:
    make_shallow(patch)
    return Ran(name)


def test_predictions_have_full_size_and_features_their_names(name):
  (predictions, features), _ = shapes_of(name)
  shapes = {task: x.shape for task, x in predictions.items()}
  assert shapes == {t: (2, *SIZE, c) for t, c in CHANNELS.items()}
  for x in features.values():
    assert x.ndim == 4
    assert x.dtype == jnp.float32
  for task in CHANNELS:
    seen = taps_of(features, task)
    assert {*BACKBONES[name]().taps, 'decoder'} == seen.keys()


def test_width_scales_the_channels(name):
  (_, narrow), _ = shapes_of(name)
  (_, full), _ = shapes_of(name, 1)
  for tap, x in full.items():
    assert x.shape[:3] == narrow[tap].shape[:3]
    assert x.shape[3] * WIDTH == narrow[tap].shape[3]


def test_the_narrowest_backbone_still_has_a_channel(name):
  (_, features), _ = shapes_of(name, 1e-6)
  assert all(x.shape[3] >= 1 for x in features.values())


@pytest.mark.parametrize('name', COMPILED)
def test_every_feature_depends_on_the_image(name):
  for tap, x in run(name).evaluation.features.items():
    assert np.isfinite(x).all(), tap
    assert (x != x[:1]).any(), tap


@pytest.mark.parametrize('name', COMPILED)
def test_running_statistics_change_in_training_only(name):
  ran = run(name)
  old = jax.tree.leaves(ran.variables['batch_stats'])
  new = jax.tree.leaves(ran.updated['batch_stats'])
  kept = jax.tree.leaves(ran.kept['batch_stats'])
  for before, after, still in zip(old, new, kept, strict=True):
    assert (np.asarray(before) != after).any()
    np.testing.assert_array_equal(still, after)
  # The two modes normalize differently.
  for task, prediction in ran.train.predictions.items():
    assert abs(prediction - ran.evaluation.predictions[task]).max() > 1e-3


@pytest.mark.parametrize('name', COMPILED)
def test_kernels_have_their_variance_and_biases_are_zero(name):
  params = run(name).variables['params']
  standard = []
  for path, kernel in kernels_of(params).items():
    variance = xavier if "['out']" in path else KAIMING.get(name, xavier)
    h, w, i, o = kernel_shape(kernel)
    z = np.asarray(kernel, np.float64) / math.sqrt(
      variance(h * w * i, h * w * o)
    )
    # Of a sample variance the relative deviation is sqrt(2 / n).
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / z.size), path
    standard.append(z.ravel())
  standard = np.concatenate(standard)
  assert abs((standard**2).mean() - 1) < 5 * math.sqrt(2 / standard.size)
  # PyTorch's normal has tails: flax's own ends at 2.3 deviations.
  assert abs(standard).max() > 3.5
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'bias':
      assert not x.any(), path


@pytest.mark.parametrize(
  'argument, value, found, advice',
  [
    ('backbone', 'vgg', 'vgg', 'correct the name'),
    ('head', 'hydra', 'hydra', 'correct the name'),
    ('head', 'aspp', 'layer4', 'choose dense'),
    ('output_stride', 4, '4', '32 is the fastest'),
    ('width', 0, '0', '0.25'),
    ('width', -1.0, '-1.0', '0.25'),
    ('width', float('nan'), 'nan', '0.25'),
    ('image_size', (64, 50), '64 x 50', '64 x 64'),
    ('image_size', (1, 96), '1 x 96', '32 x 96'),
    ('image_size', (0, 32), '0 x 32', '32 x 32'),
  ],
  ids=str,
)
def test_wrong_arguments_are_named(argument, value, found, advice):
  arguments = {'backbone': 'segnet', 'tasks': CHANNELS, argument: value}
  with pytest.raises(InputError) as error:
    models.make(**arguments)
  assert error.value.argument == argument
  assert found in error.value.found
  assert advice in error.value.do


@pytest.mark.parametrize('head', ['', 'dense'])
def test_a_backbone_that_no_head_reads_is_refused(head, monkeypatch):
  class Bare(ResNet):
    taps = ('stem', 'trunk')

  monkeypatch.setitem(BACKBONES, 'bare', Bare)
  with pytest.raises(InputError) as error:
    models.make('bare', CHANNELS, head=head)
  assert error.value.argument == 'backbone'
  assert 'stem, trunk' in error.value.found
  for name, kind in HEADS.items():
    assert f'{", ".join(kind.taps)} ({name})' in error.value.expected


def test_a_head_must_fit_the_backbone():
  with pytest.raises(InputError, match='aspp or deeplabv3plus or fpn') as error:
    models.make('resnet18', CHANNELS, head='dense')
  assert error.value.argument == 'head'


# ---- SegNet, as the reference has it ----------------------------------------


def test_segnet_has_the_features_of_the_reference():
  (_, features), _ = shapes_of('segnet', 1)
  shapes = {tap: x.shape for tap, x in features.items()}
  assert shapes == {
    'bottleneck': (2, 2, 3, 512),
    'decoder': (2, 64, 96, 64),
  }


REFERENCE_PARAMETERS = {
  # Of SegNet and MTAN in the reference code; of the others counted from their
  # definitions.
  'segnet': 25_055_185,
  'mtan': 44_229_073,
  'segnet_wide': 43_934_161,
  'segnet_deep': 50_807_761,
}


@pytest.mark.parametrize('name', REFERENCE_PARAMETERS)
def test_the_number_of_parameters_is_that_of_the_reference(name):
  _, variables = shapes_of(name, 1)
  assert count(variables['params']) == REFERENCE_PARAMETERS[name]


@pytest.mark.parametrize('name', ['segnet', 'mtan'])
def test_the_kernels_are_those_of_the_reference(name):
  if not REFERENCE.is_file():
    pytest.skip('no shapes of the reference here')
  shapes = json.loads(REFERENCE.read_text())[name].values()
  expected = [(h, w, i, o) for o, i, h, w in (s for s in shapes if len(s) == 4)]
  _, variables = shapes_of(name, 1)
  kernels = kernels_of(variables['params']).values()
  actual = [kernel_shape(x) for x in kernels]
  assert collections.Counter(actual) == collections.Counter(expected)


def test_segnet_records_the_statistics_of_its_first_convolution():
  ran = run('segnet_deep')
  params = ran.variables['params']['backbone']['encoder_0_0']['conv']
  kernel = np.asarray(params['kernel'], np.float64)
  _, h, w, _ = ran.image.shape
  padded = np.pad(ran.image, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = sum(
    padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in np.ndindex(3, 3)
  )
  updated = ran.updated['batch_stats']['backbone']['encoder_0_0']['norm']
  # PyTorch's momentum is 0.1; the statistics were 0 and 1.
  np.testing.assert_allclose(
    updated['mean'], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    updated['var'], 0.9 + 0.1 * y.var((0, 1, 2), ddof=1), rtol=1e-4
  )


# ---- Heads -----------------------------------------------------


def test_a_dense_head_is_two_convolutions():
  head = DenseHead(channels=2)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
  call = functools.partial(head.init, size=(3, 4), train=False)
  shapes = jax.eval_shape(call, jax.random.key(0), {'decoder': x})
  variables = jax.tree.map(
    lambda s: rng.normal(size=s.shape).astype(np.float32), shapes
  )
  conv, out = variables['params']['conv'], variables['params']['out']
  assert conv['kernel'].shape == (3, 3, 6, 6)
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  hidden = sum(
    padded[:, i : i + 3, j : j + 4] @ conv['kernel'][i, j]
    for i, j in np.ndindex(3, 3)
  )
  expected = (hidden + conv['bias']) @ out['kernel'] + out['bias']
  prediction, computed = head.apply(
    variables, {'decoder': x}, size=(3, 4), train=False
  )
  np.testing.assert_allclose(prediction, expected, rtol=1e-4, atol=1e-4)
  assert computed == {}


def test_a_dense_head_needs_a_feature_of_the_size_of_the_image():
  features = {'decoder': np.zeros((1, 2, 2, 3), np.float32)}
  with pytest.raises(InputError) as error:
    DenseHead(1).init(jax.random.key(0), features, size=(4, 4), train=False)
  assert '(4, 4)' in error.value.expected
  assert error.value.found == '(2, 2)'
  assert error.value.argument == 'features'


@pytest.mark.parametrize('head', HEADS)
def test_a_head_predicts_in_the_size_of_the_image(head):
  name = 'segnet' if head == 'dense' else 'resnet18'
  (predictions, _), _ = shapes_of(name, head=head)
  shapes = {task: x.shape for task, x in predictions.items()}
  assert shapes == {task: (2, *SIZE, n) for task, n in CHANNELS.items()}


# ---- Names of features ------------------------------------------------------


def test_task_specific_features_replace_shared_ones():
  features = {'a': 1, 'b': 2, 'a/depth': 3, 'c/depth': 4, 'c/normals': 5}
  assert taps_of(features, 'depth') == {'a': 3, 'b': 2, 'c': 4}
  assert taps_of(features, 'semantic') == {'a': 1, 'b': 2}
  assert task_tap('c', 'depth') == 'c/depth'
