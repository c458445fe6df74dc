"""Every balancer of both registries keeps the contract."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import BALANCERS, GRADIENT_BALANCERS, GradientBalancer
from mtl_kd_jax.errors import InputError

ALL = BALANCERS | GRADIENT_BALANCERS
NAMES = ('semantic', 'depth', 'normals')  # not in the order of their names
# Rules whose file cannot have the name of their key; the file says why.
OTHER_FILES = {'config': 'config_conflict_free'}


def arrays(names, dtype='float32'):
  """Losses and gradients, as shapes."""
  losses = {t: jax.ShapeDtypeStruct((), dtype) for t in names}
  one = {
    'bias': jax.ShapeDtypeStruct((4,), 'float32'),
    'kernel': jax.ShapeDtypeStruct((3, 2), dtype),
  }
  return losses, dict.fromkeys(names, one)


def trace(balancer, names=NAMES, dtype='float32'):
  """(state, weights by task, direction or None, state after), as shapes."""
  losses, gradients = arrays(names, dtype)

  def run(losses, gradients, state, key, present):
    before = jax.tree.leaves(state)
    if isinstance(balancer, GradientBalancer):
      combined, after = balancer.update(
        losses,
        gradients,
        state,
        key,
        present=present,
        probe=lambda part, shift: gradients,
      )
      weights = [combined.weights, combined.task_specific]
      direction = combined.direction
    else:
      weights, after = balancer.update(losses, state, key, present=present)
      weights, direction = [weights], None
      if balancer.observe:
        after = balancer.observe(losses, after, present=present)
    # The arguments are left as they are.
    assert all(
      x is y for x, y in zip(before, jax.tree.leaves(state), strict=True)
    )
    return weights, direction, after

  state = jax.eval_shape(lambda: balancer.init(names, gradients))
  present = dict.fromkeys(names, jax.ShapeDtypeStruct((), bool))
  return state, *jax.eval_shape(
    run, losses, gradients, state, jax.random.key(0), present
  )


def wrapped(balancer):
  """The balancer in all wrappers that it may have."""
  combines = isinstance(balancer, GradientBalancer)
  if combines and balancer.num_minibatches == 1:
    balancer = balancing.normalize_gradients(balancer, 'loss+')
  if not combines or balancer.linear:
    balancer = balancing.mean_weight(balancer, 1.0)
    balancer = balancing.weight_ema(balancer, 0.5)
  if combines and balancer.linear:
    balancer = balancing.update_every(balancer, 2)
  return balancer


@pytest.mark.parametrize(
  'x64, dtype',
  [
    (False, 'float16'),
    (False, 'bfloat16'),
    (False, 'float32'),
    (True, 'float32'),
    (True, 'float64'),
  ],
)
@pytest.mark.parametrize('name', ALL)
def test_weights_are_float32_and_all_else_keeps_its_form(name, x64, dtype):
  """Nothing is compiled again in the second step: no type is weak, or other."""
  plain = balancing.make(name)
  cases = [(plain, NAMES)]
  if dtype == 'float32':
    cases += [(plain, NAMES[:1]), (wrapped(plain), NAMES)]
  with jax.enable_x64(x64):
    for balancer, names in cases:
      state, weights, direction, after = trace(balancer, names, dtype)
      assert after == state
      assert not any(x.weak_type for x in jax.tree.leaves(after))
      scalar = jax.ShapeDtypeStruct((), 'float32')
      for by_task in weights:
        assert by_task == dict.fromkeys(names, scalar)
      if name in GRADIENT_BALANCERS:
        assert direction == arrays(names, dtype)[1][names[0]]


@pytest.mark.parametrize('name', ALL)
def test_a_new_state_may_be_donated(name):
  """No buffer occurs twice in it, bare or inside of the wrappers."""
  balancer = balancing.make(name)
  gradients = {t: jnp.zeros(3) for t in NAMES}
  states = [balancer.init(NAMES, gradients)]
  if getattr(balancer, 'linear', False):
    wrapped = balancing.weight_ema(balancer, 0.5)
    wrapped = balancing.update_every(wrapped, 2)
    states.append(wrapped.init(NAMES, gradients))
  for state in states:
    leaves = jax.tree.leaves(state)
    assert all(isinstance(x, jax.Array) for x in leaves)
    places = {x.unsafe_buffer_pointer() for x in leaves}
    assert len(places) == len(leaves)


@pytest.mark.parametrize('name', ALL)
def test_a_rule_stands_in_the_file_of_its_name(name):
  file = ALL[name].__module__.rpartition('.')[2]
  assert file == OTHER_FILES.get(name, name)


def test_no_gradient_flows_through_weights():
  balancer = balancing.make('scale_invariant')

  def total(losses):
    weights, _ = balancer.update(losses, balancer.init(NAMES), None)
    return sum(weights[t] * losses[t] for t in NAMES)

  losses = {t: jnp.float32(i + 1) for i, t in enumerate(NAMES)}
  gradient = jax.jit(jax.grad(total))(losses)
  for t in NAMES:  # and not that of a constant
    np.testing.assert_allclose(gradient[t], 1 / losses[t], rtol=1e-6)


def test_rules_that_compare_gradients_of_several_batches_say_so():
  refused = {
    name for name in GRADIENT_BALANCERS if not balancing.make(name).on_features
  }
  assert refused == {
    'sdmgrad',
    'modo',
    'moco',
    'db_mtl',
    'excess_mtl',
    'auto_lambda',
  }
  assert not balancing.make('gradvac', groups='leaf').on_features
  assert balancing.make('db_mtl', beta=0.0).on_features


def test_only_graddrop_over_a_batch_needs_features():
  for name in GRADIENT_BALANCERS:
    assert balancing.make(name).on_parameters
  balancer = balancing.make('graddrop', over_batch=True)
  assert not balancer.on_parameters
  assert not balancing.normalize_gradients(balancer, 'l2').on_parameters


@pytest.mark.parametrize('name', GRADIENT_BALANCERS)
def test_products_are_exact_on_every_platform(name):
  """The default is TF32 on GPUs and bfloat16 on TPUs."""
  balancer = balancing.make(name)
  program = str(jax.make_jaxpr(lambda: trace_values(balancer))())
  exact = 'precision=(Precision.HIGHEST, Precision.HIGHEST)'
  assert program.count(exact) == program.count('dot_general[')


# ---- Options ----------------------------------------------------------------


@pytest.mark.parametrize('name', ALL)
def test_options_are_plain_values_that_make_takes(name):
  options = balancing.options(name)
  assert json.loads(json.dumps(options)) == {
    k: list(v) if isinstance(v, tuple) else v for k, v in options.items()
  }
  assert None not in options.values()
  # {} for None changes nothing.
  bare, given = (
    jax.make_jaxpr(lambda b=b: trace_values(b))()
    for b in (balancing.make(name), balancing.make(name, **options))
  )
  assert str(bare) == str(given)


def trace_values(balancer):
  losses = {t: jnp.float32(i + 1) for i, t in enumerate(NAMES)}
  gradients = {t: jnp.full(3, i + 1.0) for i, t in enumerate(NAMES)}
  state, key = balancer.init(NAMES, gradients), jax.random.key(0)
  if not isinstance(balancer, GradientBalancer):
    return balancer.update(losses, state, key)
  combined, state = balancer.update(
    losses, gradients, state, key, probe=lambda part, shift: gradients
  )
  return combined.direction, combined.weights, state


@pytest.mark.parametrize('name', ALL)
def test_every_option_is_described(name):
  described = inspect.getdoc(ALL[name])
  for option in inspect.signature(ALL[name]).parameters:
    assert f'\n  {option}: ' in described, option


def test_mappings_and_sequences_have_empty_defaults():
  assert balancing.options('fixed') == {'weights': {}}
  assert balancing.options('upgrad') == {'epsilon': 1e-4, 'preference': {}}
  assert balancing.options('auto_lambda')['primary'] == ()
  assert balancing.options('mgda') == {}
  # A fact of the run, and no option.
  assert balancing.options('dwa') == {'window': 25, 'temperature': 2.0}


@pytest.mark.parametrize('name', ALL)
def test_facts_of_the_run_may_be_given_to_every_rule(name):
  balancing.make(name, steps_per_epoch=7, task_kinds={'depth': 'regression'})


def test_a_window_of_0_is_an_epoch():
  def weights_after(steps, **options):
    balancer = balancing.make('dwa', **options)
    state, update = balancer.init(('a', 'b')), jax.jit(balancer.update)
    for step in range(steps):
      losses = {'a': jnp.float32(1 / (step + 1)), 'b': jnp.float32(1)}
      weights, state = update(losses, state, jax.random.key(0))
    return {t: float(w) for t, w in weights.items()}

  # Weights are 1 for two epochs of three steps, and differ afterward.
  assert weights_after(6, window=0, steps_per_epoch=3) == {'a': 1, 'b': 1}
  after = weights_after(7, window=0, steps_per_epoch=3)
  assert after['a'] < 0.9
  assert after == weights_after(7, window=3, steps_per_epoch=100)
  with pytest.raises(InputError, match='steps_per_epoch') as error:
    balancing.make('dwa', window=0)
  assert error.value.argument == 'window'


def test_the_kind_of_a_task_may_come_from_the_run_or_the_option():
  def weights(**options):
    balancer = balancing.make('uncertainty', form='kendall', **options)
    losses = {t: jnp.float32(1) for t in NAMES}
    weights, _ = jax.jit(balancer.update)(losses, balancer.init(NAMES), None)
    return [float(weights[t]) for t in NAMES]

  run = {'semantic': 'classification', 'depth': 'regression'}
  assert weights(task_kinds=run) == [1, 0.5, 0.5]
  kinds = {'semantic': 'regression', 'normals': 'classification'}
  assert weights(task_kinds=run, kinds=kinds) == [0.5, 0.5, 1]


def test_an_unknown_balancer_is_refused_with_all_names():
  for function in (balancing.make, balancing.options):
    with pytest.raises(InputError) as error:
      function('magic')
    assert 'magic' in error.value.found
    for name in ALL:
      assert name in error.value.expected
    assert error.value.argument == 'name'


@pytest.mark.parametrize(
  'name, options, argument, message',
  [
    ('fixed', {'weights': {'depth': -1.0}}, 'weights.depth', 'at least 0'),
    ('fixed', {'weights': {'depth': 0.0}}, 'weights', 'above 0 for some task'),
    ('uncertainty', {'form': 'magic'}, 'form', 'kendall, half, liebel'),
    ('uncertainty', {'kinds': {'depth': 'x'}}, 'kinds.depth', 'regression'),
    ('dwa', {'window': 2.5}, 'window', 'an integer at least 0'),
    ('dwa', {'temperature': 0.0}, 'temperature', 'above 0'),
    ('stch', {'mu': float('nan')}, 'mu', 'above 0'),
    ('famo', {'learning_rate': 'fast'}, 'learning_rate', 'above 0'),
    ('famo', {'learning_rate': True}, 'learning_rate', 'above 0'),
    ('cagrad', {'c': 1.0}, 'c', 'below 1'),
    ('aligned_mtl', {'scale': 'mean'}, 'scale', 'min, median, rmse'),
    ('graddrop', {'leak': {'depth': 2.0}}, 'leak.depth', 'at most 1'),
    ('moco', {'projection': 'none'}, 'projection', 'simplex, softmax'),
    ('mgda', {'speed': 1}, 'speed', 'options of mgda: none'),
    ('sdmgrad', {'steps': 0}, 'steps', 'at least 1'),
    ('fixed', {'weights': [1.0, 2.0]}, 'weights', 'for each task'),
    ('upgrad', {'preference': 'depth'}, 'preference', 'for each task'),
    ('uncertainty', {'kinds': ('depth',)}, 'kinds', 'for each task'),
    ('graddrop', {'over_batch': 'yes'}, 'over_batch', 'False, True'),
    ('moco', {'rescale': None}, 'rescale', 'False, True'),
  ],
)
def test_an_invalid_option_is_refused(name, options, argument, message):
  with pytest.raises(InputError, match=message) as error:
    balancing.make(name, **options)
  assert error.value.argument == argument


@pytest.mark.parametrize(
  'name, option',
  [
    ('fixed', 'weights'),
    ('upgrad', 'preference'),
    ('stch', 'preference'),
    ('sdmgrad', 'preference'),
    ('graddrop', 'leak'),
  ],
)
def test_a_task_without_its_value_is_refused_by_init(name, option):
  balancer = balancing.make(name, **{option: {'depth': 1.0}})
  with pytest.raises(InputError, match='none for normals, semantic') as error:
    balancer.init(NAMES)
  assert error.value.argument == option


@pytest.mark.parametrize(
  'name, options',
  [
    ('auto_lambda', {'primary': ('edges',)}),
    ('uncertainty', {'kinds': {'edges': 'regression'}}),
  ],
)
def test_an_option_of_an_unknown_task_is_refused_by_init(name, options):
  balancer = balancing.make(name, **options)
  with pytest.raises(InputError, match='some of depth, normals, semantic'):
    balancer.init(NAMES)
