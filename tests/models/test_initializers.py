"""Initial kernels: their numbers, and how few programs draw them."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.models.initializers import kaiming_normal, xavier_normal

SHAPES = [(7, 7, 3, 16), (5, 3), (3, 3, 64, 65), (1, 1, 1, 1)]
FLAX = {
  kaiming_normal: nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
  xavier_normal: nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal'),
}


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('ours, flax', FLAX.items(), ids=['kaiming', 'xavier'])
def test_kernels_are_those_of_flax(ours, flax, shape):
  key = jax.random.key(3)
  kernel = ours(key, shape)
  assert kernel.dtype == jnp.float32
  np.testing.assert_allclose(kernel, flax(key, shape, jnp.float32), rtol=1e-6)
  # Within a program they are drawn in another way.
  np.testing.assert_allclose(
    kernel, jax.jit(lambda key: ours(key, shape))(key), rtol=1e-6
  )


def test_kernels_of_all_sizes_share_programs(caplog):
  jax.clear_caches()
  sizes = [(n, n + 1) for n in range(2, 60)]  # up to 8^4 numbers
  with (
    jax.log_compiles(),
    caplog.at_level(logging.WARNING, logger='jax'),
  ):
    kernels = [kaiming_normal(jax.random.key(0), size) for size in sizes]
  assert [x.shape for x in kernels] == sizes
  messages = [r.getMessage() for r in caplog.records]
  compiled = [m for m in messages if m.startswith('Finished XLA compilation')]
  assert sum('_normal' in m for m in compiled) == 1
  assert len(compiled) <= 4  # with what makes the key
