"""Every gradient balancer against the rule of its paper and golden values."""

import functools

from fixtures import balancing_gradient_rules as rules
from fixtures.balancing_steps import NAMES, SHAPES, SIZE, draw, steps
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import GRADIENT_BALANCERS
from mtl_kd_jax.balancing._surgery import orders

# name -> [(options, the rule in NumPy)].
REFERENCES = {
  'mgda': [({}, rules.MGDA)],
  'pcgrad': [({}, rules.Surgery)],
  'gradvac': [
    ({}, functools.partial(rules.Surgery, vaccine=True)),
    ({'beta': 0.5}, functools.partial(rules.Surgery, vaccine=True, beta=0.5)),
  ],
  'graddrop': [({}, rules.GradDrop)],
  'cagrad': [({}, rules.CAGrad)],
  'imtl_g': [({}, rules.IMTLG)],
  'imtl_h': [({}, rules.IMTLH)],
  'gradnorm': [
    ({}, rules.GradNorm),
    ({'alpha': 0.12}, functools.partial(rules.GradNorm, alpha=0.12)),
  ],
  'nash_mtl': [({}, functools.partial(rules.Fair, max_norm=1.0))],
  'fairgrad': [
    ({}, rules.Fair),
    ({'alpha': 2.0}, functools.partial(rules.Fair, alpha=2.0)),
  ],
  'aligned_mtl': [
    ({'scale': s}, functools.partial(rules.Aligned, scale=s))
    for s in ('min', 'median', 'rmse')
  ],
  'upgrad': [({}, rules.UPGrad)],
  'dualproj': [({}, rules.DualProj)],
  'config': [({}, rules.ConFIG)],
  'sdmgrad': [({}, rules.SDMGrad)],
  'modo': [({}, rules.MoDo)],
  'moco': [
    ({}, rules.MoCo),
    (
      {'projection': 'simplex'},
      functools.partial(rules.MoCo, projection=rules.onto_simplex),
    ),
  ],
  'db_mtl': [
    ({}, rules.DBMTL),
    ({'beta': 0.0}, functools.partial(rules.DBMTL, beta=0.0)),
  ],
  'excess_mtl': [({}, rules.ExcessMTL)],
  'auto_lambda': [({}, rules.AutoLambda)],
}
CASES = [
  pytest.param(name, options, rule, id=f'{name}{i or ""}')
  for name, cases in REFERENCES.items()
  for i, (options, rule) in enumerate(cases)
]


def test_every_gradient_balancer_has_a_reference():
  assert set(REFERENCES) == set(GRADIENT_BALANCERS)


def beside(key, k, others):
  """What a reference is told of a step beside gradients and losses."""

  def probe(part, shift):
    return others[part - 1] - (0 if shift is None else 100 * shift)

  # One draw for each array, in their order, from a key of its own.
  keys = jax.random.split(jax.random.fold_in(key, 0), len(SHAPES))
  draws = [
    np.ravel(jax.random.uniform(key, shape))
    for key, shape in zip(keys, SHAPES.values(), strict=True)
  ]
  return {
    'orders': np.asarray(orders(key, k)),
    'uniform': np.concatenate(draws),
    'probe': probe,
  }


@pytest.mark.parametrize('name, options, rule', CASES)
def test_several_steps_are_those_of_the_paper(name, options, rule):
  k = 3
  balancer, reference = steps(name, k, **options), rule(k)
  state = balancer.init()
  rng = np.random.default_rng(k)
  for time in range(5):
    j, *others = (draw(k, seed=10 * time + i) for i in range(3))
    losses = np.exp(rng.normal(size=k))
    got, state = balancer.step(j, losses, state, seed=time, others=others)
    extra = beside(jax.random.key(time), k, others)
    direction, task_specific = reference.step(j, losses, **extra)
    size = np.linalg.norm(direction)
    np.testing.assert_allclose(
      got.direction, direction, atol=3e-4 * size, rtol=0
    )
    np.testing.assert_allclose(got.task_specific, task_specific, rtol=1e-4)


