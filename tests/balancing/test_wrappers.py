"""Averaged, scaled and reused weights, normalized gradients, against NumPy."""

from fixtures.balancing_steps import GradientSteps
from fixtures.balancing_steps import draw as draw_matrix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import (
  from_gram,
  from_losses,
  mean_weight,
  normalize_gradients,
  shared_only,
  update_every,
  weight_ema,
)
from mtl_kd_jax.errors import InputError

NAMES = ('a', 'b')
KEY = jax.random.key(0)


def draw(seed):
  """Losses and gradients of two tasks, float32 of very different lengths."""
  rng = np.random.default_rng(seed)
  losses = {n: np.float32(rng.uniform(0.5, 3)) for n in NAMES}
  gradients = {
    n: np.float32(scale * rng.normal(size=5))
    for n, scale in zip(NAMES, (1.0, 30.0), strict=True)
  }
  return losses, gradients


def least_norm(a, b):
  """The weights of MGDA for two gradients, in closed form."""
  share = np.clip((b @ (b - a)) / ((a - b) @ (a - b)), 0, 1)
  return np.array([share, 1 - share])


@pytest.mark.parametrize('kind', ['l2', 'loss', 'loss+'])
def test_gradients_are_divided_before_they_are_combined(kind):
  balancer = normalize_gradients(balancing.make('mgda'), kind)
  losses, gradients = draw(0)
  got, _ = jax.jit(balancer.update)(
    losses, gradients, balancer.init(NAMES), KEY
  )
  norm = {n: np.linalg.norm(g.astype(np.float64)) for n, g in gradients.items()}
  divisor = {
    'l2': norm,
    'loss': losses,
    'loss+': {n: losses[n] * norm[n] for n in NAMES},
  }[kind]
  scaled = [gradients[n].astype(np.float64) / divisor[n] for n in NAMES]
  weights = least_norm(*scaled)
  direction = weights @ np.array(scaled)
  np.testing.assert_allclose(got.direction, direction, rtol=1e-4, atol=1e-5)
  # The weights are those of the gradients before normalization.
  mixed = sum(float(got.weights[n]) * gradients[n] for n in NAMES)
  np.testing.assert_allclose(mixed, direction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('scale', [1e-30, 1.0, 1e20])
def test_weights_are_scaled_to_a_mean(scale):
  """Of gradients of any length, though Nash-MTL divides by their norms."""
  plain = balancing.make('nash_mtl')
  balancer = mean_weight(plain, 2.0)
  names, weights = ('a', 'b', 'c'), {}
  losses = dict.fromkeys(names, np.float32(1))
  rng = np.random.default_rng(0)
  gradients = {
    n: np.float32(scale * x * rng.normal(size=5))
    for n, x in zip(names, (1.0, 30.0, 1.0), strict=True)
  }
  present = {'a': True, 'b': True, 'c': False}
  for rule in (plain, balancer):
    got, _ = jax.jit(rule.update)(
      losses, gradients, rule.init(names), KEY, present=present
    )
    weights[rule] = np.array([got.weights[n] for n in names], np.float64)
  np.testing.assert_allclose(weights[balancer][:2].mean(), 2, rtol=1e-5)
  np.testing.assert_allclose(
    weights[balancer] / weights[balancer].sum(),
    weights[plain] / weights[plain].sum(),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    got.direction,
    weights[balancer] @ np.array([gradients[n] for n in names], np.float64),
    rtol=1e-4,
    atol=1e-5 * scale,
  )
  # So are those of the heads, which are equal with this rule.
  assert [float(got.task_specific[n]) for n in names[:2]] == [2, 2]


def test_weights_of_losses_are_scaled_to_a_mean():
  losses, _ = draw(0)
  plain = balancing.make('gls')
  weights, _ = plain.update(losses, plain.init(NAMES), KEY)
  balancer = mean_weight(plain, 0.5)
  got, _ = balancer.update(losses, balancer.init(NAMES), KEY)
  ratio = {n: float(got[n] / weights[n]) for n in NAMES}
  np.testing.assert_allclose(sum(got.values()), 1, rtol=1e-6)
  np.testing.assert_allclose(ratio['a'], ratio['b'], rtol=1e-6)


def test_weights_of_no_mean_stay_as_they_are():
  """Where nothing is labeled, or all gradients are 0."""
  balancer = mean_weight(balancing.make('nash_mtl'), 1.0)
  losses, gradients = draw(0)
  state = balancer.init(NAMES)
  absent = dict.fromkeys(NAMES, False)
  none, _ = balancer.update(losses, gradients, state, KEY, present=absent)
  zeros = {n: np.zeros_like(g) for n, g in gradients.items()}
  zero, _ = balancer.update(losses, zeros, state, KEY)
  for got in (none, zero):
    assert not np.any(got.direction)
    assert np.isfinite([*got.weights.values()]).all()


def test_averages_of_weights_skip_steps_without_labels():
  decay = 0.75
  balancer = weight_ema(balancing.make('mgda'), decay)
  update = jax.jit(balancer.update)
  state, mean = balancer.init(NAMES), None
  for step in range(4):
    losses, gradients = draw(step)
    present = {'a': True, 'b': step != 2}
    got, state = update(losses, gradients, state, KEY, present=present)
    g = [gradients[n].astype(np.float64) for n in NAMES]
    new = least_norm(*g) if present['b'] else np.array([1.0, 0.0])
    before, mean = (
      mean,
      new if mean is None else decay * mean + (1 - decay) * new,
    )
    if not present['b']:
      mean[1] = before[1]
    used = mean * np.array([present[n] for n in NAMES])
    np.testing.assert_allclose(
      [got.weights[n] for n in NAMES], used, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      got.direction, used @ np.array(g), rtol=1e-4, atol=1e-4
    )


def test_weights_of_losses_are_averaged():
  decay = 0.5
  plain = balancing.make('gls')
  balancer = weight_ema(plain, decay)
  state, mean = balancer.init(NAMES), None
  for step in range(3):
    losses, _ = draw(step)
    weights, _ = plain.update(losses, plain.init(NAMES), KEY)
    new = np.array([weights[n] for n in NAMES])
    got, state = balancer.update(losses, state, KEY)
    mean = new if mean is None else decay * mean + (1 - decay) * new
    np.testing.assert_allclose([got[n] for n in NAMES], mean, rtol=1e-5)


@pytest.mark.parametrize(
  'name', ['gradnorm', 'excess_mtl', 'auto_lambda', 'imtl_h', 'mgda']
)
def test_heads_descend_on_averages_too(name):
  decay, plain = 0.75, balancing.make(name)
  one, two = GradientSteps(plain, 3), GradientSteps(weight_ema(plain, decay), 3)
  state, averaged, mean = one.init(), two.init(), None
  for time in range(4):
    j, losses = draw_matrix(3, time), [0.5, 9.0, 2.0]
    absent = two.names[:1] if time == 2 else ()
    new, state = one.step(j, losses, state, absent=absent)
    got, averaged = two.step(j, losses, averaged, absent=absent)
    new, got = (np.stack([x.weights, x.task_specific]) for x in (new, got))
    present = np.array([[t not in absent for t in two.names]])
    before = new if mean is None else mean
    moved = decay * before + (1 - decay) * new
    mean = np.where(present, moved, before)
    np.testing.assert_allclose(got, present * mean, rtol=1e-5, atol=1e-7)
    if name == 'mgda':
      np.testing.assert_array_equal(got[1:], present)
    elif name != 'imtl_h':
      np.testing.assert_array_equal(*got)


def test_weights_are_reused_until_the_nth_step():
  """Weights are those of the last full update, gradients the newest."""
  balancer = update_every(balancing.make('mgda'), 3)
  update, state = jax.jit(balancer.update), balancer.init(NAMES)
  for step in range(7):
    losses, gradients = draw(step)
    a, b = (gradients[n].astype(np.float64) for n in NAMES)
    due = step % 3 == 0
    kept = balancer.reuse(state, NAMES)
    assert bool(kept.due) == due
    if due:
      w = least_norm(a, b)
    else:
      reused = [kept.weights[n] for n in NAMES]
      np.testing.assert_allclose(reused, w, rtol=1e-4, atol=1e-6)
    got, state = update(losses, gradients, state, KEY)
    jax.tree.map(
      np.testing.assert_array_equal, state['step'], kept.state['step']
    )
    weights = [got.weights[n] for n in NAMES]
    np.testing.assert_allclose(weights, w, rtol=1e-4, atol=1e-6)
    expected = w[0] * a + w[1] * b
    np.testing.assert_allclose(got.direction, expected, rtol=1e-4, atol=1e-4)


def test_a_task_without_labels_keeps_its_reused_weight():
  balancer = update_every(balancing.make('imtl_g'), 3)
  update, state = jax.jit(balancer.update), balancer.init(NAMES)
  losses, gradients = draw(0)
  first, state = update(losses, gradients, state, KEY)
  alone, state = update(
    losses, gradients, state, KEY, present={'a': True, 'b': False}
  )
  again, state = update(losses, gradients, state, KEY)
  assert alone.weights == {'a': first.weights['a'], 'b': 0}
  assert again.weights == first.weights


def test_a_full_update_keeps_the_weight_of_a_task_without_labels():
  balancer = update_every(balancing.make('imtl_g'), 2)
  update, state = jax.jit(balancer.update), balancer.init(NAMES)
  losses, gradients = draw(0)
  first, state = update(losses, gradients, state, KEY)
  _, state = update(losses, gradients, state, KEY)
  _, state = update(
    losses, gradients, state, KEY, present={'a': True, 'b': False}
  )
  reused, _ = update(losses, gradients, state, KEY)
  # That of a was updated, without b.
  assert first.weights['b'] != 0
  assert reused.weights['b'] == first.weights['b']
  np.testing.assert_allclose(reused.weights['a'], 1, rtol=1e-5)


# ---- on_metrics -------------------------------------------------------------


def from_accuracy(kind):
  """Weights 1 - accuracy, set between epochs; 1 before the first."""

  def init(names):
    return {'weights': jnp.ones(len(names), jnp.float32)}

  def on_metrics(metrics, state):
    weights = [1 - metrics[t]['accuracy'] for t in sorted(metrics)]
    return state | {'weights': jnp.array(weights, jnp.float32)}

  if kind == 'losses':
    balancer = from_losses(lambda step, state: (state['weights'], state), init)
  else:
    balancer = from_gram(
      lambda gram, step, state: (shared_only(state['weights']), state), init
    )
  return balancing.checked(balancer._replace(on_metrics=on_metrics))


METRICS = {'a': {'accuracy': 0.75}, 'b': {'accuracy': 0.5}}


def weights_of(balancer, state, seed=0):
  """The weights [2] and the state of one update."""
  losses, gradients = draw(seed)
  update = jax.jit(balancer.update)
  if isinstance(balancer, balancing.Balancer):
    weights, state = update(losses, state, KEY)
  else:
    combined, state = update(losses, gradients, state, KEY)
    weights = combined.weights
  return np.array([weights[n] for n in NAMES]), state


def form(state):
  return jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize('kind', ['losses', 'gradients'])
def test_metrics_set_weights_through_an_average(kind):
  balancer = weight_ema(from_accuracy(kind), 0.5)
  weights, state = weights_of(balancer, balancer.init(NAMES))
  assert weights.tolist() == [1, 1]
  after = balancer.on_metrics(METRICS, state)
  assert form(after) == form(state)
  weights, after = weights_of(balancer, after)
  assert weights.tolist() == [0.625, 0.75]
  weights, _ = weights_of(balancer, after)
  assert weights.tolist() == [0.4375, 0.625]


def test_metrics_set_weights_at_the_next_full_update():
  balancer = update_every(from_accuracy('gradients'), 2)
  _, state = weights_of(balancer, balancer.init(NAMES))
  after = balancer.on_metrics(METRICS, state)
  assert form(after) == form(state)
  weights, after = weights_of(balancer, after)
  assert weights.tolist() == [1, 1]
  weights, _ = weights_of(balancer, after)
  assert weights.tolist() == [0.25, 0.5]


def test_metrics_set_weights_of_normalized_gradients():
  balancer = normalize_gradients(from_accuracy('gradients'), 'l2')
  after = balancer.on_metrics(METRICS, balancer.init(NAMES))
  weights, _ = weights_of(balancer, after)
  norms = [np.linalg.norm(draw(0)[1][n]) for n in NAMES]
  np.testing.assert_allclose(weights * norms, [0.25, 0.5], rtol=1e-5)


def test_wrappers_of_other_rules_have_no_on_metrics():
  for name in ('mgda', 'gls'):
    balancer = balancing.make(name)
    assert balancer.on_metrics is None
    assert weight_ema(balancer, 0.5).on_metrics is None
  assert update_every(balancing.make('mgda'), 2).on_metrics is None


def test_an_observing_rule_observes_through_an_average():
  plain = balancing.make('famo')
  balancer = weight_ema(plain, 0.5)
  losses, _ = draw(0)
  after, _ = draw(1)

  def run(balancer):
    _, state = balancer.update(losses, balancer.init(NAMES), KEY)
    return balancer.observe(after, state)

  averaged, alone = jax.jit(lambda: (run(balancer), run(plain)))()
  jax.tree.map(np.testing.assert_array_equal, averaged['inner'], alone)


# ---- Arguments --------------------------------------------------------------


@pytest.mark.parametrize(
  'wrap, argument, message',
  [
    (lambda: weight_ema(balancing.make('gls'), 1.0), 'decay', 'below 1'),
    (lambda: update_every(balancing.make('mgda'), 0), 'every', 'at least 1'),
    (lambda: update_every(balancing.make('mgda'), 1.5), 'every', 'integer'),
    (
      lambda: normalize_gradients(balancing.make('mgda'), 'l1'),
      'kind',
      r'none, l2, loss, loss\+',
    ),
    (
      lambda: normalize_gradients(balancing.make('modo'), 'l2'),
      'kind',
      'whole batch',
    ),
    (lambda: weight_ema(balancing.make('moco'), 0.5), 'balancer', 'weighted'),
    (lambda: update_every(balancing.make('moco'), 2), 'balancer', 'weighted'),
  ],
)
def test_an_invalid_argument_is_refused(wrap, argument, message):
  with pytest.raises(InputError, match=message) as error:
    wrap()
  assert error.value.argument == argument
