"""Pooling and unpooling against loops in NumPy; alone, jitted and sharded."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from mtl_kd_jax.ops.pooling import max_pool, max_unpool

SHAPE = (2, 4, 6, 3)


def make_input(seed=0, shape=SHAPE):
  """Few different values, negative ones too: most windows have ties."""
  rng = np.random.default_rng(seed)
  return rng.integers(-2, 1, shape).astype(np.float32)


def pool_by_loops(x):
  b, h, w, c = x.shape
  value = np.zeros((b, h // 2, w // 2, c), x.dtype)
  position = np.zeros(value.shape, np.uint8)
  for n, i, j, k in np.ndindex(*value.shape):
    window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k].ravel()
    position[n, i, j, k] = window.argmax()  # the first of equals
    value[n, i, j, k] = window.max()
  return value, position


def unpool_by_loops(value, position):
  b, h, w, c = value.shape
  x = np.zeros((b, 2 * h, 2 * w, c), value.dtype)
  for n, i, j, k in np.ndindex(*value.shape):
    row, column = divmod(int(position[n, i, j, k]), 2)
    x[n, 2 * i + row, 2 * j + column, k] = value[n, i, j, k]
  return x


def pick_by_loops(x, position):
  picked = np.zeros(position.shape, x.dtype)
  for n, i, j, k in np.ndindex(*position.shape):
    row, column = divmod(int(position[n, i, j, k]), 2)
    picked[n, i, j, k] = x[n, 2 * i + row, 2 * j + column, k]
  return picked


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_pooling_gives_the_maximum_and_where_it_first_is(dtype):
  x = make_input()
  value, position = max_pool(jnp.asarray(x, dtype))
  expected_value, expected_position = pool_by_loops(x)
  assert value.dtype == dtype
  assert position.dtype == jnp.uint8
  np.testing.assert_array_equal(value.astype(jnp.float32), expected_value)
  np.testing.assert_array_equal(position, expected_position)
  assert set(np.unique(position)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
  'window, position',
  [
    ([[0, 0], [0, 0]], 0),
    ([[0, 1], [1, 1]], 1),
    ([[0, 0], [1, 1]], 2),
    ([[0, 0], [0, 1]], 3),
    ([[1, 0], [0, 1]], 0),
    ([[-3, -2], [-2, -4]], 1),
  ],
)
def test_ties_go_to_the_first_in_row_major_order(window, position):
  x = jnp.asarray(window, jnp.float32).reshape(1, 2, 2, 1)
  assert max_pool(x)[1].item() == position


def test_unpooling_puts_values_back_and_zeros_elsewhere():
  rng = np.random.default_rng(1)
  value = rng.normal(size=SHAPE).astype(np.float32)
  position = rng.integers(0, 4, SHAPE).astype(np.uint8)
  np.testing.assert_array_equal(
    max_unpool(value, position), unpool_by_loops(value, position)
  )


def test_gradient_of_pooling_goes_to_the_first_maximum_alone():
  x = make_input()
  _, position = pool_by_loops(x)
  rng = np.random.default_rng(2)
  g = rng.normal(size=position.shape).astype(np.float32)
  gradient = jax.grad(lambda x: jnp.sum(max_pool(x)[0] * g))(jnp.asarray(x))
  np.testing.assert_array_equal(gradient, unpool_by_loops(g, position))


def test_gradient_of_unpooling_comes_from_the_position_alone():
  rng = np.random.default_rng(3)
  value = rng.normal(size=SHAPE).astype(np.float32)
  position = rng.integers(0, 4, SHAPE).astype(np.uint8)
  b, h, w, c = SHAPE
  g = rng.normal(size=(b, 2 * h, 2 * w, c)).astype(np.float32)
  gradient = jax.grad(lambda v: jnp.sum(max_unpool(v, position) * g))(value)
  np.testing.assert_array_equal(gradient, pick_by_loops(g, position))


# ---- Inside a program -------------------------------------------------------

SHAPES = ((4, 4, 6, 3), (3, 3, 3, 5), (4, 4, 6, 5))


def compose(x, kernel, g):
  """conv -> relu -> pool -> unpool; g is the gradient of the result."""

  def forward(x, kernel):
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    y = lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=dimensions
    )
    value, position = max_pool(jax.nn.relu(y))
    return max_unpool(value, position), value

  (y, value), vjp = jax.vjp(forward, x, kernel)
  return y, value, *vjp((g, jnp.zeros_like(value)))


def shift(x, i, j):
  """`x`, moved by (1 - i, 1 - j) pixels, zeros coming in."""
  _, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return padded[:, i : i + h, j : j + w]


def compose_by_loops(x, kernel, g):
  x, kernel, g = (a.astype(np.float64) for a in (x, kernel, g))
  taps = list(np.ndindex(3, 3))
  z = sum(shift(x, i, j) @ kernel[i, j] for i, j in taps)
  value, position = pool_by_loops(np.maximum(z, 0))
  dz = unpool_by_loops(pick_by_loops(g, position), position) * (z > 0)
  dx = sum(shift(dz, 2 - i, 2 - j) @ kernel[i, j].T for i, j in taps)
  dkernel = [np.einsum('bhwc,bhwd->cd', shift(x, i, j), dz) for i, j in taps]
  dkernel = np.reshape(dkernel, kernel.shape)
  return unpool_by_loops(value, position), value, dx, dkernel


@pytest.fixture(scope='module')
def sharded_program():
  """The composition, compiled for a batch split over four devices."""
  mesh = Mesh(np.array(jax.devices()[:4]), ('batch',))
  replicated = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec('batch'))
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES]
  step = jax.jit(
    compose,
    in_shardings=(split, replicated, split),
    out_shardings=(split, split, split, replicated),
  )
  program = step.lower(*arrays).compile()
  return lambda *a: program(
    *jax.device_put(a, (split, replicated, split))
  ), program


def make_arrays(*, integers):
  """Arguments of `compose`: integers, or any numbers."""
  rng = np.random.default_rng(0)
  arrays = [
    rng.integers(-2, 3, shape) if integers else rng.normal(size=shape)
    for shape in SHAPES
  ]
  return [a.astype(np.float32) for a in arrays]


def test_values_and_gradients_of_a_sharded_program(sharded_program):
  run, _ = sharded_program
  # Of integers float32 is exact, so ties are the same everywhere.
  arrays = make_arrays(integers=True)
  actual, expected = run(*arrays), compose_by_loops(*arrays)
  assert (expected[1] == 0).any()  # windows that relu leaves without a maximum
  names = ('result', 'value', 'dx', 'dkernel')
  for a, e, name in zip(actual, expected, names, strict=True):
    np.testing.assert_array_equal(a, e, err_msg=name)


def test_no_value_is_lost_to_rounding(sharded_program):
  run, _ = sharded_program
  # Comparing a recomputed input with its maximum would lose some of these.
  y, value, *_ = run(*make_arrays(integers=False))
  windows = np.asarray(y).reshape(4, 2, 2, 3, 2, 5)
  np.testing.assert_array_equal(windows.max((2, 4)), value)
  assert ((windows != 0).sum((2, 4)) == (np.asarray(value) > 0)).all()


def test_a_split_batch_stays_where_it_is(sharded_program):
  text = sharded_program[1].as_text()
  for movement in ('all-gather', 'all-to-all', 'collective-permute'):
    assert movement not in text
