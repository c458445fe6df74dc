"""Notes on networks whose teachers were trained for longer in between."""

import pytest

from mtl_kd_jax.reports.longer import describe_longer


def lines(stage, *steps, start):
  return [
    {'stage': stage, 'step': step, 'time': start + i}
    for i, step in enumerate(steps)
  ]


TEACHER = lines('t', 2, 4, start=100)
STUDENT = lines('s', 1, 4, start=200)
SENTENCES = {
  'teachers': 's began before its teachers (t) were trained for longer',
  'references': 's was scored before the single-task networks (t)',
}


def describe(kind, log, others=('t',), **options):
  dependent = {'teachers': {}, 'references': {}, kind: {'s': others}}
  return describe_longer(log, **dependent, **options)


@pytest.mark.parametrize('kind', SENTENCES)
@pytest.mark.parametrize(
  ('more', 'noted'),
  [
    ([], False),
    (lines('t', 6, start=300), True),
    # Scored again, or trained again to the same end.
    (lines('t', 4, start=300), False),
    (lines('other', 6, start=300), False),
  ],
)
def test_networks_that_others_depend_on_are_noted(kind, more, noted):
  # In any order, as the logs of several runs are put together.
  notes = describe(kind, more + STUDENT + TEACHER)
  assert [n.startswith(SENTENCES[kind]) for n in notes] == [True] * noted


@pytest.mark.parametrize('kind', SENTENCES)
def test_what_is_about_to_happen_is_noted(kind):
  assert describe(kind, TEACHER + STUDENT, to_train=['t'])
  assert not describe(kind, TEACHER + STUDENT, to_train=['s'])
  assert not describe(kind, TEACHER, to_train=['t'])  # no student yet


def test_a_log_without_times_says_nothing():
  log = [{'stage': x, 'step': 1} for x in 'tst']
  assert describe('teachers', log) == []
