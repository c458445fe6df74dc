"""The light head against NumPy in float64."""

import functools

from fixtures.layers import (
  assert_close,
  convolve,
  jit,
  normalize,
  random_variables,
  relu,
)
import jax
import numpy as np
import pytest

from mtl_kd_jax.models.fpn import FPNHead

CHANNELS = {'layer1': 3, 'layer2': 4, 'layer3': 5, 'layer4': 6}


def resize(x, size):
  for axis, new in zip((1, 2), size, strict=True):
    old = x.shape[axis]
    place = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.apply_along_axis(
      lambda line, old=old, place=place: np.interp(place, np.arange(old), line),
      axis,
      x,
    )
  return x


@pytest.mark.parametrize(
  'size, stride',
  [((64, 96), 32), ((64, 96), 8), ((50, 70), 16)],  # the last: no multiples
)
def test_the_head_agrees_with_numpy(size, stride):
  rng = np.random.default_rng(0)
  features = {
    tap: rng.normal(
      size=(2, *(-(-n // min(stride, 2 ** (i + 2))) for n in size), c)
    )
    for i, (tap, c) in enumerate(CHANNELS.items())
  }
  module = FPNHead(channels=2, width=1 / 16)
  with jax.enable_x64(True):
    init = functools.partial(module.init, size=size, train=False)
    v = random_variables(jax.eval_shape(init, jax.random.key(0), features))
    run = jit(functools.partial(module.apply, size=size, train=False))
    prediction, computed = run(v, features)

  x = 0.0
  for tap in ('layer4', 'layer3', 'layer2', 'layer1'):
    y = features[tap] @ v['params'][tap]['kernel']
    x = y + (resize(x, y.shape[1:3]) if tap != 'layer4' else 0)
  x = relu(normalize(v, 'norm', x))
  v_conv = {kind: tree['conv'] for kind, tree in v.items() if 'conv' in tree}
  x = relu(normalize(v_conv, 'norm', convolve(v_conv, 'conv', x)))
  assert computed.keys() == {'decoder'}
  assert computed['decoder'].shape[-1] == 8  # a sixteenth of 128
  assert_close(computed['decoder'], x)
  out = v['params']['out']
  assert_close(prediction, resize(x @ out['kernel'] + out['bias'], size))
