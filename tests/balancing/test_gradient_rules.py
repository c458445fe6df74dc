"""Every gradient balancer: its rule, its invariants, and what it must bear."""

import functools

from fixtures import balancing_rules as rules
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.balancing import (
  GRADIENT_BALANCERS,
  Combined,
  GradientBalancer,
  make_balancer,
)
from mtl_kd_jax.balancing.gram import inner_products
from mtl_kd_jax.balancing.surgery import orders
from mtl_kd_jax.errors import InputError

# Not in the order of their names, and more than enough.
NAMES = ('semantic', 'depth', 'normals', 'edges', 'parts', 'a', 'b', 'c', 'x')
NAMES = (*NAMES, 'y')
SHAPES = {'bias': (7,), 'kernel': (4, 6)}

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


# What is compiled here runs for microseconds: optimizing it takes far longer.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(params=GRADIENT_BALANCERS)
def name(request):
  return request.param


@functools.cache
def made(name, **options):
  """A balancer, compiled once for each number of tasks in all tests."""
  balancer = make_balancer(name, **options)

  @quick_jit
  def update(losses, gradients, state, key, present, others):
    def probe(part, shift):
      # As if the gradient changed with the parameters as those of others[0].
      moved = others[part - 1]
      if shift is not None:
        moved = {
          t: jax.tree.map(lambda g, s: g - 100 * s, g, shift)
          for t, g in moved.items()
        }
      return moved

    return balancer.update(
      losses, gradients, state, key, present=present, probe=probe
    )

  return balancer._replace(update=update)


def step(balancer, j, losses, state, *, seed=0, absent=(), others=None):
  """One update, with gradients given as rows in the order of sorted names."""
  names = sorted(NAMES[: len(j)])
  others = [j, j] if others is None else others
  present = {t: jnp.array(t not in absent) for t in names}
  return balancer.update(
    dict(zip(names, map(jnp.float32, losses), strict=True)),
    trees(j, names),
    state,
    jax.random.key(seed),
    present,
    [trees(o, names) for o in others],
  )


def trees(j, names, dtype=jnp.float32):
  """{task: pytree} of the rows of J."""
  j, split = np.asarray(j), SHAPES['bias'][0]
  return {
    t: {
      'bias': jnp.asarray(row[:split], dtype),
      'kernel': jnp.asarray(row[split:].reshape(SHAPES['kernel']), dtype),
    }
    for t, row in zip(names, j, strict=True)
  }


def start(balancer, k):
  names = NAMES[:k]
  return balancer.init(names, trees(np.zeros((k, 31)), names))


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def draw(k, seed=0, spread=1.0):
  """Conflicting gradients [K 31] of different lengths."""
  rng = np.random.default_rng((k, seed))
  j = rng.normal(size=(k, 31)) + 0.7 * rng.normal(size=(1, 31))
  return j * np.exp(spread * rng.normal(size=(k, 1)))


# ---- The rule ---------------------------------------------------------------


def test_every_gradient_balancer_has_a_reference():
  assert set(REFERENCES) == set(GRADIENT_BALANCERS)


@pytest.mark.parametrize('name, options, rule', CASES)
def test_some_steps_are_those_of_the_paper(name, options, rule):
  k = 3
  balancer, reference = made(name, **options), rule(k)
  state = start(balancer, k)
  rng = np.random.default_rng(k)
  for time in range(5):
    j, first, second = (draw(k, seed=10 * time + i) for i in range(3))
    losses = np.exp(rng.normal(size=k))
    got, state = step(
      balancer, j, losses, state, seed=time, others=[first, second]
    )
    key = jax.random.key(time)

    def probe(part, shift, parts=(first, second)):
      return parts[part - 1] - (0 if shift is None else 100 * shift)

    extra = {
      'orders': np.asarray(orders(key, k)),
      # One draw for each array, in their order.
      'uniform': np.concatenate(
        [
          np.ravel(jax.random.uniform(jax.random.fold_in(key, i), shape))
          for i, shape in enumerate(SHAPES.values())
        ]
      ),
      'probe': probe,
    }
    direction, own = reference.step(j, losses, **extra)
    size = np.linalg.norm(direction)
    np.testing.assert_allclose(
      flat(got.direction), direction, atol=3e-4 * size, rtol=0
    )
    by_name = dict(zip(sorted(NAMES[:k]), own, strict=True))
    for t, x in got.own.items():
      np.testing.assert_allclose(x, by_name[t], rtol=1e-4)


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
  """Those that TorchJD publishes; the same numbers come out of its code."""
  options = {'c': 0.5, 'rescale': 'none'} if name == 'cagrad' else {}
  j = np.zeros((2, 31))
  j[:, :3] = [[-4, 1, 1], [6, 1, 1]]
  balancer = made(name, **options)
  got, _ = step(balancer, j, np.ones(2), start(balancer, 2))
  weights, direction = GOLDEN[name]
  np.testing.assert_allclose(flat(got.direction)[:3], direction, atol=6e-5)
  if weights:
    found = [got.weights[t] for t in sorted(NAMES[:2])]
    np.testing.assert_allclose(found, weights, atol=6e-5)


