"""Every balancer of the registry keeps the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.balancing import BALANCERS, make_balancer
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.errors import InputError

NAMES = ('semantic', 'depth', 'normals')
LOSSES = {'semantic': 2.5, 'depth': 0.7, 'normals': 0.0}


@pytest.fixture(params=BALANCERS)
def balancer(request):
  return make_balancer(request.param)


def make_losses(names=NAMES, factor=1.0):
  return {name: jnp.float32(factor * LOSSES[name]) for name in names}


def structure(tree):
  return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def assert_same(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_balancer_is_two_functions(balancer):
  assert isinstance(balancer, Balancer)
  assert callable(balancer.init)
  assert callable(balancer.update)


@pytest.mark.parametrize('names', [NAMES, ('depth',)], ids=len)
def test_there_is_a_finite_scalar_weight_for_every_task(balancer, names):
  losses = make_losses(names)
  weights, _ = balancer.update(losses, balancer.init(names), jax.random.key(0))
  assert set(weights) == set(names)
  for weight in weights.values():
    assert jnp.shape(weight) == ()
    assert weight.dtype == jnp.float32
    assert jnp.isfinite(weight)


def test_the_state_is_a_pytree_of_arrays_that_keeps_its_form(balancer):
  state = balancer.init(NAMES)
  before = structure(state)
  leaves = jax.tree.leaves(state)
  assert all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
  for step in range(3):
    losses = make_losses(factor=0.5**step)
    key = jax.random.fold_in(jax.random.key(0), step)
    _, state = balancer.update(losses, state, key)
    assert structure(state) == before


def test_the_state_passes_through_jit(balancer):
  state = jax.jit(lambda state: state)(balancer.init(NAMES))
  assert_same(state, balancer.init(NAMES))
  compiled = jax.jit(balancer.update)
  expected_state = state
  for step in range(3):
    losses = make_losses(factor=0.5**step)
    key = jax.random.fold_in(jax.random.key(0), step)
    weights, state = compiled(losses, state, key)
    expected, expected_state = balancer.update(losses, expected_state, key)
    for name in NAMES:
      np.testing.assert_allclose(weights[name], expected[name], rtol=1e-5)
    assert structure(state) == structure(expected_state)


def test_the_same_key_gives_the_same_weights(balancer):
  state = balancer.init(NAMES)
  first, second = (
    balancer.update(make_losses(), state, jax.random.key(3)) for _ in range(2)
  )
  assert_same(first, second)


def test_uniform_weights_are_1_whatever_the_losses():
  balancer = make_balancer('uniform')
  state = balancer.init(NAMES)
  for factor in (1, 1e6, 0):
    losses = make_losses(factor=factor)
    weights, state = balancer.update(losses, state, jax.random.key(0))
    assert {name: float(w) for name, w in weights.items()} == dict.fromkeys(
      NAMES, 1.0
    )


def test_an_unknown_balancer_is_refused_with_advice():
  with pytest.raises(InputError) as error:
    make_balancer('magic')
  assert 'magic' in error.value.found
  for name in BALANCERS:
    assert name in error.value.expected
  assert error.value.where == 'config.balancing.name'
