"""ResNets against torchvision's numbers and against NumPy in float64."""

import functools
import math

from fixtures.layers import (
  SIZE,
  assert_close,
  convolve,
  jit,
  normalize,
  part,
  random_variables,
  relu,
  windows,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.models.layers import conv
from mtl_kd_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from mtl_kd_jax.ops import conv as conv_module
from mtl_kd_jax.ops.norm import BatchNorm

BLOCKS = {
  10: (1, 1, 1, 1),
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
}
# torchvision's replace_stride_with_dilation, spelled out. Output stride -> for
# each layer: stride and dilation of its first block, dilation of the others.
RULE = {
  32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)),
  16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)),
  8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def shapes_of(layers=50, output_stride=32, *, width=1.0):
  """Shapes of the features and of the variables."""
  backbone = ResNet(width=width, layers=layers, output_stride=output_stride)
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
  return jax.eval_shape(
    lambda x: backbone.init_with_output(
      jax.random.key(0), x, tasks=(), train=False
    ),
    image,
  )


# ---- The same in NumPy, also for test_deeplab.py -----------------------------


def residual_block(v, x, stride, dilation):
  """A basic block, or with a third convolution a bottleneck."""
  if 'conv3' in v['params']:
    y = relu(normalize(v, 'bn1', convolve(v, 'conv1', x)))
    y = convolve(v, 'conv2', y, stride, dilation)
    y = relu(normalize(v, 'bn2', y))
    y = normalize(v, 'bn3', convolve(v, 'conv3', y))
  else:
    y = convolve(v, 'conv1', x, stride, dilation)
    y = relu(normalize(v, 'bn1', y))
    y = normalize(v, 'bn2', convolve(v, 'conv2', y, 1, dilation))
  if 'downsample_conv' in v['params']:
    x = convolve(v, 'downsample_conv', x, stride)
    x = normalize(v, 'downsample_norm', x)
  return relu(y + x)


def resnet(v, image, layers, output_stride):
  x = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  x = relu(normalize(v, 'bn1', convolve(v, 'conv1', x, stride=2)))
  x = np.max([x for _, x in windows(x, 3, 2, 1, 1, -np.inf)], axis=0)
  features = {}
  rules = zip(BLOCKS[layers], RULE[output_stride], strict=True)
  for n, (blocks, (stride, first, dilation)) in enumerate(rules, start=1):
    x = residual_block(part(v, f'layer{n}_0'), x, stride, first)
    for i in range(1, blocks):
      x = residual_block(part(v, f'layer{n}_{i}'), x, 1, dilation)
    features[f'layer{n}'] = x
  return features


# ---- Shapes ------------------------------------------------------------------


@pytest.mark.parametrize('output_stride', RULE)
@pytest.mark.parametrize('layers', BLOCKS)
def test_every_tap_has_its_stride_and_channels(layers, output_stride):
  features, _ = shapes_of(layers, output_stride)
  expansion = 4 if layers == 50 else 1
  strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
  assert {tap: x.shape for tap, x in features.items()} == {
    f'layer{n}': (2, 64 // stride, 96 // stride, channels * expansion)
    for n, stride, channels in zip(
      (1, 2, 3, 4), strides, (64, 128, 256, 512), strict=True
    )
  }
  assert tuple(features) == ResNet.taps
  assert ResNet(output_stride=output_stride).stride == output_stride


# torchvision's numbers of its models, less those of their classifiers.
@pytest.mark.parametrize(
  'layers, count',
  [
    (18, 11_689_512 - 513_000),
    (34, 21_797_672 - 513_000),
    (50, 25_557_032 - 2_049_000),
  ],
)
def test_the_number_of_parameters_is_that_of_torchvision(layers, count):
  _, variables = shapes_of(layers)
  leaves = jax.tree.leaves(variables['params'])
  assert sum(math.prod(x.shape) for x in leaves) == count


@pytest.mark.parametrize('layers', BLOCKS)
def test_dilation_changes_no_variable(layers):
  _, variables = shapes_of(layers)
  for output_stride in (8, 16):
    assert shapes_of(layers, output_stride)[1] == variables


def test_layers_have_the_names_of_torchvision():
  _, variables = shapes_of(50)
  block = {f'{kind}{i}' for kind in ('conv', 'bn') for i in (1, 2, 3)}
  shortcut = {'downsample_conv', 'downsample_norm'}
  expected = {'conv1': {'kernel'}, 'bn1': {'scale', 'bias'}}
  for n, blocks in enumerate(BLOCKS[50], start=1):
    for i in range(blocks):
      expected[f'layer{n}_{i}'] = block | shortcut if i == 0 else block
  params = variables['params']
  assert {name: set(layer) for name, layer in params.items()} == expected


def test_a_width_scales_all_channels_and_leaves_at_least_one():
  features, _ = shapes_of(50, width=1 / 16)
  assert [x.shape[-1] for x in features.values()] == [16, 32, 64, 128]
  features, _ = shapes_of(18, width=1e-6)
  assert features['layer1'].shape[-1] == 1


# ---- Numbers -----------------------------------------------------------------


@pytest.mark.parametrize(
  'size, stride, dilation', [(3, 2, 1), (7, 2, 1), (3, 1, 4)]
)
@pytest.mark.parametrize('sides', [(8, 10), (7, 9)], ids=['even', 'odd'])
def test_convolutions_pad_symmetrically(sides, size, stride, dilation, float64):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *sides, 3))
  module = conv(4, size, stride=stride, dilation=dilation, name='conv')
  kernel = rng.normal(size=(size, size, 3, 4))
  y = module.apply({'params': {'kernel': kernel}}, x)
  v = {'params': {'conv': {'kernel': kernel}}}
  assert_close(y, convolve(v, 'conv', x, stride, dilation))


