"""Lambda that changes over a training: by the clock, by gaps, by angles."""

import dataclasses
import functools

from fixtures.samples import random_batch
from fixtures.stages import INTERVALS, make_stage, run, run_killed_after
from fixtures.toy import (
  ALL_TASKS,
  SIZE,
  TASKS,
  make_parts,
  make_step,
  make_teachers,
  make_terms,
)
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.training.adaptation import by_gap
from mtl_kd_jax.training.conflict import measure_conflict
from mtl_kd_jax.training.forward import run_forward
from mtl_kd_jax.training.loss_terms import check_terms
from mtl_kd_jax.training.optim import make_decay
from mtl_kd_jax.training.state import AdaptedState
from mtl_kd_jax.training.step import teacher_outputs

STEP, STEPS = 7, 10
ALIGNMENTS = {f'alignment/{task}': (task, task) for task in TASKS}
# Their gradients are a thousand times as large as those of the tasks' losses.
LOSS_FACTORS = dict(zip(ALIGNMENTS, (1000.0, -1000.0), strict=True))


def changed(terms, change):
  """The terms, and what `change` makes of alignments."""
  return tuple(change(t) if t.name in ALIGNMENTS else t for t in terms)


def weighted(terms, factors):
  return changed(terms, lambda t: t._replace(weight=t.weight * factors[t.name]))


def with_losses(terms, factors):
  """Alignments to which a multiple of their task's loss is added."""
  losses = {t.name: t.fn for t in terms}

  def with_loss(term):
    _, task = ALIGNMENTS[term.name]

    def fn(*args, **options):
      loss = losses[f'loss/{task}'](*args, **options)
      return term.fn(*args, **options) + factors[term.name] * loss

    return term._replace(fn=fn, tasks=(task,))

  return changed(terms, with_loss)


def assert_close(one, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5),
    one,
    other,
  )


class Steps:
  """A step of each of several forms of lambda, on one batch."""

  def __init__(self, balancer, placement):
    self.terms = make_terms(distill=True, placement=placement)
    self.batch, self.frozen = random_batch(4, SIZE), make_teachers()
    self.options = {
      'tx': optax.sgd(1.0),
      'balancer': make_balancer(balancer),
    }

  def state(self):
    _, state = make_parts(terms=self.terms, **self.options)
    return state.replace(step=jnp.int32(STEP))

  def take(self, terms, factors=None):
    """(Next parameters, measured without the factors, the factors)."""
    step = make_step(terms=terms, **self.options)
    state = self.state()
    if factors:
      state = AdaptedState(**vars(state), factors=factors)
    after, measured = jax.jit(step)(state, self.frozen, self.batch)
    factors = {
      n.removeprefix('factor/'): float(measured.pop(n))
      for n in metric_keys.of_kind(measured, 'factor')
    }
    return (after.params, after.extras), measured, factors


def test_a_step_is_that_of_a_lambda_as_large_as_it_is_then():
  steps = Steps('uniform', 'task')
  decay = make_decay('linear', steps=STEPS)
  given = dict(zip(ALIGNMENTS, (0.0, 0.5), strict=True))
  *scheduled, factors = steps.take(
    changed(steps.terms, lambda t: t._replace(schedule=decay)),
    factors={n: jnp.float32(x) for n, x in given.items()},
  )
  expected = {n: 0.3 * x for n, x in given.items()}
  assert factors == pytest.approx(expected)
  *smaller, none = steps.take(weighted(steps.terms, expected))
  assert_close(scheduled, smaller)
  assert not none
  assert scheduled[1]['loss'] < sum(scheduled[1][t.name] for t in steps.terms)


def test_an_alignment_counts_as_far_as_it_agrees_with_its_task():
  steps = Steps('mgda', 'outside')
  steps.terms = with_losses(steps.terms, LOSS_FACTORS)
  given = make_step(terms=steps.terms, **steps.options).keywords
  names = ('network', 'terms', 'seed', 'teachers', 'extras')
  measure = functools.partial(
    measure_conflict, **{name: given[name] for name in names}
  )
  seen = jax.jit(measure)(steps.state(), steps.frozen, steps.batch)
  expected = {
    name: max(0, float(seen[f'cosine/{task}/{name}']))
    for name, (task, _) in ALIGNMENTS.items()
  }
  assert min(expected.values()) == 0 and max(expected.values()) > 0.1
  gates = [t.agrees_with for t in make_terms(distill=True, gated=True)]
  gated_terms = [
    t._replace(agrees_with=gate)
    for t, gate in zip(steps.terms, gates, strict=True)
  ]
  *gated, factors = steps.take(gated_terms)
  assert factors == pytest.approx(expected, rel=1e-3, abs=1e-6)
  *smaller, _ = steps.take(weighted(steps.terms, factors))
  assert_close(gated, smaller)


