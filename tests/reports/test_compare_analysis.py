"""Which numbers are compared with which, and what is called the best."""

import json
import math

from fixtures.comparisons import (
  BASE,
  SINGLE,
  TASKS,
  better,
  make_comparison,
  make_scores,
  typical,
)
import pytest

from mtl_kd_jax.errors import InputError

NAN = float('nan')


def column(analysis, title):
  (found,) = [c for c in analysis.columns if c.title == title]
  return found


def test_gains_are_relative_to_the_single_task_row_of_the_same_seed():
  scores = make_scores(
    alone=[0, 10], wide=[50, 50], uniform=[0, 0], big=[50, 0]
  )
  single = {'alone': 'alone', 'wide': 'wide', 'uniform': 'alone', 'big': 'wide'}
  analysis = make_comparison(scores, single_task=single).analysis
  gains = analysis.values[analysis.main]
  assert gains['alone'] == {0: 0.0, 1: 0.0} and gains['uniform'][0] == 0
  # Higher is better: 1/1.1; lower is better, twice: 1/0.9.
  expected = 100 * ((1 / 1.1 - 1) + 2 * (1 - 1 / 0.9)) / 3
  assert gains['uniform'][1] == pytest.approx(expected)
  assert gains['big'][0] == 0 and gains['big'][1] < -30


def test_differences_are_positive_where_a_row_is_better_in_any_direction():
  analysis = make_comparison(typical()).analysis
  for c in analysis.columns:
    difference = analysis.differences[c]['distilled']
    assert difference.direction == 1 and difference.wins == 5, c
    assert 'uniform' not in analysis.differences[c]
  miou = analysis.differences[column(analysis, 'mIoU')]['distilled']
  assert miou.better_by[0] == pytest.approx(40 * (4.7 + 1.7) / 100)
  error = analysis.differences[column(analysis, 'AbsErr')]['distilled']
  assert error.better_by[0] == pytest.approx(0.5 * (4.7 + 1.7) / 100)


def test_the_best_is_better_than_every_other_row():
  analysis = make_comparison(typical()).analysis
  assert set(analysis.best.values()) == {'distilled'}
  assert analysis.best_rank == 'distilled'


def test_nothing_is_the_best_where_an_interval_contains_zero():
  scores = typical()
  scores['close'] = {s: better(5 + x) for s, x in enumerate((1, -1, 1, -1, 0))}
  assert set(make_comparison(scores).analysis.best.values()) == {None}


def test_nothing_is_the_best_over_a_row_with_two_seeds():
  scores = typical()
  scores['new'] = {s: better(-9) for s in (0, 1)}
  assert set(make_comparison(scores).analysis.best.values()) == {None}
  # A row without any numbers takes nothing from the others.
  scores['new'] = {}
  analysis = make_comparison(scores).analysis
  assert set(analysis.best.values()) == {'distilled'}


def test_a_row_alone_is_not_the_best():
  analysis = make_comparison(make_scores(uniform=[1, 2, 3])).analysis
  assert set(analysis.best.values()) == {None} and not analysis.others
  assert not analysis.corrected and not analysis.ranks.values


def test_metrics_of_other_data_are_not_compared_but_gains_are():
  said = 'data.eval_split "train" instead of "val"'
  other = {'distilled': said}
  comparison = make_comparison(typical(), other_data=other)
  analysis = comparison.analysis
  for c in analysis.columns:
    n = analysis.differences[c]['distilled'].summary.n
    assert n == (5 if c.is_gain else 0)
    assert (analysis.best[c] == 'distilled') == c.is_gain
  assert 'distilled' not in analysis.ranks.values
  (note,) = [x for x in comparison.page.notes if said in x]
  assert note.startswith('distilled was scored on other data than uniform')
  rows = json.loads(comparison.json())['rows']
  assert rows['distilled']['other_data'] == said
  assert rows['nash_mtl']['other_data'] is None


def test_p_values_of_delta_mtl_are_corrected_for_the_number_of_rows():
  analysis = make_comparison(typical()).analysis
  p = {r: d.p for r, d in analysis.differences[analysis.main].items()}
  order = sorted(p, key=p.get)
  first = 3 * p[order[0]]
  second = max(first, 2 * p[order[1]])
  assert analysis.corrected[order[0]] == pytest.approx(first)
  assert analysis.corrected[order[1]] == pytest.approx(second)


# ---- Ranks -------------------------------------------------------------------


