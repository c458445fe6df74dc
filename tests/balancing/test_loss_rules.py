"""Every loss balancer: the rule of its paper, missing tasks and extremes."""

import functools

from fixtures import balancing_rules as rules
from fixtures.balancing_steps import NAMES, LossSteps, steps
import jax
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import BALANCERS

ORDER = sorted(NAMES[:3])
KINDS = {'semantic': 'classification', 'depth': 'regression'}
FIXED = {'semantic': 2.0, 'depth': 0.0, 'normals': 0.5}


class Fixed:
  def __init__(self, k):
    self.weights = np.array([FIXED[t] for t in ORDER])

  def step(self, losses):
    return self.weights


# name -> [(options, the rule in NumPy)]; the random rule has its own test.
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


def make_steps(name, options):
  """Cached where the options can be a key of the cache."""
  if any(isinstance(value, dict) for value in options.values()):
    return LossSteps(balancing.make(name, **options), 3)
  return steps(name, **options)


def test_every_loss_balancer_has_a_reference():
  assert set(REFERENCES) == set(BALANCERS)


@pytest.mark.parametrize('name, options, rule', CASES)
def test_several_steps_are_those_of_the_paper(name, options, rule):
  balancer, reference = make_steps(name, options), rule(3)
  state = balancer.init()
  rng = np.random.default_rng(0)
  for time in range(7):
    before, after = np.exp(rng.normal(size=(2, 3)))
    weights, state = balancer.step(before, state, seed=time, after=after)
    np.testing.assert_allclose(weights, reference.step(before), rtol=2e-4)
    if balancer.balancer.observe:
      reference.observe(after)


def test_uniform_weights_are_exactly_1():
  balancer = steps('uniform')
  for losses in ([1, 2, 3], [1e30, 0, 1e-30]):
    assert balancer.step(losses, balancer.init())[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize('name', BALANCERS)
def test_a_task_without_labels_is_ignored(name):
  """Three tasks of which one is absent: the reference knows of two."""
  options, rule = ({}, None) if name == 'rlw' else REFERENCES[name][0]
  options = {} if name == 'fixed' else options
  whole = steps(name, **options)
  reference = rules.Uniform(2) if name == 'fixed' else rule and rule(2)
  state, absent = whole.init(), NAMES[2]
  keep = [t != absent for t in ORDER]
  rng = np.random.default_rng(1)
  for time in range(4):
    losses, after = np.exp(rng.normal(size=(2, 3)))
    # The value of an absent loss has no influence.
    losses[ORDER.index(absent)] = 0
    got, state = whole.step(
      losses, state, seed=time, absent=(absent,), after=after
    )
    assert got[ORDER.index(absent)] == 0
    if name == 'rlw':
      np.testing.assert_allclose(got.sum(), 1, rtol=1e-5)
      continue
    np.testing.assert_allclose(
      got[keep], reference.step(losses[keep]), rtol=2e-4
    )
    if whole.balancer.observe:
      reference.observe(after[keep])
  got, state = whole.step(losses, state, absent=ORDER)
  assert not got.any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('name', ['uncertainty', 'imtl_l'])
def test_a_learned_weight_is_kept_while_its_task_has_no_labels(name):
  balancer, losses = steps(name, learning_rate=0.05), [0.5, 3.0, 2.0]
  state = balancer.init()
  for _ in range(3):
    _, state = balancer.step(losses, state)
  due, _ = balancer.step(losses, state)
  # Adam's momentum would move it.
  _, state = balancer.step(losses, state, absent=ORDER[:1])
  again, _ = balancer.step(losses, state)
  assert again[0] == due[0]
  assert (again[1:] != due[1:]).all()


def test_a_task_without_labels_takes_no_part_in_a_step_of_adam():
  """Neither its momentum nor its bias correction go on."""
  balancer = steps('imtl_l', learning_rate=0.05)
  reference = rules.IMTLL(3, rate=0.05)
  state = balancer.init()
  rng = np.random.default_rng(0)
  for absent in ((), ORDER[:1], ORDER[:2], ORDER[1:2], (), ORDER[:1], ()):
    losses = np.exp(rng.normal(size=3))
    weights, state = balancer.step(losses, state, absent=absent)
    present = [t not in absent for t in ORDER]
    np.testing.assert_allclose(
      weights, reference.step(losses, present), rtol=1e-5
    )


@pytest.mark.parametrize('name', BALANCERS)
def test_losses_of_any_size_give_finite_weights(name):
  balancer = steps(name)
  for losses in ([0, 0, 0], [1e30, 1, 1e-30], [1e-30, 0, 1]):
    state = balancer.init()
    for time in range(2):
      weights, state = balancer.step(losses, state, seed=time)
      assert np.isfinite(weights).all()
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_random_weights_are_a_softmax_of_normals():
  balancer = steps('rlw')
  state = balancer.init()
  draws = np.stack(
    [balancer.step([1, 2, 3], state, seed=i)[0] for i in range(400)]
  )
  np.testing.assert_allclose(draws.sum(1), 1, rtol=1e-5)
  logs = np.log(draws) - np.log(draws).mean(1, keepdims=True)
  # Three standard normals about their mean: variance 2/3.
  np.testing.assert_allclose(logs.var(), 2 / 3, rtol=0.15)
  np.testing.assert_allclose(logs.mean(0), 0, atol=0.15)


@pytest.mark.parametrize(
  'name, closed_form',
  [
    ('imtl_l', lambda losses: 1 / losses),  # e^s L = 1
    ('uncertainty', lambda losses: 0.5 / losses),  # e^s = L, in the form 'half'
  ],
)
def test_learned_weights_converge_for_constant_losses(name, closed_form):
  losses = np.array([0.5, 1.0, 2.0])
  balancer = steps(name, learning_rate=0.05)
  state = balancer.init()
  for _ in range(300):
    weights, state = balancer.step(losses, state)
  np.testing.assert_allclose(weights, closed_form(losses), rtol=1e-2)