@pytest.mark.parametrize('name', GRADIENT_BALANCERS)
def test_a_task_without_labels_is_ignored(name):
  """Three tasks of which one is absent: the reference knows of two."""
  balancer, reference = steps(name), REFERENCES[name][0][1](2)
  absent = NAMES[2]
  gone = balancer.names.index(absent)
  keep = [t != absent for t in balancer.names]
  losses = np.array([0.5, 9.0, 2.0])
  state = balancer.init()
  for time in range(3):
    j, *others = (draw(3, seed=10 * time + i) for i in range(3))
    j[gone] *= 1e3  # has no influence
    got, state = balancer.step(
      j, losses, state, seed=time, others=others, absent=(absent,)
    )
    key = jax.random.key(time)
    extra = beside(key, 2, [other[keep] for other in others])
    direction, own = reference.step(j[keep], losses[keep], **extra)
    np.testing.assert_allclose(
      got.direction, direction, atol=3e-4 * np.linalg.norm(direction)
    )
    np.testing.assert_allclose(got.task_specific[keep], own, rtol=1e-4)
    assert got.weights[gone] == got.task_specific[gone] == 0
  got, state = balancer.step(0 * j, losses, state, absent=NAMES[:3])
  assert not got.direction.any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('name', GRADIENT_BALANCERS)
def test_gradients_in_half_precision_are_combined_in_float32(name):
  """Numbers that both dtypes hold; the direction is rounded in the end."""
  balancer = steps(name)
  halves = [jnp.asarray(draw(3, seed), jnp.bfloat16) for seed in range(3)]
  j, *others = (np.float32(x) for x in halves)
  losses, present = np.float32([0.5, 3.0, 2.0]), np.ones(3, bool)
  expected, _ = balancer.step(j, losses, balancer.init(), others=others)
  got, _ = jax.jit(balancer.update)(
    halves[0], losses, balancer.init(), 0, present, jnp.stack(halves[1:])
  )
  assert got.direction.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(got.direction), expected.direction, rtol=2**-8, atol=1e-6
  )
  np.testing.assert_allclose(got.weights, expected.weights, rtol=1e-4)
  np.testing.assert_allclose(
    got.task_specific, expected.task_specific, rtol=1e-4
  )


@pytest.mark.parametrize('name', ['gradnorm', 'imtl_h', 'auto_lambda'])
def test_the_optimizer_of_a_task_without_labels_stands_still(name):
  balancer, absent = steps(name), NAMES[2]
  gone = balancer.names.index(absent)
  state = balancer.init()
  losses = np.array([0.5, 9.0, 2.0])
  _, before = balancer.step(draw(3, 0), losses, state)
  _, after = balancer.step(draw(3, 1), losses, before, absent=(absent,))
  for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True):
    assert x.shape == (3,)
    assert x[gone] == y[gone]
  count = after['rule']['opt_state'][0].count
  assert [int(n) for n in count] == [1 if i == gone else 2 for i in range(3)]


# ---- Three mini-batches -----------------------------------------------------


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize(
  'name, rule', [('sdmgrad', rules.SDMGrad), ('modo', rules.MoDo)]
)
def test_a_task_without_labels_in_another_minibatch_keeps_its_weight(
  name, rule, batch
):
  """The reference learns the weights of the other two among themselves."""
  balancer, reference = steps(name), rule(2)
  gone, keep = 1, [0, 2]
  state = balancer.init()
  for time in range(3):
    j, *others = (draw(3, seed=10 * time + i) for i in range(3))
    others[batch - 1][gone] = 0
    got, state = balancer.step(j, 1, state, others=others)
    extra = beside(jax.random.key(0), 2, [other[keep] for other in others])
    reference.step(j[keep], 1, **extra)
    w = np.insert(2 / 3 * reference.w, gone, 1 / 3)
    np.testing.assert_allclose(state['rule'], w, rtol=1e-4, atol=1e-6)
    pull = getattr(reference, 'pull', 0)
    mixed = (w + pull / 3) / (1 + pull)
    np.testing.assert_allclose(got.weights, mixed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      got.direction, mixed @ j, atol=3e-4 * np.linalg.norm(mixed @ j)
    )