# ---- Optimality -------------------------------------------------------------


def cosine(a, b):
  return (
    a @ b / np.linalg.norm(a, axis=-1) / np.maximum(np.linalg.norm(b), 1e-30)
  )


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
  balancer = made(name, **options)
  names = sorted(NAMES)
  for k in (2, 3, 5, 10):
    for seed in range(10):
      j = draw(10, seed=seed, spread=0.7)
      absent = names[k:]
      state = start(balancer, 10)
      got, _ = step(balancer, j, np.ones(10), state, absent=absent)
      weights = np.float64([got.weights[t] for t in names])
      assert not weights[k:].any()
      d = weights @ j
      check(j[:k], weights[:k], d)
      size = np.linalg.norm(d)
      np.testing.assert_allclose(flat(got.direction), d, atol=1e-4 * size)


def test_two_tasks_have_the_closed_forms():
  rng = np.random.default_rng(0)
  for _ in range(20):
    a, b = rng.normal(size=(2, 31)) * np.exp(rng.normal(size=(2, 1)))
    j = np.stack([a, b])
    balancer = made('mgda')
    got, _ = step(balancer, j, np.ones(2), start(balancer, 2))
    # Desideri 2012: the nearest point of a segment to the origin.
    share = np.clip((b - a) @ b / ((b - a) @ (b - a)), 0, 1)
    np.testing.assert_allclose(
      got.weights[sorted(NAMES[:2])[0]], share, atol=1e-5
    )
    balancer = made('nash_mtl', max_norm=0.0)
    got, _ = step(balancer, j, np.ones(2), start(balancer, 2))
    # Two unit vectors share their bisector.
    c = cosine(a[None], b)[0]
    x = 1 / np.sqrt(1 + c) / np.linalg.norm(j, axis=1)
    np.testing.assert_allclose(
      [got.weights[t] for t in sorted(NAMES[:2])], x, rtol=1e-4
    )


# ---- The contract -----------------------------------------------------------


def test_what_comes_out_is_as_the_contract_says(name):
  balancer = made(name)
  assert isinstance(balancer, GradientBalancer)
  state, before = start(balancer, 3), None
  for time in range(3):
    got, state = step(balancer, draw(3, time), np.ones(3), state)
    assert isinstance(got, Combined)
    assert set(got.weights) == set(got.own) == set(NAMES[:3])
    for x in (*got.weights.values(), *got.own.values()):
      assert x.shape == ()
      assert x.dtype == jnp.float32
    assert {k: x.shape for k, x in got.direction.items()} == SHAPES
    form = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert before in (None, form)
    before = form
  initial = jax.tree.map(lambda x: (x.shape, x.dtype), start(balancer, 3))
  assert initial == before
  if balancer.linear:
    j = draw(3, 2)
    d = sum(
      float(got.weights[t]) * row
      for t, row in zip(sorted(NAMES[:3]), j, strict=True)
    )
    np.testing.assert_allclose(
      flat(got.direction), d, atol=1e-5 * np.linalg.norm(d)
    )


def test_one_task_keeps_its_gradient(name):
  balancer, j = made(name), draw(3)
  state, absent = start(balancer, 3), sorted(NAMES[:3])[1:]
  got, _ = step(balancer, j, [0.7, 1, 1], state, absent=absent)
  assert cosine(j[:1], flat(got.direction))[0] > 1 - 1e-5


@pytest.mark.parametrize('name', ['pcgrad', 'mgda', 'upgrad', 'nash_mtl'])
def test_there_may_be_just_one_task(name):
  balancer, j = made(name), draw(1)
  got, _ = step(balancer, j, [0.7], start(balancer, 1))
  assert cosine(j, flat(got.direction))[0] > 1 - 1e-5


def test_equal_gradients_are_followed(name):
  balancer, j = made(name), np.repeat(draw(1), 3, axis=0)
  got, _ = step(balancer, j, np.ones(3), start(balancer, 3))
  assert cosine(j[:1], flat(got.direction))[0] > 1 - 1e-5


