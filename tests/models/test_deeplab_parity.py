"""The heads of DeepLab in training, against the same in PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from fixtures import torch_twin as twin
from fixtures.deeplab import HEADS, RATES, make

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def to_torch(x):
  """An image, feature or kernel in PyTorch's order of axes."""
  x = np.asarray(x)
  if x.ndim == 2:  # the product that a 1x1 convolution is
    x = x[None, None]
  return torch.tensor(np.ascontiguousarray(x.transpose(_order(x.ndim))))


def _order(ndim):
  return {1: (0,), 4: (3, 2, 0, 1)}[ndim]


def feature_to_torch(x):
  return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def by_name(tree):
  """PyTorch's name of every array, e.g. 'aspp_0.norm.running_mean'."""
  return {
    '.'.join([*(k.key for k in path[:-1]), _LEAVES[path[-1].key]]): x
    for path, x in jax.tree.leaves_with_path(tree)
  }


@pytest.mark.parametrize('stride, size', [(8, (64, 96)), (16, (150, 45))])
@pytest.mark.parametrize('head', HEADS)
def test_a_head_in_training_agrees_with_pytorch(head, stride, size, float64):
  """The prediction, the running statistics, and every gradient."""
  module, features, variables = make(head, size, stride)
  cotangent = np.random.default_rng(2).normal(size=(2, *size, 2))

  @jax.jit
  def ours(params, features):
    def loss(params, features):
      (prediction, _), updated = module.apply(
        variables | {'params': params},
        features,
        size=size,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(prediction * cotangent), (prediction, updated)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, features)

  gradients, (prediction, updated) = ours(variables['params'], features)

  weights = by_name(variables['params']) | by_name(variables['batch_stats'])
  weights = {name: to_torch(x) for name, x in weights.items()}
  trained = {
    name: x.requires_grad_()
    for name, x in weights.items()
    if 'running' not in name
  }
  inputs = {
    t: feature_to_torch(x).requires_grad_() for t, x in features.items()
  }
  expected = twin.deeplab(weights, inputs, size, True, rates=RATES[stride])
  (expected * feature_to_torch(cotangent)).sum().backward()

  close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
  close(feature_to_torch(prediction), expected.detach(), atol=1e-9)
  statistics = by_name(updated['batch_stats'])
  assert statistics
  for name, x in statistics.items():
    close(x, weights[name], atol=1e-9, err_msg=name)
  by_weight = by_name(gradients[0])
  assert by_weight.keys() == trained.keys()
  for name, x in by_weight.items():
    scale = float(trained[name].grad.abs().max())
    close(
      to_torch(x), trained[name].grad, atol=1e-9 * (1 + scale), err_msg=name
    )
  for tap in module.taps:
    x = feature_to_torch(gradients[1][tap])
    scale = float(inputs[tap].grad.abs().max())
    close(x, inputs[tap].grad, atol=1e-9 * (1 + scale), err_msg=tap)
