"""Directions are optimal: the conditions of each paper, on random problems."""

from fixtures.balancing_steps import SIZE, cosine, draw, steps
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.errors import InputError


def check_mgda(j, w, d):
  assert (w >= 0).all()
  np.testing.assert_allclose(w.sum(), 1, rtol=1e-5)
  assert (j @ d).min() >= d @ d - 1e-5 * (j @ j.T).trace()


def check_nash(j, w, d):
  np.testing.assert_allclose((j @ d) * w, 1, atol=1e-3)
  np.testing.assert_allclose(np.linalg.norm(d), np.sqrt(len(j)), rtol=1e-3)


def check_fairgrad(j, w, d):
  np.testing.assert_allclose((j @ d) ** 2 * w, 1, atol=2e-3)


def check_cagrad(j, w, d):
  """In the ball, and no gap between the primal and the dual problem."""
  mean, pull = j.mean(0), w - 1 / len(j)
  radius = 0.4 * np.linalg.norm(mean)
  np.testing.assert_allclose(np.linalg.norm(d - mean), radius, rtol=1e-4)
  pull = pull / pull.sum() @ j
  dual = pull @ mean + radius * np.linalg.norm(pull)
  np.testing.assert_allclose((j @ d).min(), dual, atol=1e-4 * radius)


def check_upgrad(j, w, d):
  assert (w >= 1 / len(j) - 1e-6).all()
  assert cosine(j, d).min() > -1e-5


def check_dualproj(j, w, d):
  """The projection d of g_0 onto a cone is orthogonal to d - g_0."""
  mean = j.mean(0)
  assert (w >= 1 / len(j) - 1e-6).all()
  assert cosine(j, d).min() > -1e-5
  assert abs(d @ (d - mean)) < 1e-4 * (mean @ mean)


def check_imtl_g(j, w, d):
  projections = j @ d / np.linalg.norm(j, axis=1)
  np.testing.assert_allclose(projections, projections[0], rtol=2e-3)
  np.testing.assert_allclose(w.sum(), 1, rtol=1e-4)


def check_aligned(j, w, d):
  """Along p, all gradients together are as long as the shortest direction."""
  least = np.linalg.svd(j, compute_uv=False).min()
  np.testing.assert_allclose(
    np.linalg.norm(d), least / np.sqrt(len(j)), rtol=1e-3
  )


def check_config(j, w, d):
  angles = cosine(j, d)
  np.testing.assert_allclose(angles, angles[0], rtol=1e-3)
  assert angles[0] > 0
  unit = d / np.linalg.norm(d)
  np.testing.assert_allclose(np.linalg.norm(d), (j @ unit).sum(), rtol=1e-4)


OPTIMAL = {
  'mgda': (check_mgda, {}),
  'nash_mtl': (check_nash, {'max_norm': 0.0}),
  'fairgrad': (check_fairgrad, {'alpha': 2.0}),
  'cagrad': (check_cagrad, {'rescale': 'none'}),
  'upgrad': (check_upgrad, {'epsilon': 0.0}),
  'dualproj': (check_dualproj, {'epsilon': 0.0}),
  'imtl_g': (check_imtl_g, {}),
  'aligned_mtl': (check_aligned, {}),
  'config': (check_config, {}),
}


@pytest.mark.parametrize('name', OPTIMAL)
def test_random_problems_are_solved(name):
  """Ten tasks, and two, three and five of them: the others are absent."""
  check, options = OPTIMAL[name]
  balancer = steps(name, 10, **options)
  problems = [
    (k, draw(10, seed, 0.7)) for k in (2, 3, 5, 10) for seed in range(10)
  ]
  js = np.stack([j for _, j in problems])
  present = np.stack([np.arange(10) < k for k, _ in problems])
  got = balancer.solve(js, present)
  for (k, j), weights, direction in zip(
    problems, np.float64(got.weights), got.direction, strict=True
  ):
    assert not weights[k:].any()
    d = weights @ j
    check(j[:k], weights[:k], d)
    size = np.linalg.norm(d)
    np.testing.assert_allclose(direction, d, atol=1e-4 * size)


@pytest.mark.parametrize('name', ['mgda', 'nash_mtl'])
def test_two_tasks_have_the_closed_form(name):
  balancer = steps(name)
  rng = np.random.default_rng(0)
  for _ in range(20):
    j = rng.normal(size=(3, SIZE)) * np.exp(rng.normal(size=(3, 1)))
    a, b, _ = j
    got, _ = balancer.step(j, 1, balancer.init(), absent=balancer.names[2:])
    if name == 'mgda':
      # Desideri 2012: the nearest point of a segment to the origin.
      share = np.clip((b - a) @ b / ((b - a) @ (b - a)), 0, 1)
      weights = [share, 1 - share, 0]
    else:
      # Along the bisector of the two unit vectors, at length 1.
      c = cosine(a[None], b)[0]
      x = np.sqrt(0.5 / (1 + c))
      weights = [x / np.linalg.norm(a), x / np.linalg.norm(b), 0]
    np.testing.assert_allclose(got.weights, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['mgda', 'cagrad', 'upgrad', 'dualproj'])
def test_too_many_tasks_for_an_exact_solution_are_refused(name):
  losses = {f'task{i:02d}': jnp.ones(()) for i in range(13)}
  balancer = balancing.make(name)
  with pytest.raises(InputError, match='at most 12') as error:
    jax.eval_shape(
      balancer.update, losses, losses, balancer.init(losses), jax.random.key(0)
    )
  assert error.value.argument == 'losses'
