"""Adaptors: as many parameters as the reference has, and linear maps."""

import jax
import numpy as np

from mtl_kd_jax.distillation.adaptors import Adaptors, Alignment, Pair


def test_adaptors_for_three_tasks_have_the_parameters_of_the_reference():
  # Those of SegNet at full width.
  features = {'bottleneck': (2, 2, 3, 512), 'decoder': (2, 64, 96, 64)}
  pairs = {Pair(tap, tap): shape[-1] for tap, shape in features.items()}
  tasks = ('semantic', 'depth', 'normals')
  adaptors = Adaptors({task: Alignment(task, task, pairs) for task in tasks})
  variables = jax.eval_shape(
    adaptors.init,
    jax.random.key(0),
    {k: jax.ShapeDtypeStruct(v, 'float32') for k, v in features.items()},
  )
  kernels = jax.tree.leaves(variables)
  assert len(kernels) == 6
  assert sum(kernel.size for kernel in kernels) == 798_720


def test_adaptors_are_linear_maps_without_bias():
  low, high = Pair('low', 'low'), Pair('high', 'top')
  adaptors = Adaptors(
    {
      'depth': Alignment('depth', 'depth', {low: 4, high: 2}),
      'normals': Alignment('normals', 'normals', {low: 3, high: 6}),
    }
  )
  rng = np.random.default_rng(0)
  features = {
    'low': rng.normal(size=(2, 1, 2, 5)).astype(np.float32),
    'high/depth': rng.normal(size=(2, 2, 4, 3)).astype(np.float32),
    'high/normals': rng.normal(size=(2, 2, 4, 3)).astype(np.float32),
  }
  variables = adaptors.init(jax.random.key(0), features)
  adapted = adaptors.apply(variables, features)
  assert adapted.keys() == {'depth', 'normals'}
  for task, pairs in adapted.items():
    assert pairs.keys() == {low, high}
    for pair, x in pairs.items():
      params = variables['params'][f'{task}_{pair}']
      assert params.keys() == {'kernel'}
      kernel = np.asarray(params['kernel'], np.float64)
      feature = features['low' if pair == low else f'high/{task}']
      np.testing.assert_allclose(x, feature @ kernel, rtol=1e-4, atol=1e-5)
