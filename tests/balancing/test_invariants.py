"""Invariants of every gradient balancer: order, scale, extremes."""

from fixtures.balancing_steps import cosine, draw, steps
import jax
import numpy as np
import pytest

from mtl_kd_jax.balancing import GRADIENT_BALANCERS


@pytest.fixture(params=GRADIENT_BALANCERS)
def name(request):
  return request.param


def test_linear_rules_return_the_weights_of_their_direction(name):
  balancer = steps(name)
  if not balancer.balancer.linear:
    # It says so, since the direction is another one.
    assert name in ('graddrop', 'moco', 'db_mtl')
    return
  state = balancer.init()
  for time in range(3):
    j = draw(3, time)
    got, state = balancer.step(j, 1, state)
    d = got.weights @ j
    np.testing.assert_allclose(got.direction, d, atol=1e-5 * np.linalg.norm(d))


def test_one_present_task_keeps_its_gradient(name):
  balancer, j = steps(name), draw(3)
  absent = balancer.names[1:]
  got, _ = balancer.step(j, [0.7, 1, 1], balancer.init(), absent=absent)
  assert cosine(j[:1], got.direction)[0] > 1 - 1e-5


@pytest.mark.parametrize('name', ['pcgrad', 'mgda'])
def test_a_single_task_keeps_its_gradient(name):
  balancer, j = steps(name, 1), draw(1)
  got, _ = balancer.step(j, 0.7, balancer.init())
  assert cosine(j, got.direction)[0] > 1 - 1e-5


def test_equal_gradients_are_followed(name):
  balancer, j = steps(name), np.repeat(draw(1), 3, axis=0)
  got, _ = balancer.step(j, 1, balancer.init())
  assert cosine(j[:1], got.direction)[0] > 1 - 1e-5


def test_the_order_of_tasks_does_not_matter(name):
  """Two of three tasks exchange their names; the order of two is not drawn."""
  balancer, j, losses = steps(name), draw(3), np.array([0.5, 2.0, 1.0])
  swap, absent = [1, 0, 2], balancer.names[2:]
  state = swapped = balancer.init()
  for _ in range(3):
    got, state = balancer.step(j, losses, state, absent=absent)
    other, swapped = balancer.step(
      j[swap], losses[swap], swapped, absent=absent
    )
  np.testing.assert_allclose(
    got.direction, other.direction, rtol=1e-4, atol=1e-5
  )


DEGENERATE = {
  'a zero gradient': [0, 1, 2],
  'all zero': [0, 0, 0],
  'duplicates': [1, 1, 2],
  'parallel': [1, 'x5', 2],
  'opposite': [1, '-1', 2],
  'only opposite': [1, '-1', '-1'],
  'huge and tiny': ['x1e30', 2, 'x1e-30'],
  'huge': ['x1e30', 'x1e30', 'x1e30'],
  'tiny': ['x1e-30', 'x1e-30', 'x1e-30'],
}


@pytest.mark.parametrize('loss', [1.0, 0.0])
def test_degenerate_gradients_give_finite_results(name, loss):
  if name == 'db_mtl':
    # The gradient of the logarithm of 0 is infinite.
    loss = max(loss, 1e-3)
  balancer = steps(name)
  a, b, _ = basis = draw(3)
  rows = {0: 0 * a, 1: a, 2: b, 'x5': 5 * a, '-1': -a}
  for case, kinds in DEGENERATE.items():
    j = np.stack(
      [
        rows[kind] if kind in rows else float(kind[1:]) * basis[i]
        for i, kind in enumerate(kinds)
      ]
    )
    state = balancer.init()
    for time in range(2):
      got, state = balancer.step(j, loss, state, seed=time)
      for x in jax.tree.leaves((got, state)):
        assert np.isfinite(x).all(), f'{case}: {got}'


@pytest.mark.parametrize('name', ['nash_mtl', 'imtl_g'])
def test_the_direction_of_fair_rules_does_not_depend_on_norms(name):
  scale = np.array([[1e12], [1.0], [1e-12]])
  balancer, j = steps(name), draw(3)
  one, _ = balancer.step(j, 1, balancer.init())
  two, _ = balancer.step(j * scale, 1, balancer.init())
  assert cosine(one.direction[None], two.direction)[0] > 1 - 1e-5
