"""Networks under JAX's transformations: derivatives and export."""

import functools

from fixtures.layers import assert_close, jit, random_variables
import jax
from jax import export
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.models.deeplab import DeepLabV3PlusHead
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.mtan import MTAN
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.models.resnet import ResNet
from mtl_kd_jax.models.segnet import SegNet

WIDTH = 1 / 32
SIZE = (32, 64)
NETWORKS = {
  'segnet': (SegNet(width=WIDTH), DenseHead),
  'mtan': (MTAN(width=WIDTH), DenseHead),
  'resnet18': (
    ResNet(width=WIDTH, layers=18),
    functools.partial(DeepLabV3PlusHead, width=WIDTH),
  ),
}


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def make(name):
  backbone, head = NETWORKS[name]
  return Network(backbone, {'normals': 3}, head)


def shapes_of(network, image):
  init = functools.partial(network.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), image)


@pytest.mark.parametrize('name', NETWORKS)
def test_derivatives_are_finite_differences(name, float64, shallow):
  network = make(name)
  image = np.random.default_rng(0).random((2, *SIZE, 3))
  shapes = shapes_of(network, image)
  variables = random_variables(shapes)
  params = variables.pop('params')
  direction = random_variables(shapes, seed=1)['params']

  def loss(params):
    output = network.apply({**variables, 'params': params}, image, train=False)
    return jnp.mean(jnp.sin(output.predictions['normals']))

  @jit
  def run(step):
    """Loss and gradient after a step, and their derivatives by forward mode."""
    point = jax.tree.map(lambda p, d: p + step * d, params, direction)
    pair = jax.jvp(jax.value_and_grad(loss), (point,), (direction,))
    return [[ravel_pytree(x)[0] for x in values] for values in pair]

  # So small that no ReLU or maximum changes sides.
  step = 1e-7
  before, after = run(-step)[0], run(step)[0]
  for x, a, b in zip(run(0.0)[1], before, after, strict=True):
    assert np.any(x)
    assert_close(x, (b - a) / (2 * step), tolerance=1e-6)


@pytest.mark.parametrize('name', NETWORKS)
def test_export_for_any_number_of_images(name, shallow):
  network = make(name)
  apply = functools.partial(network.apply, train=False)
  images = np.random.default_rng(0).random((3, *SIZE, 3)).astype(np.float32)
  shapes = shapes_of(network, images)
  variables = jax.tree.map(np.float32, random_variables(shapes))

  (batch,) = export.symbolic_shape('b')
  any_images = jax.ShapeDtypeStruct((batch, *SIZE, 3), jnp.float32)
  exported = export.export(jax.jit(apply))(shapes, any_images)

  @jit
  def run(variables, images):
    return exported.call(variables, images), apply(variables, images)

  actual, expected = run(variables, images)
  jax.tree.map(
    functools.partial(assert_close, tolerance=1e-4), actual, expected
  )
