"""Calls with other tasks, shapes or dtypes are refused at trace time."""

import jax
import jax.numpy as jnp
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import BALANCERS, GRADIENT_BALANCERS, Balancer
from mtl_kd_jax.errors import InputError

NAMES = ('a', 'b', 'c')
OTHERS = [('c',), ('a', 'b', 'z'), (*NAMES, 'd')]


def losses(names=NAMES, shape=()):
  return {t: jnp.ones(shape) for t in names}


def gradients(names=NAMES, dtype=jnp.float32):
  return {t: {'w': jnp.ones(3), 'v': jnp.ones(2, dtype)} for t in names}


def call(balancer, state, values, grads=None, **extra):
  """Traces an update, and runs nothing."""
  if isinstance(balancer, Balancer):
    arguments = (values, state, jax.random.key(0))
  else:
    grads = gradients() if grads is None else grads
    arguments = (values, grads, state, jax.random.key(0))
  return jax.eval_shape(
    lambda *args: balancer.update(*args, **extra), *arguments
  )


def refuse(argument, *args, **extra):
  """The error of a call, about `argument`."""
  with pytest.raises(InputError) as error:
    call(*args, **extra)
  assert error.value.argument == argument
  return error.value


@pytest.fixture(params=BALANCERS | GRADIENT_BALANCERS)
def balancer(request):
  return balancing.make(request.param)


def test_losses_are_scalars_of_the_tasks_of_init(balancer):
  state = balancer.init(NAMES, gradients())
  for names in OTHERS:
    error = refuse('losses', balancer, state, losses(names), gradients(names))
    assert 'a, b, c' in error.expected
    assert error.found == ', '.join(names)
  error = refuse('losses', balancer, state, losses(shape=(1,)))
  assert 'shape (1,) for a' in error.found
  refuse('present', balancer, state, losses(), present={'a': True})
  refuse('state', balancer, state['rule'], losses())


def test_observed_losses_are_scalars_of_the_tasks_of_init():
  balancer = balancing.make('famo')
  state = balancer.init(NAMES)
  for wrong in (losses(('a', 'b')), losses(shape=(1,))):
    with pytest.raises(InputError) as error:
      balancer.observe(wrong, state)
    assert error.value.argument == 'losses'


@pytest.mark.parametrize('name', GRADIENT_BALANCERS)
def test_gradients_are_floats_of_the_tasks_of_the_losses(name):
  balancer = balancing.make(name)
  state = balancer.init(NAMES, gradients())
  for names in OTHERS:
    error = refuse('gradients', balancer, state, losses(), gradients(names))
    assert 'a, b, c' in error.expected
    assert error.found == ', '.join(names)
  for dtype in (jnp.int32, jnp.complex64, jax.dtypes.float0):
    wrong = gradients()
    wrong['b']['v'] = jax.ShapeDtypeStruct((2,), dtype)
    with pytest.raises(InputError, match=r"b\['v'\]") as error:
      balancer.update(losses(), wrong, state, None)
    assert error.value.argument == 'gradients'
  for leaf in (jnp.ones(4), {'x': jnp.ones(2)}):
    wrong = gradients()
    wrong['c']['v'] = leaf
    error = refuse('gradients', balancer, state, losses(), wrong)
    assert 'others for c than for a' in error.found
  with pytest.raises(InputError) as error:
    balancer.init(NAMES, gradients(NAMES[:2]))
  assert error.value.argument == 'gradients'


@pytest.mark.parametrize('name', ['sdmgrad', 'modo', 'auto_lambda'])
def test_gradients_of_a_probe_are_of_the_same_tasks(name):
  balancer = balancing.make(name)
  state = balancer.init(NAMES)

  def probe(part, shift):
    return gradients(('a', 'b', 'z'))

  error = refuse('probe', balancer, state, losses(), probe=probe)
  assert error.found == 'a, b, z'
  refuse('probe', balancer, state, losses())  # without a probe


WRAPPERS = {
  'weight_ema': lambda balancer: balancing.weight_ema(balancer, 0.5),
  'update_every': lambda balancer: balancing.update_every(balancer, 2),
  'normalize': lambda balancer: balancing.normalize_gradients(balancer, 'l2'),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_balancers_refuse_the_same(wrap):
  balancer = wrap(balancing.make('mgda'))
  state = balancer.init(NAMES)
  for names in OTHERS:
    refuse('losses', balancer, state, losses(names), gradients(names))
    refuse('gradients', balancer, state, losses(), gradients(names))
  refuse('losses', balancer, state, losses(shape=(1,)))
  refuse('present', balancer, state, losses(), present={'a': True})


@pytest.mark.parametrize('wrap', [None, *WRAPPERS], ids=str)
def test_a_misspelled_keyword_is_refused(wrap):
  for name in ['mgda'] if wrap else BALANCERS | GRADIENT_BALANCERS:
    balancer = balancing.make(name)
    if wrap:
      balancer = WRAPPERS[wrap](balancer)
    state = balancer.init(NAMES, gradients())
    with pytest.raises(TypeError, match='presence'):
      call(balancer, state, losses(), presence=dict.fromkeys(NAMES, True))


def test_a_rule_that_is_not_checked_refuses_a_misspelled_keyword():
  balancer = balancing.from_gram(
    lambda gram, step, state: (balancing.shared_only(gram.norms), state)
  )
  with pytest.raises(TypeError, match='presence'):
    call(balancer, balancer.init(NAMES), losses(), presence=None)


@pytest.mark.parametrize('name', ['uniform', 'mgda'])
@pytest.mark.parametrize(
  'names, found', [((), 'none'), (('b', 'a', 'b'), 'a, b, b')]
)
def test_init_needs_different_names(name, names, found):
  with pytest.raises(InputError) as error:
    balancing.make(name).init(names)
  assert error.value.argument == 'names'
  assert error.value.found == found


def test_reused_weights_are_of_the_tasks_of_init():
  wrapped = balancing.update_every(balancing.make('mgda'), 2)
  balancer = balancing.checked(wrapped)
  state = balancer.init(NAMES)
  kept = balancer.reuse(state, NAMES)
  assert set(kept.weights) == set(NAMES)
  assert jax.tree.structure(kept.state) == jax.tree.structure(state)
  with pytest.raises(InputError, match='a, b, c'):
    balancer.reuse(state, ('x', 'y', 'z'))


def test_names_are_in_the_structure_of_the_state_and_not_in_its_arrays():
  balancer = balancing.make('uniform')
  one, two = balancer.init(NAMES), balancer.init(('x', 'y', 'z'))
  assert jax.tree.leaves(one) == jax.tree.leaves(two) == []
  assert jax.tree.structure(one) != jax.tree.structure(two)
  assert jax.tree.structure(jax.jit(lambda s: s)(one)) == jax.tree.structure(
    one
  )
