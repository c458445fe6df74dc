"""Calls with other tasks, shapes or dtypes are refused at trace time."""

import jax
import jax.numpy as jnp
import numpy as np
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


NO_GRADIENTS = (
  None,
  1.0,
  [1.0, 2.0],
  'v',
  *(
    jax.ShapeDtypeStruct((2,), dtype)
    for dtype in (jnp.int32, bool, jnp.complex64, jax.dtypes.float0)
  ),
)


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


@pytest.mark.parametrize(
  'value, found',
  [
    (None, 'None for b'),
    ('1.0', 'a str for b'),
    ([1.0], 'a list for b'),
    (True, 'a bool for b'),
    (jnp.complex64(1), 'complex64 of shape () for b'),
    (np.ones(1), 'float64 of shape (1,) for b'),
    (jax.random.key(0), 'key<fry> of shape () for b'),
  ],
  ids=str,
)
def test_losses_are_real_numbers(value, found):
  balancer = balancing.make('gls')
  with pytest.raises(InputError) as error:
    balancer.update(losses() | {'b': value}, balancer.init(NAMES), None)
  assert (error.value.argument, error.value.found) == ('losses', found)


@pytest.mark.parametrize('value', [2, 2.0, np.float64(2), jnp.float16(2)])
def test_losses_may_be_numbers_of_python_and_numpy(value):
  balancer = balancing.make('scale_invariant')
  given = dict.fromkeys(NAMES, value)
  weights, _ = balancer.update(given, balancer.init(NAMES), None)
  assert set(map(float, weights.values())) == {0.5}


@pytest.mark.parametrize(
  'flag', [None, 'no', 0.5, np.ones(1, bool)], ids=lambda x: type(x).__name__
)
def test_flags_are_bools_of_shape_0(flag):
  balancer = balancing.make('mgda')
  present = dict.fromkeys(NAMES, True) | {'c': flag}
  error = refuse(
    'present', balancer, balancer.init(NAMES), losses(), present=present
  )
  assert error.found.endswith(' for c')


def test_values_without_names_are_refused():
  balancer = balancing.make('mgda')
  state = balancer.init(NAMES)
  for values in ([1.0, 2.0, 3.0], jnp.ones(3)):
    for argument, arguments in {
      'losses': (values, gradients()),
      'gradients': (losses(), values),
    }.items():
      error = refuse(argument, balancer, state, *arguments)
      assert 'by task' in error.expected
    refuse('present', balancer, state, losses(), present=values)


def test_observed_losses_are_scalars_of_the_tasks_of_init():
  balancer = balancing.make('famo')
  state, other = balancer.init(NAMES), balancing.make('gls').init(NAMES)
  for wrong, its_state, argument in (
    (losses(('a', 'b')), state, 'losses'),
    (losses(shape=(1,)), state, 'losses'),
    (losses(), other, 'state'),
  ):
    with pytest.raises(InputError) as error:
      balancer.observe(wrong, its_state)
    assert error.value.argument == argument


@pytest.mark.parametrize('name', GRADIENT_BALANCERS)
def test_gradients_are_floats_of_the_tasks_of_the_losses(name):
  balancer = balancing.make(name)
  state = balancer.init(NAMES, gradients())
  for names in OTHERS:
    error = refuse('gradients', balancer, state, losses(), gradients(names))
    assert 'a, b, c' in error.expected
    assert error.found == ', '.join(names)
  for leaf in NO_GRADIENTS:
    for tasks in ('b', NAMES):  # one of them, and all alike
      wrong = gradients() | {t: {'w': jnp.ones(3), 'v': leaf} for t in tasks}
      with pytest.raises(InputError, match=rf"{tasks[0]}\['v'\]") as error:
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
  'mean_weight': lambda balancer: balancing.mean_weight(balancer, 1.0),
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
  for leaf in NO_GRADIENTS:
    wrong = {t: {'w': jnp.ones(3), 'v': leaf} for t in NAMES}
    with pytest.raises(InputError) as error:
      balancer.update(losses(), wrong, state, None)
    assert error.value.argument == 'gradients'
  for other in ({}, (), {'rule': ()}, {**state, 'more': 1}):
    refuse('state', balancer, other, losses())


@pytest.mark.parametrize(
  'wrap',
  [balancing.checked, *WRAPPERS.values()],
  ids=['checked', *WRAPPERS],
)
def test_what_is_no_balancer_is_refused(wrap):
  for other in (None, 'mgda', balancing.make):
    with pytest.raises(InputError) as error:
      wrap(other)
    assert error.value.argument == 'balancer'


def test_gradients_are_not_wrapped_where_there_are_none():
  for name in ('update_every', 'normalize'):
    with pytest.raises(InputError, match='GradientBalancer'):
      WRAPPERS[name](balancing.make('gls'))


@pytest.mark.parametrize(
  'name, other',
  [
    ('famo', 'gls'),
    ('dwa', 'uncertainty'),
    ('gradnorm', 'mgda'),
    ('moco', 'mgda'),
  ],
)
def test_a_state_of_another_rule_is_refused(name, other):
  balancer = balancing.make(name)
  state = balancing.make(other).init(NAMES)
  refuse('state', balancer, state, losses())


@pytest.mark.parametrize('name', ['moco', 'db_mtl', 'excess_mtl'])
def test_a_state_for_arrays_of_other_shapes_is_refused(name):
  """It would be broadcast."""
  balancer = balancing.make(name)
  one = {t: {'w': jnp.ones(1), 'v': jnp.ones(2)} for t in NAMES}
  refuse('state', balancer, balancer.init(NAMES, one), losses(), gradients())


@pytest.mark.parametrize('name', ['rlw', 'pcgrad', 'gradvac', 'graddrop'])
def test_a_rule_that_draws_needs_a_key(name):
  balancer = balancing.make(name)
  given = [losses()] + [gradients()] * (name in GRADIENT_BALANCERS)
  with pytest.raises(InputError) as error:
    jax.eval_shape(lambda: balancer.update(*given, balancer.init(NAMES), None))
  assert error.value.argument == 'key'


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
  'names, found',
  [
    ((), 'none'),
    (('b', 'a', 'b'), 'a, b, b'),
    ('ab', 'ab'),
    ((1, 2), '1, 2'),
    (None, 'None'),
  ],
  ids=str,
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
  for one, its_state in (
    (balancer, state),
    (wrapped, wrapped.init(NAMES)),
    (nested := balancing.update_every(wrapped, 3), nested.init(NAMES)),
  ):
    with pytest.raises(InputError, match='a, b, c') as error:
      one.reuse(its_state, ('x', 'y', 'z'))
    assert error.value.argument == 'names'


def test_names_are_in_the_structure_of_the_state_and_not_in_its_arrays():
  balancer = balancing.make('uniform')
  one, two = balancer.init(NAMES), balancer.init(('x', 'y', 'z'))
  assert jax.tree.leaves(one) == jax.tree.leaves(two) == []
  assert jax.tree.structure(one) != jax.tree.structure(two)
  assert jax.tree.structure(jax.jit(lambda s: s)(one)) == jax.tree.structure(
    one
  )