def test_the_order_of_tasks_does_not_matter(name):
  """Two tasks under each other's names; no order is drawn for them."""
  balancer, j, losses = made(name), draw(2), np.array([0.5, 2.0])
  state = swapped = start(balancer, 2)
  for _ in range(3):
    got, state = step(balancer, j, losses, state)
    other, swapped = step(balancer, j[::-1], losses[::-1], swapped)
  np.testing.assert_allclose(
    flat(got.direction), flat(other.direction), rtol=1e-4, atol=1e-5
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


@pytest.mark.parametrize('losses', [1.0, 0.0], ids=['losses', 'no losses'])
def test_degenerate_gradients_give_something_finite(name, losses):
  balancer = made(name)
  basis = draw(3)
  if name == 'db_mtl' and losses == 0:
    pytest.skip('the logarithm of 0 has no gradient to be shown in float32')
  for case, rows in DEGENERATE.items():
    j = np.stack(
      [
        {0: 0 * basis[i], 1: basis[0], 2: basis[1], '-1': -basis[0]}[row]
        if row in (0, 1, 2, '-1')
        else float(row[1:]) * basis[0 if row == 'x5' else i]
        for i, row in enumerate(rows)
      ]
    )
    state = start(balancer, 3)
    for time in range(2):
      got, state = step(balancer, j, np.full(3, losses), state, seed=time)
      for x in jax.tree.leaves((got, state)):
        assert np.isfinite(x).all(), f'{case}: {got}'


def test_the_direction_of_fair_rules_does_not_depend_on_lengths():
  scale = np.array([[1e12], [1.0], [1e-12]])
  for name in ('nash_mtl', 'imtl_g'):
    balancer, j = made(name), draw(3)
    one, _ = step(balancer, j, np.ones(3), start(balancer, 3))
    two, _ = step(balancer, j * scale, np.ones(3), start(balancer, 3))
    assert cosine(flat(one.direction)[None], flat(two.direction))[0] > 1 - 1e-5


# ---- Missing tasks, parts, devices, dtypes ----------------------------------


def test_a_task_without_labels_is_as_if_it_were_not_there(name):
  """Three tasks of which one is absent, and the other two alone."""
  whole, losses = made(name), np.array([0.5, 9.0, 2.0])
  keep = [i for i, t in enumerate(sorted(NAMES[:3])) if t in NAMES[:2]]
  absent = next(t for t in NAMES[:3] if t not in NAMES[:2])
  gone = sorted(NAMES[:3]).index(absent)
  state, small = start(whole, 3), start(whole, 2)
  for time in range(3):
    j = draw(3, seed=time)
    j[gone] = 1e3 * j[gone]  # whatever stands there
    got, state = step(whole, j, losses, state, seed=time, absent=(absent,))
    want, small = step(whole, j[keep], losses[keep], small, seed=time)
    d = flat(want.direction)
    np.testing.assert_allclose(
      flat(got.direction), d, atol=2e-5 * np.linalg.norm(d)
    )
    assert got.weights[absent] == got.own[absent] == 0
  # No task at all: nothing to do, and nothing breaks.
  got, state = step(whole, 0 * j, losses, state, absent=NAMES[:3])
  assert not flat(got.direction).any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize(
  'name, options',
  [
    ('nash_mtl', {}),  # and with it all that need inner products alone
    ('gradvac', {'groups': 'leaf'}),
    ('graddrop', {}),
    ('graddrop', {'over_batch': True}),
  ],
)
def test_features_may_be_split_over_devices(name, options):
  """Two taps of eight samples, whole and on a mapped axis of four."""
  balancer = make_balancer(name, **options)
  rng = np.random.default_rng(0)
  names, losses = NAMES[:3], {t: jnp.float32(1) for t in NAMES[:3]}
  taps = {'low': (8, 2, 3), 'high': (8, 5)}

  def features():
    return {k: jnp.float32(rng.normal(size=s)) for k, s in taps.items()}

  values, gradients = features(), {t: features() for t in names}
  state = balancer.init(names, gradients)

  def update(values, gradients, axis_name=None):
    return balancer.update(
      losses,
      gradients,
      state,
      jax.random.key(0),
      values=values,
      axis_name=axis_name,
    )[0]

  whole = quick_jit(update)(values, gradients)
  split = jax.tree.map(
    lambda x: x.reshape(4, 2, *x.shape[1:]), (values, gradients)
  )
  mapped = quick_jit(
    jax.vmap(functools.partial(update, axis_name='batch'), axis_name='batch')
  )(*split)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      np.reshape(x, y.shape), y, rtol=1e-3, atol=1e-5
    ),
    mapped.direction,
    whole.direction,
  )
  for t, w in whole.weights.items():
    np.testing.assert_allclose(mapped.weights[t], w, rtol=1e-3, atol=1e-6)


def test_inner_products_of_half_precision_are_added_in_float32():
  rng = np.random.default_rng(0)
  j = rng.normal(size=(2, 40_000)) + 0.1
  halves = [jnp.asarray(row, jnp.bfloat16) for row in j]
  gram = jax.jit(inner_products)(halves)
  exact = np.stack([np.float64(x) for x in halves])
  np.testing.assert_allclose(
    gram.norms, np.linalg.norm(exact, axis=1), rtol=1e-5
  )
  np.testing.assert_allclose(
    gram.cosines[0, 1], cosine(exact[:1], exact[1])[0], atol=1e-6
  )
  # Squares of these overflow, and of those vanish.
  gram = jax.jit(inner_products)([jnp.full(9, 1e30), jnp.full(9, 1e-30)])
  np.testing.assert_allclose(gram.norms, [3e30, 3e-30], rtol=1e-5)
  np.testing.assert_allclose(gram.cosines, np.ones((2, 2)), rtol=1e-5)


def test_too_many_tasks_for_an_exact_solution_are_refused():
  losses = {f'task{i:02d}': jnp.ones(()) for i in range(13)}
  balancer = make_balancer('mgda')
  with pytest.raises(InputError, match='at most 12'):
    jax.eval_shape(balancer.update, losses, losses, (), jax.random.key(0))
