"""Smoothed and refreshed weights, normalized gradients, against NumPy."""

import jax
import numpy as np
import pytest

from mtl_kd_jax.balancing import make_balancer, normalized, refreshed, smoothed

NAMES = ('a', 'b')
KEY = jax.random.key(0)


def draw(seed):
  """Losses and gradients of two tasks, float32 of very different lengths."""
  rng = np.random.default_rng(seed)
  losses = {n: np.float32(rng.uniform(0.5, 3)) for n in NAMES}
  gradients = {
    n: np.float32(scale * rng.normal(size=5))
    for n, scale in zip(NAMES, (1.0, 30.0), strict=True)
  }
  return losses, gradients


def least_norm(a, b):
  """The weights of MGDA for two gradients, in closed form."""
  share = np.clip((b @ (b - a)) / ((a - b) @ (a - b)), 0, 1)
  return np.array([share, 1 - share])


@pytest.mark.parametrize('kind', ['l2', 'loss', 'loss+'])
def test_gradients_are_divided_before_they_are_combined(kind):
  balancer = normalized(make_balancer('mgda'), kind)
  losses, gradients = draw(0)
  got, _ = jax.jit(balancer.update)(
    losses, gradients, balancer.init(NAMES), KEY
  )
  norm = {n: np.linalg.norm(g.astype(np.float64)) for n, g in gradients.items()}
  divisor = {
    'l2': norm,
    'loss': losses,
    'loss+': {n: losses[n] * norm[n] for n in NAMES},
  }[kind]
  scaled = [gradients[n].astype(np.float64) / divisor[n] for n in NAMES]
  weights = least_norm(*scaled)
  direction = weights @ np.array(scaled)
  np.testing.assert_allclose(got.direction, direction, rtol=1e-4, atol=1e-5)
  # Those of the gradients as they were: the same direction.
  mixed = sum(float(got.weights[n]) * gradients[n] for n in NAMES)
  np.testing.assert_allclose(mixed, direction, rtol=1e-4, atol=1e-5)


def test_weights_follow_slowly_and_wait_for_a_missing_task():
  beta = 0.75
  plain = make_balancer('mgda')
  balancer = smoothed(plain, beta)
  update = jax.jit(balancer.update)
  state, mean = balancer.init(NAMES), None
  for step in range(4):
    losses, gradients = draw(step)
    present = {'a': True, 'b': step != 2}
    got, state = update(losses, gradients, state, KEY, present=present)
    g = [gradients[n].astype(np.float64) for n in NAMES]
    new = least_norm(*g) if present['b'] else np.array([1.0, 0.0])
    before, mean = mean, new if mean is None else beta * mean + (1 - beta) * new
    if not present['b']:
      mean[1] = before[1]
    used = mean * np.array([present[n] for n in NAMES])
    np.testing.assert_allclose(
      [got.weights[n] for n in NAMES], used, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      got.direction, used @ np.array(g), rtol=1e-4, atol=1e-4
    )


def test_weights_of_losses_follow_slowly_too():
  beta = 0.5
  plain = make_balancer('gls')
  balancer = smoothed(plain, beta)
  state, mean = balancer.init(NAMES), None
  for step in range(3):
    losses, _ = draw(step)
    weights, _ = plain.update(losses, plain.init(NAMES), KEY)
    new = np.array([weights[n] for n in NAMES])
    got, state = balancer.update(losses, state, KEY)
    mean = new if mean is None else beta * mean + (1 - beta) * new
    np.testing.assert_allclose([got[n] for n in NAMES], mean, rtol=1e-5)


def test_weights_are_kept_until_the_nth_step():
  """Weights are of the last whole step, gradients are always the newest."""
  balancer = refreshed(make_balancer('mgda'), 3)
  update, state = jax.jit(balancer.update), balancer.init(NAMES)
  for step in range(7):
    losses, gradients = draw(step)
    a, b = (gradients[n].astype(np.float64) for n in NAMES)
    due = step % 3 == 0
    kept = balancer.reuse(state, NAMES)
    assert bool(kept.due) == due
    if due:
      w = least_norm(a, b)
    else:
      reused = [kept.weights[n] for n in NAMES]
      np.testing.assert_allclose(reused, w, rtol=1e-4, atol=1e-6)
    got, state = update(losses, gradients, state, KEY)
    jax.tree.map(
      np.testing.assert_array_equal, state['step'], kept.state['step']
    )
    weights = [got.weights[n] for n in NAMES]
    np.testing.assert_allclose(weights, w, rtol=1e-4, atol=1e-6)
    expected = w[0] * a + w[1] * b
    np.testing.assert_allclose(got.direction, expected, rtol=1e-4, atol=1e-4)


def test_a_missing_task_finds_its_kept_weight_again():
  balancer = refreshed(make_balancer('mgda'), 3)
  update, state = jax.jit(balancer.update), balancer.init(NAMES)
  losses, gradients = draw(0)
  first, state = update(losses, gradients, state, KEY)
  alone, state = update(
    losses, gradients, state, KEY, present={'a': True, 'b': False}
  )
  again, state = update(losses, gradients, state, KEY)
  assert alone.weights == {'a': first.weights['a'], 'b': 0}
  assert again.weights == first.weights