@pytest.mark.parametrize('name', ['sdmgrad', 'modo'])
def test_weights_stay_where_no_task_is_measured_twice(name):
  balancer = steps(name)
  j, first, second = (draw(3, seed=i) for i in range(3))
  one, state = balancer.step(j, 1, balancer.init(), others=[first, second])
  first, second = first * [[1], [0], [0]], second * [[0], [1], [1]]
  two, after = balancer.step(j, 1, state, others=[first, second])
  np.testing.assert_allclose(after['rule'], state['rule'], rtol=1e-6)
  np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6)


# ---- Keys -------------------------------------------------------------------


def test_graddrop_draws_with_no_key_that_its_caller_may_split_off():
  """Opposite entries of equal size: the sign that stays is that of 1/2 - U."""
  g = {str(i): np.ones(1000, np.float32) for i in range(3)}
  gradients = {'a': g, 'b': jax.tree.map(np.negative, g)}
  losses, key = {'a': np.float32(1), 'b': np.float32(1)}, jax.random.key(0)
  balancer = balancing.make('graddrop')
  combined, _ = jax.jit(balancer.update)(
    losses, gradients, balancer.init(losses), key
  )
  signs = [np.sign(x) for x in combined.direction.values()]
  keys = [key, *(jax.random.fold_in(key, i) for i in range(4))]
  for x in (*keys, *jax.random.split(key, 3)):
    drawn = np.sign(0.5 - jax.random.uniform(x, (1000,)))
    for sign in signs:
      assert 400 < (sign == drawn).sum() < 600


# ---- Golden values ----------------------------------------------------------


GOLDEN = {
  # For J = [[-4, 1, 1], [6, 1, 1]]: weights, direction.
  'mgda': ((0.6, 0.4), (0, 1, 1)),
  'upgrad': ((1.1109, 0.7894), (0.2929, 1.9004, 1.9004)),
  'dualproj': ((0.6109, 0.5), (0.5563, 1.1109, 1.1109)),
  'cagrad': ((0.7041, 0.5), (0.1835, 1.2041, 1.2041)),
  'fairgrad': ((0.5915, 0.4071), (0.0766, 0.9985, 0.9985)),
  'nash_mtl': (None, (0.0542, 0.7061, 0.7061)),
  'imtl_g': ((0.5923, 0.4077), (0.0767, 1, 1)),
  'aligned_mtl': ((0.5591, 0.4083), (0.2133, 0.9673, 0.9673)),
  'pcgrad': ((2.2222, 1.5789), (0.5848, 3.8012, 3.8012)),
  'gradvac': ((2.2222, 1.5789), (0.5848, 3.8012, 3.8012)),
  'config': (None, (0.1588, 2.0706, 2.0706)),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_values(name):
  """Published by TorchJD; its code gives the same numbers."""
  options = {'c': 0.5, 'rescale': 'none'} if name == 'cagrad' else {}
  j = np.zeros((3, SIZE))
  j[:, :3] = [[-4, 1, 1], [6, 1, 1], [7, 7, 7]]
  balancer = steps(name, **options)
  last = balancer.names[2]
  got, _ = balancer.step(j, 1, balancer.init(), absent=(last,))
  weights, direction = GOLDEN[name]
  np.testing.assert_allclose(got.direction[:3], direction, atol=6e-5)
  if weights:
    np.testing.assert_allclose(got.weights, (*weights, 0), atol=6e-5)