def test_an_alignment_may_have_to_agree_with_all_tasks_together():
  """Against gradients of the features, one term at a time."""
  steps = Steps('uniform', 'outside')
  steps.terms = with_losses(steps.terms, LOSS_FACTORS)
  gates = [t.agrees_with for t in make_terms(distill=True, gated='all')]
  terms = [
    t._replace(agrees_with=gate)
    for t, gate in zip(steps.terms, gates, strict=True)
  ]
  *_, factors = steps.take(terms)
  given = make_step(terms=steps.terms, **steps.options).keywords
  forward = run_forward(
    steps.state(),
    teacher_outputs(given['teachers'], steps.frozen, steps.batch['image']),
    steps.batch,
    network=given['network'],
    terms=steps.terms,
    extras=given['extras'],
    key=jax.random.key(0),
    axis_name=None,
  )

  def flat(names):
    # The tasks' losses as they are, whatever weights the step gives them.
    gradient = forward.vjp(dict.fromkeys(names, 1.0)).features
    leaves = jax.tree.leaves(gradient)
    return np.concatenate([np.ravel(np.float64(x)) for x in leaves])

  together = flat([t.name for t in steps.terms if t.name.startswith('loss/')])
  for name, factor in factors.items():
    one = flat([name])
    cosine = one @ together / np.linalg.norm(one) / np.linalg.norm(together)
    assert factor == pytest.approx(max(0, cosine), rel=1e-3, abs=1e-6)
  assert len(factors) == 2
  assert min(factors.values()) == 0 and max(factors.values()) > 0.1


def test_without_a_label_there_is_nothing_to_contradict():
  steps = Steps('uniform', 'outside')
  steps.batch['depth'] = np.zeros_like(steps.batch['depth'])
  *_, factors = steps.take(make_terms(distill=True, gated=True))
  assert factors['alignment/depth'] == 1
  assert all(factors[n] < 1 for n in factors if n != 'alignment/depth')


def test_what_a_term_agrees_with_has_to_be_another_term():
  terms = make_terms(distill=True)
  for other in ('loss/sky', terms[-1].name):
    wrong = (*terms[:-1], terms[-1]._replace(agrees_with=other))
    with pytest.raises(InputError, match=f'to agree with {other}'):
      check_terms(wrong, tuple(TASKS))


def test_it_falls_from_1_to_0_over_the_training():
  for name in ('linear', 'cosine'):
    decay = make_decay(name, steps=STEPS)
    values = [float(decay(jnp.int32(s))) for s in range(STEPS + 1)]
    assert values[0] == 1 and abs(values[-1]) < 1e-7
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values[5], 0.5, rtol=1e-6)
  half = make_decay('linear', steps=STEPS, lambda_until=0.5)
  assert [float(half(s)) for s in (0, 4, 5, 9)] == pytest.approx([1, 0.2, 0, 0])
  assert make_decay('constant', steps=STEPS) is None
  with pytest.raises(InputError, match="'step'"):
    make_decay('step', steps=STEPS)


# ---- By the gap between teacher and student ----------------------------------


@pytest.mark.parametrize(
  'task, metric, teacher, student, factor',
  [
    ('semantic', 'miou', 40.0, 38.0, 0.5),  # 5 % behind, of 10
    ('semantic', 'miou', 40.0, 30.0, 1.0),
    ('semantic', 'miou', 40.0, 40.5, 0.0),
    ('depth', 'abs_error', 0.5, 0.51, 0.2),  # lower is better
    ('depth', 'abs_error', 0.5, 0.4, 0.0),
    ('depth', 'abs_error', 0.5, float('nan'), 1.0),
    ('depth', 'abs_error', 0.0, 0.1, 1.0),
    ('normals', 'mean_angle', float('nan'), 20.0, 1.0),
  ],
)
def test_lambda_is_what_the_student_is_behind(
  task, metric, teacher, student, factor
):
  adapt = by_gap({'alignment/it': ('expert', task)}, ALL_TASKS, full=10)
  assert adapt.terms == ('alignment/it',)
  given = adapt.factors(
    {task: {metric: student}}, {'expert': {task: {metric: teacher}}}
  )
  assert given == {'alignment/it': pytest.approx(factor)}


