"""Every loss balancer against its paper's rule, over several steps."""

import functools

from fixtures import balancing_rules as rules
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.balancing import BALANCERS, make_balancer
from mtl_kd_jax.errors import InputError

NAMES = ('semantic', 'depth', 'normals')  # not in the order of their names
ORDER = sorted(NAMES)
KINDS = {'semantic': 'classification', 'depth': 'regression'}
FIXED = {'semantic': 2.0, 'depth': 0.0, 'normals': 0.5}


class Fixed:
  def __init__(self, k):
    self.weights = np.array([FIXED[t] for t in ORDER])

  def step(self, losses):
    return self.weights


# name -> [(options, the rule in NumPy)]; what is random has tests of its own.
REFERENCES = {
  'uniform': [({}, rules.Uniform)],
  'fixed': [({'weights': FIXED}, Fixed), ({}, rules.Uniform)],
  'uncertainty': [
    ({}, functools.partial(rules.Uncertainty, form='half')),
    ({'form': 'liebel'}, functools.partial(rules.Uncertainty, form='liebel')),
    (
      {'form': 'kendall', 'kinds': KINDS},
      functools.partial(
        rules.Uncertainty,
        form='kendall',
        classification=[ORDER.index('semantic')],
      ),
    ),
  ],
  'dwa': [
    ({'window': 2}, functools.partial(rules.DWA, window=2)),
    (
      {'window': 1, 'temperature': 1.0},
      functools.partial(rules.DWA, window=1, temperature=1.0),
    ),
  ],
  'rlw': [],
  'gls': [({}, rules.GLS)],
  'scale_invariant': [({}, rules.ScaleInvariant)],
  'stch': [
    ({}, functools.partial(rules.STCH, form='log')),
    (
      {'warmup': 2, 'mu': 0.5},
      functools.partial(rules.STCH, form='log', warmup=2, mu=0.5),
    ),
    (
      {'form': 'paper', 'mu': 0.3},
      functools.partial(rules.STCH, form='paper', mu=0.3),
    ),
  ],
  'imtl_l': [({}, rules.IMTLL)],
  'famo': [({}, rules.FAMO)],
}
CASES = [
  pytest.param(name, options, rule, id=f'{name}{i or ""}')
  for name, cases in REFERENCES.items()
  for i, (options, rule) in enumerate(cases)
]


def by_task(losses):
  return {t: jnp.float32(x) for t, x in zip(ORDER, losses, strict=True)}


def vector(weights):
  return np.array([weights[t] for t in sorted(weights)])


def test_every_loss_balancer_has_a_reference():
  assert set(REFERENCES) == set(BALANCERS)


@pytest.mark.parametrize('name, options, rule', CASES)
def test_some_steps_are_those_of_the_paper(name, options, rule):
  balancer, reference = make_balancer(name, **options), rule(3)
  state = balancer.init(NAMES)
  update = jax.jit(balancer.update)
  rng = np.random.default_rng(0)
  for time in range(7):
    before, after = np.exp(rng.normal(size=(2, 3)))
    weights, state = update(by_task(before), state, jax.random.key(time))
    np.testing.assert_allclose(
      vector(weights), reference.step(before), rtol=2e-4
    )
    if balancer.observe:
      state = balancer.observe(by_task(after), state)
      reference.observe(after)


@pytest.mark.parametrize('name', BALANCERS)
def test_a_task_without_labels_is_as_if_it_were_not_there(name):
  balancer = make_balancer(name)
  state, small = balancer.init(NAMES), balancer.init(NAMES[:2])
  update = jax.jit(balancer.update)
  rng = np.random.default_rng(1)
  present = {t: jnp.array(t in NAMES[:2]) for t in NAMES}
  absent = NAMES[2]
  for time in range(4):
    losses = by_task(np.exp(rng.normal(size=3)))
    two = {t: losses[t] for t in NAMES[:2]}
    # What stands there counts for nothing, as long as it is a number.
    losses[absent] = jnp.float32(0)
    got, state = update(losses, state, jax.random.key(time), present=present)
    want, small = update(two, small, jax.random.key(time))
    assert got[absent] == 0
    if name != 'rlw':  # one more draw
      for t in two:
        np.testing.assert_allclose(got[t], want[t], rtol=1e-5)
    if balancer.observe:
      after = by_task(np.exp(rng.normal(size=3)))
      state = balancer.observe(after, state, present=present)
      small = balancer.observe({t: after[t] for t in NAMES[:2]}, small)
  got, state = update(
    losses, state, jax.random.key(0), present=dict.fromkeys(NAMES, False)
  )
  assert not vector(got).any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('name', BALANCERS)
