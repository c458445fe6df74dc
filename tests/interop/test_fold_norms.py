"""BatchNorm is folded where that changes nothing, and nowhere else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.interop.fold_norms import fold_norms
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.ops.norm import BatchNorm


class Backbone(nn.Module):
  """With BatchNorms of several kinds, called in several ways."""

  bias: bool = False
  read_twice: bool = False
  stride = 4

  @nn.compact
  def __call__(self, image, *, tasks, train):
    x = nn.Conv(4, (3, 3), use_bias=self.bias, name='conv')(image)
    y = BatchNorm(use_running_average=not train, name='norm')(x)
    if self.read_twice:
      y = y + x
    # Of a sum, of which there is no kernel; and without a scale.
    y = BatchNorm(use_running_average=not train, name='of_sum')(y + 1)
    shared = nn.Dense(4, name='shared')
    norm = nn.BatchNorm(
      use_running_average=not train, use_scale=False, name='shared_norm'
    )
    y = norm(shared(nn.relu(norm(shared(y)))))
    return {'decoder': y}


def make(**options):
  network = Network(Backbone(**options), {'depth': 1}, DenseHead)
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False), image
  )
  rng = np.random.default_rng(0)

  def draw(x):
    return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)

  return network, jax.tree.map(draw, shapes)


@pytest.mark.parametrize('bias', [False, True])
def test_folded_networks_compute_the_same(bias):
  network, variables = make(bias=bias)
  before = jax.tree.map(np.copy, variables)
  folded = fold_norms(network, variables, image_size=(8, 8))
  assert (folded.folded, folded.kept) == (2, 1)
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  images = np.random.default_rng(1).uniform(size=(2, 8, 12, 3))
  images = images.astype(np.float32)
  wanted = network.apply(variables, images, train=False).predictions['depth']
  found = folded.apply(folded.variables, images)['depth']
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  backbone = folded.variables['params']['backbone']
  # The offset is a bias: of the layer, or of what was the BatchNorm.
  assert ('norm' in backbone) != bias
  gain = variables['params']['backbone']['norm']['scale'] / np.sqrt(
    variables['batch_stats']['backbone']['norm']['var'] + 1e-5
  )
  kernel = variables['params']['backbone']['conv']['kernel'] * gain
  np.testing.assert_allclose(backbone['conv']['kernel'], kernel, rtol=1e-5)
  assert list(folded.variables['batch_stats']['backbone']) == ['of_sum']


def test_nothing_is_folded_where_it_would_change_the_network():
  network, variables = make(read_twice=True)
  folded = fold_norms(network, variables, image_size=(8, 8))
  assert (folded.folded, folded.kept) == (0, 3)
  assert folded.variables is variables