@pytest.mark.parametrize('full', [0, -1, float('nan'), float('inf')])
def test_a_gap_that_is_none_is_refused(full):
  with pytest.raises(InputError, match='percent above 0'):
    by_gap(ALIGNMENTS, TASKS, full=full)


@pytest.fixture(scope='module')
def adapted(toy_dataset):
  """A stage that follows its gaps, compiled once."""
  stage = make_stage(toy_dataset)
  terms = {n: x for n, x in ALIGNMENTS.items() if x[1] in stage.tasks}
  return dataclasses.replace(stage, adapt=by_gap(terms, stage.tasks, full=30.0))


def test_factors_follow_from_the_scores_of_student_and_teachers(
  adapted, tmp_path
):
  state = run(adapted, tmp_path)
  log = read_log(tmp_path)
  scores = {e['step']: e for e in log if e['kind'] == 'eval'}
  train = {e['step']: e for e in log if e['kind'] == 'train'}
  teachers = adapted.score_teachers(make_teachers())

  def expected(step):
    student: dict = {}
    for task in adapted.tasks:
      for metric in adapted.tasks[task].columns:
        value = scores[step][f'{task}/{metric}']
        student.setdefault(task, {})[metric] = value
    return adapted.adapt.factors(student, teachers)

  assert train[1]['factor/alignment/depth'] == 1
  for name, factor in expected(3).items():
    np.testing.assert_allclose(train[4][f'factor/{name}'], factor, rtol=1e-5)
  assert len({*expected(3).values(), *expected(6).values()}) > 2
  # What the last scores say is part of the last checkpoint.
  for name, factor in expected(9).items():
    np.testing.assert_allclose(state.factors[name], factor, rtol=1e-5)


def test_the_last_scores_count_only_where_a_longer_run_has_them(
  adapted, tmp_path
):
  """The last step is scored in any case; trained for longer, it is not last."""
  intervals = dataclasses.replace(INTERVALS, evaluate=6)
  state = run(adapted, tmp_path, intervals=intervals)
  log = read_log(tmp_path)
  assert [e['step'] for e in log if e['kind'] == 'eval'] == [6, 9]
  # In this step, that of the sixth one.
  eighth = next(e for e in log if (e['kind'], e['step']) == ('train', 8))
  assert set(state.factors) == {'alignment/depth', 'alignment/normals'}
  assert min(state.factors.values()) < 1
  for name, factor in state.factors.items():
    np.testing.assert_allclose(factor, eighth[f'factor/{name}'], rtol=1e-6)


@pytest.fixture(scope='module')
def by_baseline(adapted):
  """The same, with a baseline that is scored before the first step."""
  adapt = adapted.adapt._replace(baseline=adapted.network)
  return dataclasses.replace(adapted, adapt=adapt)


def test_factors_follow_from_the_baseline_before_the_first_step(
  by_baseline, tmp_path
):
  baseline = by_baseline.init().variables
  state = run(by_baseline, tmp_path, inputs={'baseline': baseline})
  expected = by_baseline.adapt.factors(
    by_baseline.evaluate(baseline, select=True).metrics,
    by_baseline.score_teachers(make_teachers()),
  )
  assert len(set(expected.values()) - {1.0}) > 1
  train = [e for e in read_log(tmp_path) if e['kind'] == 'train']
  for name, factor in expected.items():
    seen = [line[f'factor/{name}'] for line in train]
    # The same over the whole training, though it is scored three times.
    np.testing.assert_allclose(seen, factor, rtol=1e-5)
    np.testing.assert_allclose(state.factors[name], factor, rtol=1e-5)


def test_a_run_that_follows_its_gaps_goes_on_where_it_was(adapted, tmp_path):
  run_killed_after(adapted, tmp_path / 'killed', 3)
  resumed = run(adapted, tmp_path / 'killed')
  whole = run(adapted, tmp_path / 'whole')
  same = jax.tree.map(np.array_equal, resumed, whole)
  assert all(jax.tree.leaves(same))


def test_checkpoints_of_other_stages_keep_their_layout(toy_dataset, adapted):
  """Those of earlier versions are read by it."""
  fields = {
    'step',
    'params',
    'collections',
    'extras',
    'opt_state',
    'balancer_state',
  }
  assert vars(make_stage(toy_dataset).abstract_state).keys() == fields
  assert vars(adapted.abstract_state).keys() == fields | {'factors'}
