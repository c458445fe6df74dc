"""Adam as in torch, and schedules by closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.training.optim import make_adam, make_schedule

STEPS = 5


def draw(seed):
  rng = np.random.default_rng(seed)
  return {
    'head': {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)},
    'scale': np.array(7.0),
  }


def to_float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def gradients_of(step):
  # Much larger at first: shows the bias correction and the two averages.
  return jax.tree.map(lambda x: x * 10.0 ** (1 - step), draw(step + 1))


def run(tx, params, gradients):
  state = tx.init(params)
  update = jax.jit(tx.update)
  for g in gradients:
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
  return params


def torch_adam(params, gradients, *, rates, weight_decay):
  """torch.optim.Adam by its documentation, in float64."""
  m = v = jax.tree.map(np.zeros_like, params)
  for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
    g = jax.tree.map(lambda g, p: g + weight_decay * p, g, params)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)

    def step(p, m, v, t=t, rate=rate):
      m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
      return p - rate * m / (np.sqrt(v) + 1e-8)

    params = jax.tree.map(step, params, m, v)
  return params


def assert_close(actual, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=tolerance),
    actual,
    expected,
  )


@pytest.mark.parametrize('weight_decay', [0, 5e-4, 0.5])
def test_adam_is_that_of_torch(weight_decay):
  params = draw(0)
  gradients = [gradients_of(step) for step in range(STEPS)]
  # Large steps, so that a wrong rule is far from the right one.
  expected = torch_adam(
    params, gradients, rates=[0.1] * STEPS, weight_decay=weight_decay
  )
  tx = make_adam(0.1, weight_decay=weight_decay)
  actual = run(tx, to_float32(params), [to_float32(g) for g in gradients])
  assert_close(actual, expected)


def test_the_decay_passes_through_the_normalization():
  # AdamW would shrink the parameters by rate * decay; here the decay is all of
  # the gradient and its size does not matter.
  params = to_float32(draw(0))
  zeros = jax.tree.map(jnp.zeros_like, params)
  moved = run(make_adam(0.1, weight_decay=0.01), params, [zeros])
  expected = jax.tree.map(lambda p: p - 0.1 * np.sign(p), params)
  assert_close(moved, expected, 1e-4)


def test_adam_follows_a_schedule_from_its_first_step():
  params = draw(0)
  gradients = [gradients_of(step) for step in range(STEPS)]
  schedule = make_schedule(
    'step',
    0.1,
    steps_per_epoch=1,
    epochs=5,
    decay_every_epochs=2,
    decay_rate=0.5,
  )
  rates = [0.1, 0.1, 0.05, 0.05, 0.025]
  expected = torch_adam(params, gradients, rates=rates, weight_decay=0)
  tx = make_adam(schedule, weight_decay=0)
  actual = run(tx, to_float32(params), [to_float32(g) for g in gradients])
  assert_close(actual, expected)


# ---- Schedules --------------------------------------------------------------


def rates_of(name, *, steps_per_epoch=7, epochs=200, decay_every_epochs=3):
  schedule = make_schedule(
    name,
    1e-4,
    steps_per_epoch=steps_per_epoch,
    epochs=epochs,
    decay_every_epochs=decay_every_epochs,
    decay_rate=0.5,
  )
  # Compiled, as in training: there a quotient may be rounded otherwise.
  steps = np.arange(steps_per_epoch * epochs + 1)
  rates = jax.jit(jax.vmap(schedule))(steps)
  return steps, np.broadcast_to(np.asarray(rates, np.float64), steps.shape)


def test_a_constant_rate_is_constant():
  _, rates = rates_of('constant')
  np.testing.assert_allclose(rates, 1e-4, rtol=1e-6)


@pytest.mark.parametrize('steps_per_epoch', [1, 7, 49, 397])
def test_steps_are_counted_in_whole_epochs(steps_per_epoch):
  steps, rates = rates_of('step', steps_per_epoch=steps_per_epoch, epochs=60)
  epoch = steps // steps_per_epoch
  np.testing.assert_allclose(rates, 1e-4 * 0.5 ** (epoch // 3), rtol=1e-5)


def test_the_schedule_of_the_paper_halves_at_epoch_100():
  # 795 images of NYUv2 in batches of 2. Compiled, 39700 / 39700 may be below 1.
  _, rates = rates_of('step', steps_per_epoch=397, decay_every_epochs=100)
  boundary = 100 * 397
  expected = [1e-4, 1e-4, 5e-5, 5e-5]
  actual = [rates[0], rates[boundary - 1], rates[boundary], rates[-2]]
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_cosine_goes_to_zero_over_the_run():
  steps, rates = rates_of('cosine')
  expected = 1e-4 * 0.5 * (1 + np.cos(math.pi * steps / 1400))
  np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-10)
  assert rates[-1] == 0


def test_an_unknown_schedule_is_refused_with_advice():
  with pytest.raises(InputError) as error:
    rates_of('linear')
  assert 'linear' in error.value.found
  for name in ('constant', 'step', 'cosine'):
    assert name in error.value.expected
  assert error.value.argument == 'schedule'