def test_losses_of_any_size_give_finite_weights(name):
  balancer = make_balancer(name)
  update = jax.jit(balancer.update)
  for losses in ([0, 0, 0], [1e30, 1, 1e-30], [1e-30, 0, 1]):
    state = balancer.init(NAMES)
    for time in range(2):
      weights, state = update(by_task(losses), state, jax.random.key(time))
      if balancer.observe:
        state = balancer.observe(by_task(losses), state)
      assert np.isfinite(vector(weights)).all()
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_random_weights_are_a_softmax_of_normals():
  update = jax.jit(make_balancer('rlw').update)
  losses = by_task([1, 2, 3])
  draws = np.stack(
    [vector(update(losses, (), jax.random.key(i))[0]) for i in range(400)]
  )
  np.testing.assert_allclose(draws.sum(1), 1, rtol=1e-5)
  logs = np.log(draws) - np.log(draws).mean(1, keepdims=True)
  # Three standard normals about their mean: variance 2/3.
  np.testing.assert_allclose(logs.var(), 2 / 3, rtol=0.15)
  np.testing.assert_allclose(logs.mean(0), 0, atol=0.15)


def test_learned_weights_settle_where_their_papers_say():
  """Losses that stay put: e^s L = 1 for IMTL-L, e^s = L for the half form."""
  losses = [0.5, 1.0, 2.0]
  for name, settled in (('imtl_l', 1 / np.array(losses)), ('uncertainty', 0)):
    balancer = make_balancer(name, learning_rate=0.05)
    state, update = balancer.init(NAMES), jax.jit(balancer.update)
    for time in range(300):
      weights, state = update(by_task(losses), state, jax.random.key(time))
    if name == 'uncertainty':
      settled = 0.5 / np.array(losses)
    np.testing.assert_allclose(vector(weights), settled, rtol=1e-2)


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('fixed', {'weights': {'depth': -1.0}}, r'weights\.depth'),
    ('fixed', {'weights': {'depth': 0.0}}, 'above 0 for some task'),
    ('uncertainty', {'form': 'magic'}, 'kendall, half, liebel'),
    ('uncertainty', {'kinds': {'depth': 'x'}}, r'kinds\.depth'),
    ('dwa', {'window': 0}, 'at least 1'),
    ('dwa', {'temperature': 0.0}, 'above 0'),
    ('stch', {'mu': float('nan')}, 'above 0'),
    ('famo', {'learning_rate': 'fast'}, 'above 0'),
    ('cagrad', {'c': 1.0}, 'below 1'),
    ('aligned_mtl', {'scale': 'mean'}, 'min, median, rmse'),
    ('graddrop', {'leak': {'depth': 2.0}}, 'at most 1'),
    ('moco', {'projection': 'none'}, 'simplex, softmax'),
    ('mgda', {'speed': 1}, 'options of mgda: none'),
  ],
)
def test_an_option_that_cannot_be_is_refused(name, options, message):
  with pytest.raises(InputError, match=message):
    make_balancer(name, **options)


def test_a_task_without_its_option_is_refused_at_the_start():
  for name, options in (
    ('fixed', {'weights': {'depth': 1.0}}),
    ('upgrad', {'preference': {'depth': 1.0}}),
    ('stch', {'preference': {'depth': 1.0}}),
    ('graddrop', {'leak': {'depth': 1.0}}),
  ):
    with pytest.raises(InputError, match='none for normals, semantic'):
      make_balancer(name, **options).init(NAMES)
  with pytest.raises(InputError, match='some of depth, normals, semantic'):
    make_balancer('auto_lambda', primary=('edges',)).init(NAMES)
