"""Products and pooling under JAX's transformations, in float64."""

import functools

import jax
from jax import export, lax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from mtl_kd_jax.ops.conv import forms, taps
from mtl_kd_jax.ops.conv.primitives import product
from mtl_kd_jax.ops.pooling import max_pool, max_unpool

SHAPE = (2, 4, 6, 3)
KERNEL = (3, 3, 3, 2)
# Forms on the CPU and elsewhere, and the shape of the kernel.
PRODUCTS = {
  'winograd': (forms.WINOGRAD, forms.DIRECT, KERNEL),
  'few': (forms.TO_FEW, forms.DIRECT, KERNEL),
  'small': (
    forms.DIRECT._replace(input_gradient=taps.input_gradient_of_small),
    forms.DIRECT,
    KERNEL,
  ),
  'pointwise': (forms.POINTWISE_FLAT, forms.POINTWISE, (3, 2)),
}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def make(name):
  """Our operation, the same of JAX's own, and the shape of the kernel."""
  cpu, elsewhere, shape = PRODUCTS[name]
  ours = functools.partial(product, cpu=cpu, elsewhere=elsewhere)
  return ours, plain_conv if len(shape) == 4 else jnp.matmul, shape


def plain_conv(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def draw(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def assert_close(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, e, rtol=0, atol=1e-13 * abs(e).max())


def loss_of(operation):
  """A scalar of the result whose derivatives of any order are not zero."""

  def loss(*operands):
    y = operation(*operands)
    return jnp.sum(jnp.sin(y) * jnp.cos(jnp.arange(y.size)).reshape(y.shape))

  return loss


def derivatives(operation, point, direction):
  """First and second derivatives, in all orders of the two modes."""
  loss = loss_of(operation)
  gradient = jax.grad(loss, tuple(range(len(point))))

  def slope(*point):
    return jax.jvp(loss, point, direction)[1]

  def projection(*point):
    return sum(map(jnp.vdot, gradient(*point), direction))

  @jax.jit
  def run():
    return {
      'forward': jax.jvp(operation, point, direction),
      'forward over forward': jax.jvp(slope, point, direction),
      'forward over reverse': jax.jvp(gradient, point, direction),
      'reverse over forward': jax.grad(slope)(*point),
      'reverse over reverse': jax.grad(projection)(*point),
    }

  return run()


# ---- Products ----------------------------------------------------------------


@pytest.mark.parametrize('name', PRODUCTS)
def test_derivatives_of_products(name):
  ours, plain, shape = make(name)
  x, kernel, dx, dkernel = draw(SHAPE, shape, SHAPE, shape)
  arguments = (x, kernel), (dx, dkernel)
  assert_close(derivatives(ours, *arguments), derivatives(plain, *arguments))


@pytest.mark.parametrize('axes', [(2, None), (None, 0), (1, 1)])
@pytest.mark.parametrize('name', ['few', 'pointwise'])
def test_mapped_operands(name, axes):
  ours, plain, shape = make(name)
  shapes = [
    s if axis is None else (*s[:axis], 5, *s[axis:])
    for s, axis in zip((SHAPE, shape), axes, strict=True)
  ]
  operands = draw(*shapes)

  def results(operation):
    mapped = jax.vmap(operation, axes, out_axes=1)
    gradients = jax.vmap(jax.grad(loss_of(operation), (0, 1)), axes)
    return {
      'value': mapped(*operands),
      'gradients one by one': gradients(*operands),
      'gradient of the sum': jax.grad(loss_of(mapped), (0, 1))(*operands),
    }

  assert_close(
    jax.jit(lambda: results(ours))(), jax.jit(lambda: results(plain))()
  )


@pytest.mark.skipif(jax.device_count() < 4, reason='4 devices are needed')
@pytest.mark.parametrize('name', ['few', 'pointwise'])
def test_gradients_are_summed_over_the_devices_of_a_checked_map(name):
  ours, plain, shape = make(name)
  x, kernel = draw((8, *SHAPE[1:]), shape)
  mesh = Mesh(np.array(jax.devices()[:4]), ('batch',))
  split, replicated = PartitionSpec('batch'), PartitionSpec()

  @jax.jit
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(split, replicated),
    out_specs=(split, replicated),
  )
  def gradients(x, kernel):
    def loss(x, kernel):
      return lax.psum(jnp.sum(ours(x, kernel) ** 2), 'batch')

    return jax.grad(loss, (0, 1))(x, kernel)

  expected = jax.grad(lambda *a: jnp.sum(plain(*a) ** 2), (0, 1))(x, kernel)
  assert_close(gradients(x, kernel), expected)


@pytest.mark.parametrize('name', PRODUCTS)
def test_other_platforms_get_the_operations_of_jax(name):
  ours, plain, shape = make(name)
  operands = draw(SHAPE, shape)

  def program(operation, platform):
    def run(x, kernel):
      gradient = jax.grad(loss_of(operation), (0, 1))
      return jax.jvp(gradient, (x, kernel), (x, kernel))

    exported = export.export(jax.jit(run), platforms=(platform,))(*operands)
    text = exported.mlir_module()
    kinds = ('convolution', 'dot_general', 'reshape', 'concatenate')
    return [text.count(f'stablehlo.{kind}') for kind in kinds]

  for platform in ('cuda', 'tpu'):
    assert program(ours, platform) == program(plain, platform)
  assert program(ours, 'cpu') != program(plain, 'cpu')


# ---- Pooling -----------------------------------------------------------------


def pool_and_unpool(x):
  value, position = max_pool(x)
  return max_unpool(value**2, position)


def pool_and_unpool_by_index(x):
  """The same by indices into the windows."""
  b, h, w, c = x.shape
  windows = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
  windows = windows.reshape(*windows.shape[:4], 4)
  position = jnp.argmax(windows, -1, keepdims=True)
  value = jnp.take_along_axis(windows, position, -1)
  windows = (value**2) * jax.nn.one_hot(position[..., 0], 4)
  windows = windows.reshape(*windows.shape[:4], 2, 2)
  return windows.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)


def test_derivatives_of_pooling():
  x, dx = draw((2, 4, 6, 2), (2, 4, 6, 2))
  assert_close(
    derivatives(pool_and_unpool, (x,), (dx,)),
    derivatives(pool_and_unpool_by_index, (x,), (dx,)),
  )


def test_mapped_pooling():
  (x,) = draw((2, 4, 3, 6, 2))

  def results(f):
    mapped = jax.vmap(f, in_axes=2, out_axes=1)
    return {
      'value': mapped(x),
      'gradients one by one': jax.vmap(jax.grad(loss_of(f)), in_axes=2)(x),
      'gradient of the sum': jax.grad(loss_of(mapped))(x),
    }

  assert_close(
    jax.jit(lambda: results(pool_and_unpool))(),
    jax.jit(lambda: results(pool_and_unpool_by_index))(),
  )


def test_unpooling_values_of_a_map_at_shared_positions():
  value, x = draw((3, 2, 2, 3, 2), (2, 4, 6, 2))
  position = max_pool(x)[1]
  actual = jax.vmap(max_unpool, in_axes=(0, None))(value, position)
  for i in range(3):
    np.testing.assert_array_equal(actual[i], max_unpool(value[i], position))
