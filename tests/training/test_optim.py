"""Adam as in torch, and schedules by closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.training.optim import (
  make_adam,
  make_optimizer,
  make_schedule,
)

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


def test_a_warm_up_grows_to_the_schedule():
  options = {'steps_per_epoch': 4, 'epochs': 5}
  plain = make_schedule('cosine', 0.1, **options)
  warm = make_schedule('cosine', 0.1, warmup_epochs=1.5, **options)
  for step in range(20):
    factor = min(1, (step + 1) / 6)
    assert float(warm(step)) == pytest.approx(factor * float(plain(step)))
  with pytest.raises(InputError, match='warmup_epochs'):
    make_schedule('cosine', 0.1, warmup_epochs=5, **options)


# ---- Optimizers --------------------------------------------------------------


def network_like(seed):
  rng = np.random.default_rng(seed)
  return {
    'backbone': {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)},
    'head_depth': {'kernel': rng.normal(size=(4, 1))},
  }


def steps_of(**options):
  params = network_like(0)
  gradients = [network_like(step + 1) for step in range(STEPS)]
  tx = make_optimizer(learning_rate=0.1, **options)
  return (
    run(tx, to_float32(params), [to_float32(g) for g in gradients]),
    params,
    gradients,
  )


def test_adam_without_options_keeps_the_layout_of_its_state():
  params = to_float32(network_like(0))
  state = make_optimizer('adam', 0.1).init(params)
  same = make_adam(0.1, weight_decay=0).init(params)
  assert jax.tree.structure(state) == jax.tree.structure(same)
  decayed = make_optimizer('adam', 0.1, weight_decay=0.1).init(params)
  same = make_adam(0.1, weight_decay=0.1).init(params)
  assert jax.tree.structure(decayed) == jax.tree.structure(same)


def test_adamw_is_that_of_torch_and_spares_biases():
  actual, params, gradients = steps_of(
    name='adamw', weight_decay=0.5, decay_on='kernels'
  )
  # torch.optim.AdamW by its documentation: p <- p - rate * decay * p, then the
  # step of Adam. The two add up.
  expected, plain = params, params
  for t in range(1, STEPS + 1):
    last = torch_adam(
      params, gradients[: t - 1], rates=[0.1] * (t - 1), weight_decay=0
    )
    plain = torch_adam(params, gradients[:t], rates=[0.1] * t, weight_decay=0)
    expected = jax.tree.map(
      lambda p, new, old: p * (1 - 0.1 * 0.5 * (p.ndim > 1)) + new - old,
      expected,
      plain,
      last,
    )
  assert_close(actual, expected)
  np.testing.assert_allclose(
    actual['backbone']['bias'], plain['backbone']['bias'], atol=1e-5
  )


@pytest.mark.parametrize('name', ['adam', 'sgd'])
def test_what_is_no_kernel_may_be_spared_from_decay(name):
  spared, _, _ = steps_of(name=name, weight_decay=0.5, decay_on='kernels')
  plain, _, _ = steps_of(name=name)
  whole, _, _ = steps_of(name=name, weight_decay=0.5)
  bias, kernel = (
    [x['backbone'][leaf] for x in (spared, plain, whole)]
    for leaf in ('bias', 'kernel')
  )
  np.testing.assert_allclose(bias[0], bias[1], atol=1e-7)
  np.testing.assert_allclose(kernel[0], kernel[2], atol=1e-7)
  assert np.abs(bias[0] - bias[2]).max() > 1e-3
  assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_sgd_is_that_of_torch():
  actual, params, gradients = steps_of(
    name='sgd', momentum=0.8, weight_decay=0.1
  )
  velocity = jax.tree.map(np.zeros_like, params)
  for g in gradients:
    g = jax.tree.map(lambda g, p: g + 0.1 * p, g, params)
    velocity = jax.tree.map(lambda v, g: 0.8 * v + g, velocity, g)
    params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
  assert_close(actual, params)


def test_long_gradients_are_clipped_over_all_parameters():
  actual, params, gradients = steps_of(name='sgd', momentum=0, clip_norm=1.0)
  for g in gradients:
    length = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
    assert length > 1
    params = jax.tree.map(lambda p, g, n=length: p - 0.1 * g / n, params, g)
  assert_close(actual, params)


@pytest.mark.parametrize('name', ['adam', 'adamw', 'sgd'])
def test_the_backbone_may_learn_at_another_rate(name):
  params, _, _ = steps_of(name=name, backbone_rate=0.1)
  plain, begun, _ = steps_of(name=name)
  moved, whole = (
    jax.tree.map(
      lambda p, q: np.float64(p) - q, x['backbone'], begun['backbone']
    )
    for x in (params, plain)
  )
  assert_close(moved, jax.tree.map(lambda x: 0.1 * x, whole), 1e-5)
  assert_close(params['head_depth'], plain['head_depth'], 1e-7)


@pytest.mark.parametrize('change', [{'name': 'lion'}, {'decay_on': 'heads'}])
def test_an_unknown_optimizer_is_refused(change):
  with pytest.raises(InputError) as error:
    make_optimizer(**({'name': 'adam', 'learning_rate': 0.1} | change))
  assert error.value.argument == next(iter(change))