def test_ranks_are_means_over_the_metrics_that_count_for_every_seed():
  scores = make_scores(uniform=[0, 1, 2], one=[1, 0, 3], two=[2, 2, 1])
  scores[SINGLE] = {s: better(9) for s in range(3)}
  # 99 in a metric that does not count, and one that does.
  scores['uniform'][0]['depth']['rmse'] = 0.0
  scores['uniform'][0]['semantic']['miou'] = 99.0
  ranks = make_comparison(scores).analysis.ranks
  assert len(ranks.columns) == 9 and SINGLE not in ranks.values
  assert ranks.values['uniform'] == {0: pytest.approx(25 / 9), 1: 2, 2: 2}
  assert ranks.values['one'] == {0: pytest.approx(19 / 9), 1: 3, 2: 1}
  assert ranks.values['two'][0] == pytest.approx((2 + 8) / 9)
  assert ranks.summaries['two'].mean == pytest.approx((10 / 9 + 1 + 3) / 3)


def test_ranks_are_taken_only_where_all_ranked_rows_have_numbers():
  scores = make_scores(
    uniform=[0, 0, 0, 0, 0], a=[1, 1, 1, None, 1], b=[2, 2, 2, 2, None]
  )
  scores['a'][0]['semantic']['miou'] = NAN
  ranks = make_comparison(scores).analysis.ranks
  assert ranks.seeds == [1, 2]
  assert ranks.values['uniform'] == {1: 3, 2: 3}


def test_a_row_with_few_seeds_takes_none_from_the_ranks_of_others():
  scores = make_scores(uniform=[0] * 5, a=[1] * 5, b=[2, 2, None, None, None])
  ranks = make_comparison(scores).analysis.ranks
  assert ranks.seeds == [0, 1, 2, 3, 4] and list(ranks.values) == [
    'uniform',
    'a',
  ]
  assert ranks.summaries['b'].n == 0


def test_a_metric_that_no_row_has_does_not_count():
  scores = make_scores(uniform=[0] * 3, a=[1] * 3)
  for cells in scores.values():
    for metrics in cells.values():
      metrics['depth'] = dict.fromkeys(metrics['depth'], NAN)
  ranks = make_comparison(scores).analysis.ranks
  assert len(ranks.columns) == 7 and ranks.summaries['a'].mean == 1


# ---- What is missing ---------------------------------------------------------


@pytest.mark.parametrize('nothing', [NAN, None, math.inf])
def test_what_is_no_number_is_left_out_alone(nothing):
  scores = typical()
  scores['distilled'][1]['depth']['abs_error'] = nothing
  analysis = make_comparison(scores).analysis
  counts = {c.title: s['distilled'].n for c, s in analysis.summaries.items()}
  few = {title for title, n in counts.items() if n == 4}
  assert few == {'AbsErr', 'ΔMTL', 'Δm', 'Δp'}
  assert all(counts[title] == 5 for title in counts.keys() - few)
  error = analysis.differences[column(analysis, 'AbsErr')]['distilled']
  assert error.seeds == (0, 2, 3, 4)


def test_without_single_task_networks_there_are_differences_but_no_gains():
  scores = typical()
  del scores[SINGLE]
  analysis = make_comparison(scores, single_task={}).analysis
  assert all(s.n == 0 for s in analysis.summaries[analysis.main].values())
  assert analysis.best[column(analysis, 'mIoU')] == 'distilled'
  assert all(map(math.isnan, analysis.corrected.values()))


def test_tasks_that_a_row_lacks_are_no_numbers():
  scores = typical()
  scores['depth only'] = {s: {'depth': BASE['depth']} for s in range(5)}
  analysis = make_comparison(scores).analysis
  assert analysis.summaries[column(analysis, 'mIoU')]['depth only'].n == 0
  assert analysis.summaries[column(analysis, 'RMSE')]['depth only'].n == 5


def test_a_reference_without_numbers_leaves_no_differences():
  scores = typical()
  scores['uniform'] = {}
  analysis = make_comparison(scores).analysis
  for differences in analysis.differences.values():
    assert {d.summary.n for d in differences.values()} == {0}


def test_the_reference_is_one_of_the_rows():
  with pytest.raises(InputError, match="'typo'") as error:
    make_comparison(typical(), reference='typo')
  assert error.value.argument == 'reference'
  # It may have no numbers yet.
  make_comparison({}, missing={'uniform': {0: 'not trained yet'}}, seeds=(0,))


def test_columns_of_one_title_have_the_name_of_their_task():
  tasks = {'depth': TASKS['depth'], 'disparity': TASKS['depth']}
  analysis = make_comparison({'uniform': {}}, tasks=tasks).analysis
  titles = [c.title for c in analysis.columns]
  assert 'disparity AbsErr' in titles and len(set(titles)) == len(titles)
