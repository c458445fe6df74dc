"""Intervals, paired tests and ranks against SciPy and numbers by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mtl_kd_jax.reports.compare import statistics
from mtl_kd_jax.reports.compare.statistics import (
  bootstrap_interval,
  holm,
  is_better,
  mean_ranks,
  paired_difference,
  summarize,
  t_interval,
)

NAN = float('nan')
VALUES = [44.1, 45.3, 43.2, 46.0, 44.4]
OTHERS = [42.0, 44.9, 43.3, 42.7, 41.8]


def test_a_summary_by_hand():
  summary = summarize([1.0, 2.0, 6.0])
  assert summary.n == 3 and summary.mean == pytest.approx(3)
  assert summary.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
  # 4.302653 is the quantile of t with 2 degrees of freedom in every table.
  half = 4.302653 * math.sqrt(7 / 3)
  assert summary.interval == pytest.approx((3 - half, 3 + half), rel=1e-6)


@pytest.mark.parametrize('n', [3, 4, 5])
def test_the_t_interval_is_that_of_scipy(n):
  expected = stats.ttest_1samp(VALUES[:n], 0).confidence_interval(0.95)
  assert t_interval(VALUES[:n]) == pytest.approx(tuple(expected))


@pytest.mark.parametrize('n', [5, 10])
def test_the_bootstrap_interval_is_that_of_scipy_at_a_wider_level(n):
  values = np.random.default_rng(1).normal(size=n)
  tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
  expected = stats.bootstrap(
    (values,),
    np.mean,
    method='percentile',
    confidence_level=1 - 2 * tail,
    n_resamples=50_000,
    random_state=np.random.default_rng(2),
  ).confidence_interval
  # Both are random; 0.08 of the deviation is far beyond the difference.
  tolerance = 0.08 * values.std()
  assert bootstrap_interval(values) == pytest.approx(
    tuple(expected), abs=tolerance
  )


def test_the_bootstrap_interval_of_few_numbers_is_their_range():
  assert bootstrap_interval([3.0, 1.0, 2.5]) == pytest.approx((1.0, 3.0))


def test_the_bootstrap_is_deterministic_and_moves_with_the_numbers():
  low, high = bootstrap_interval(VALUES)
  statistics._resamples.cache_clear()
  assert bootstrap_interval(VALUES) == (low, high)
  moved = bootstrap_interval([x + 10 for x in VALUES])
  assert moved == pytest.approx((low + 10, high + 10))


@pytest.mark.parametrize('values', [[], [2.0], [2.0, 3.0]])
def test_fewer_than_three_numbers_have_no_interval(values):
  summary = summarize(values)
  assert summary.n == len(values)
  assert summary.interval is None and summary.bootstrap is None
  assert math.isnan(summary.sd) == (len(values) < 2)
  assert math.isnan(summary.mean) == (not values)
  difference = paired_difference(
    dict(enumerate(values)), {0: 0.0, 1: 0.0}, higher_is_better=True
  )
  assert math.isnan(difference.chance) and math.isnan(difference.p)
  assert difference.direction == 0 and difference.wins == len(values)


@pytest.mark.parametrize('value', [0.1, 0.0, -7.3])
def test_equal_numbers_have_an_interval_without_width(value):
  # Their plain mean differs from 0.1 in the last digit.
  summary = summarize([value] * 3)
  assert summary == (3, value, 0.0, (value, value), (value, value))


@pytest.mark.parametrize('higher_is_better', [True, False])
def test_a_paired_difference_is_scipys_test_of_pairs(higher_is_better):
  difference = paired_difference(
    dict(enumerate(VALUES)),
    dict(enumerate(OTHERS)),
    higher_is_better=higher_is_better,
  )
  sign = 1 if higher_is_better else -1
  expected = stats.ttest_rel(VALUES, OTHERS)
  low, high = sorted(sign * x for x in expected.confidence_interval(0.95))
  assert difference.summary.interval == pytest.approx((low, high))
  assert difference.p == pytest.approx(expected.pvalue)
  one_sided = stats.ttest_rel(
    VALUES, OTHERS, alternative='greater' if higher_is_better else 'less'
  )
  assert difference.chance == pytest.approx(1 - one_sided.pvalue)
  assert difference.wins == (4 if higher_is_better else 1)
  assert difference.better_by[0] == pytest.approx(sign * 2.1)


def test_the_chance_is_a_posterior_probability():
  """Drawn from the posterior, which is known under the flat prior."""
  difference = paired_difference(
    {0: 1.0, 1: -0.5, 2: 2.0, 3: 0.4}, dict.fromkeys(range(4), 0.0),
    higher_is_better=True,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  summary, draws = difference.summary, 200_000
  variance = 3 * summary.sd**2 / rng.chisquare(3, draws)
  mean = rng.normal(summary.mean, np.sqrt(variance / 4))
  assert difference.chance == pytest.approx((mean > 0).mean(), abs=0.005)


def test_only_seeds_that_both_have_are_paired():
  difference = paired_difference(
    {0: 5.0, 1: NAN, 2: 7.0, 3: 9.0, 5: 1.0},
    {0: 4.0, 1: 1.0, 2: NAN, 3: 9.0, 4: 1.0},
    higher_is_better=True,
  )
  assert difference.seeds == (0, 3) and difference.better_by == (1.0, 0.0)
  assert difference.wins == 1  # a tie is none


@pytest.mark.parametrize(
  'by, chance, p, direction',
  [(0.5, 1.0, 0.0, 1), (0.0, 0.5, 1.0, 0), (-0.5, 0.0, 0.0, -1)],
)
def test_equal_differences(by, chance, p, direction):
  reference = {0: 1.0, 1: 2.0, 2: 4.0}
  values = {seed: x + by for seed, x in reference.items()}
  difference = paired_difference(values, reference, higher_is_better=True)
  assert (difference.chance, difference.p) == (chance, p)
  assert difference.direction == direction
  assert is_better(values, reference, higher_is_better=True) == (direction > 0)
  assert is_better(values, reference, higher_is_better=False) == (direction < 0)


def test_overlapping_intervals_decide_nothing_where_pairs_do():
  """Seeds that are hard for both do not hide the difference."""
  reference = {0: 10.0, 1: 20.0, 2: 30.0, 3: 40.0}
  noise = (0.9, 1.1, 1.0, 1.05)
  values = {
    s: x + d for (s, x), d in zip(reference.items(), noise, strict=True)
  }
  assert (
    t_interval([*values.values()])[0] < t_interval([*reference.values()])[1]
  )
  assert is_better(values, reference, higher_is_better=True)
  assert not is_better(reference, values, higher_is_better=True)


def test_holm_by_hand():
  p = {'a': 0.01, 'b': 0.04, 'c': 0.03, 'none': NAN, 'd': 0.9}
  corrected = holm(p)
  assert math.isnan(corrected.pop('none')) and list(corrected) == list('abcd')
  # Sorted: 0.01 x 4, 0.03 x 3, then 0.04 x 2 < 0.09, and 0.9 x 1.
  assert corrected == pytest.approx({'a': 0.04, 'b': 0.09, 'c': 0.09, 'd': 0.9})
  assert holm({'a': 0.7, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}
  assert holm({}) == {}


def test_mean_ranks_by_hand():
  # The first column is the better the higher, the second the lower.
  values = np.array([[3.0, 1.0], [3.0, 2.0], [1.0, 0.5]])
  ranks = mean_ranks(values, [True, False])
  np.testing.assert_allclose(ranks, [(1.5 + 2) / 2, (1.5 + 3) / 2, (3 + 1) / 2])