@pytest.mark.parametrize(
  'stride, dilation', [(1, 1), (2, 1), (1, 2), (1, 4), (2, 2)]
)
@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_a_block_strides_and_dilates_its_3x3_convolutions(
  block, stride, dilation, float64
):
  norm = functools.partial(BatchNorm, use_running_average=True)
  module = block(3, norm, stride, dilation)
  x = np.random.default_rng(0).normal(size=(2, 9, 12, 5))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  v = random_variables(shapes)
  y = jit(module.apply)(v, x)
  assert_close(y, residual_block(v, x, stride, dilation))


@pytest.mark.parametrize('block, channels', [(BasicBlock, 4), (Bottleneck, 16)])
def test_a_block_that_keeps_the_shape_adds_its_input(block, channels, float64):
  norm = functools.partial(BatchNorm, use_running_average=True)
  module = block(4, norm)
  x = np.random.default_rng(0).normal(size=(2, 8, 8, channels))
  v = random_variables(jax.eval_shape(module.init, jax.random.key(0), x))
  assert not [name for name in v['params'] if 'downsample' in name]
  # Without what is added to it.
  last = max(name for name in v['params'] if name.startswith('bn'))
  v['params'][last] = jax.tree.map(np.zeros_like, v['params'][last])
  np.testing.assert_array_equal(jit(module.apply)(v, x), relu(x))


def test_images_are_normalized_by_the_statistics_of_imagenet(float64):
  backbone = ResNet(width=1 / 16, layers=18)
  _, shapes = shapes_of(18, width=1 / 16)
  v = random_variables(shapes)

  @jit
  def stem(image):
    _, state = backbone.apply(
      v,
      image,
      tasks=(),
      train=False,
      capture_intermediates=lambda module, _: module.name == 'conv1',
    )
    return state['intermediates']['conv1']['__call__'][0]

  image = np.broadcast_to([0.485, 0.456, 0.406], (1, *SIZE, 3))
  assert not np.any(stem(image))
  image = image + np.array([0.229, 0.224, 0.225])
  assert_close(stem(image), convolve(v, 'conv1', np.ones(image.shape), 2))


@pytest.mark.parametrize(
  'layers, output_stride', [(10, 8), (34, 32), (50, 16), (50, 8)]
)
def test_all_features_agree_with_numpy(layers, output_stride, float64):
  backbone = ResNet(width=1 / 16, layers=layers, output_stride=output_stride)
  _, shapes = shapes_of(layers, width=1 / 16)
  v = random_variables(shapes)
  image = np.random.default_rng(1).random((2, *SIZE, 3))
  run = jit(functools.partial(backbone.apply, tasks=(), train=False))
  features = run(v, image)
  expected = resnet(v, image, layers, output_stride)
  assert features.keys() == expected.keys()
  for tap, x in features.items():
    assert_close(x, expected[tap])


def test_statistics_of_a_batch_split_over_an_axis(float64):
  _, shapes = shapes_of(18, width=1 / 32)
  v = random_variables(shapes)
  image = np.random.default_rng(1).random((4, 32, 64, 3))

  def apply(axis_name, image):
    backbone = ResNet(width=1 / 32, layers=18, axis_name=axis_name)
    return backbone.apply(
      v, image, tasks=(), train=True, mutable=['batch_stats']
    )

  @jit
  def run(image):
    halves = image.reshape(2, 2, *image.shape[1:])
    split = jax.vmap(functools.partial(apply, 'devices'), axis_name='devices')
    return apply(None, image), split(halves)

  (features, stats), (split_features, split_stats) = run(image)
  for tap, x in features.items():
    assert_close(split_features[tap].reshape(x.shape), x)
  for x, y in zip(
    jax.tree.leaves(stats), jax.tree.leaves(split_stats), strict=True
  ):
    assert_close(y, np.stack([x, x]))


@pytest.mark.parametrize(
  'layers, output_stride, plain', [(18, 32, 13), (18, 8, 9), (50, 32, 13)]
)
def test_which_convolutions_are_conv3x3(
  layers, output_stride, plain, monkeypatch
):
  ours = []
  monkeypatch.setattr(
    conv_module,
    'choose',
    lambda *shape: ours.append(shape) or conv_module.DIRECT,
  )
  shapes_of.__wrapped__(layers, output_stride)
  assert len(ours) == plain
