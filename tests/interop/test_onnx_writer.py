"""Programs in ONNX compute what JAX computes; run by onnxruntime."""

import flax.linen as nn
import jax
from jax import export, lax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.onnx_writer import convert
from mtl_kd_jax.ops.pooling import max_pool, max_unpool

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(5, 7)).astype(np.float32)
KERNEL = RNG.normal(size=(3, 3, 5, 4)).astype(np.float32)
DEPTHWISE = RNG.normal(size=(3, 2, 1, 5)).astype(np.float32)
ROWS = RNG.normal(size=(9, 8)).astype(np.float32)
VECTOR = RNG.normal(size=5).astype(np.float32)


def conv(x, kernel, strides=(1, 1), padding='SAME', **options):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=numbers, **options
  )


OPERATIONS = {
  'arithmetic': lambda x: (x + 1) * x - x / 3 + -x,
  'functions': lambda x: (
    jnp.exp(x) + jnp.tanh(x) * jnp.abs(x) + jnp.sqrt(x * x + 1) + jnp.sign(x)
  ),
  'more functions': lambda x: (
    jnp.log(x * x + 1) + jnp.floor(x) + jnp.ceil(x) + jnp.sin(x) + jnp.cos(x)
  ),
  'activations': lambda x: (
    nn.relu(x) + nn.sigmoid(x) + nn.gelu(x, approximate=False) + nn.relu6(3 * x)
  ),
  'more activations': lambda x: nn.elu(x) + nn.softplus(x) + nn.leaky_relu(x),
  'softmax': lambda x: nn.softmax(x) + x.max(axis=2, keepdims=True),
  'powers': lambda x: x**2 + x**3 + (x * x + 1) ** 0.5 + lax.rsqrt(x * x + 1),
  'comparisons': lambda x: (
    (x > 0).astype(jnp.float32)
    + jnp.where((x >= 0) & ~(x == 1) | (x < -1), x, 2.0)
    + jnp.where(x <= 0.5, 1.0, 0.0) * (x != 0)
  ),
  'limits': lambda x: jnp.clip(x, -0.5, 0.5) + jnp.minimum(x, 0.1),
  'a vector': lambda x: x * VECTOR[None, None, None] + VECTOR[None, None, None],
  'broadcasting': lambda x: jnp.concatenate(
    [x, jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)], -1
  ),
  'a constant map': lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=1),
  'reductions': lambda x: (
    x.sum(axis=(1, 2)) + x.max(axis=(1, 2)) * x.min(axis=(1, 2))
  ),
  'argmax': lambda x: x.argmax(axis=-1).astype(jnp.int32),
  'argmin': lambda x: x.argmin(axis=1),
  'axes': lambda x: x.transpose(0, 2, 1, 3)[:, :, None, :, :].reshape(
    x.shape[0], 6, -1
  ),
  'stack': lambda x: jnp.stack([x, 2 * x], axis=2),
  'slices': lambda x: x[:, 1:7:2, ::-1, 1:] + x[:, 0:6:2, 2:3, :4],
  'strides': lambda x: x[:, ::2, ::3],
  'one index': lambda x: x[:, 2, :, 3],
  'rows': lambda x: x[:, np.array([3, 0, 0, 7])],
  'pad': lambda x: jnp.pad(
    x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=7.0
  ),
  'product': lambda x: x @ MATRIX,
  'einsum': lambda x: jnp.einsum('bhwc,bvwc->bhvw', x, x),
  'rows of a matrix': lambda x: jnp.tensordot(ROWS, x, (1, 1)),
  'convolution': lambda x: conv(x, KERNEL),
  'strided': lambda x: conv(x, KERNEL, (2, 1), ((1, 0), (2, 1))),
  'dilated': lambda x: conv(x, KERNEL, rhs_dilation=(2, 1)),
  'depthwise': lambda x: conv(x, DEPTHWISE, feature_group_count=5),
  'max pooling': lambda x: nn.max_pool(x, (3, 2), (2, 2), ((1, 0), (0, 1))),
  'average pooling': lambda x: nn.avg_pool(x, (2, 3), (1, 2), 'SAME'),
  'unpooling': lambda x: max_unpool(*max_pool(x)),
}


def run(function, image, names=('y',)):
  shape = ', '.join(['batch', *map(str, image.shape[1:])])
  struct = jax.ShapeDtypeStruct(export.symbolic_shape(shape), image.dtype)
  model = convert(
    function, struct, input_name='x', output_names=names, metadata={'a': 'b'}
  )
  session = onnxruntime.InferenceSession(
    model, providers=['CPUExecutionProvider']
  )
  assert session.get_modelmeta().custom_metadata_map == {'a': 'b'}
  return dict(zip(names, session.run(names, {'x': image}), strict=True))


@pytest.mark.parametrize('name', OPERATIONS)
def test_an_operation_is_jaxs(name):
  image = RNG.normal(size=(3, 8, 6, 5)).astype(np.float32)
  wanted = OPERATIONS[name](jnp.asarray(image))
  found = run(lambda x: {'y': OPERATIONS[name](x)}, image)['y']
  assert found.shape == wanted.shape and found.dtype == wanted.dtype
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_outputs_have_the_order_that_is_given():
  image = np.zeros((2, 3, 3, 1), np.float32)
  found = run(lambda x: {'a': x + 1, 'z': x + 2}, image, names=('z', 'a'))
  assert found['z'][0, 0, 0] == 2 and found['a'][0, 0, 0] == 1


@pytest.mark.parametrize(
  'function, what',
  [
    (jnp.sort, 'sort'),
    (lambda x: jnp.cumsum(x, axis=1), 'cumsum'),
  ],
  ids=['sort', 'cumsum'],
)
def test_an_unknown_operation_is_named(function, what):
  image = np.zeros((2, 4, 4, 1), np.float32)
  with pytest.raises(InputError) as error:
    run(lambda x: {'y': function(x)}, image)
  assert what in error.value.found
  assert error.value.argument == 'network'
