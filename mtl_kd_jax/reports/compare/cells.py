"""What stands in the cells of the tables: numbers with their intervals."""

import math

from mtl_kd_jax.reports.cells import gain_number, number
from mtl_kd_jax.reports.compare.columns import Column
from mtl_kd_jax.reports.compare.statistics import Interval, Summary
from mtl_kd_jax.tasks.base import Metric

DASH = '–'
RANK = Metric('mean rank', '', higher_is_better=False)


def plain(value: float, column: Column) -> str:
  """A number with the decimals of its unit; gains have signs."""
  if column.is_gain:
    text = gain_number(value)
  else:
    text = number(value, column.metric)
  return _without_negative_zero(text)


def signed(value: float, column: Column) -> str:
  """The same, always with a sign."""
  text = plain(value, column)
  return text if text[0] in f'+-{DASH}' else f'+{text}'


def interval(ends: Interval | None, column: Column) -> str:
  """E.g. '+1.20 to +3.40', with signs; a dash for None."""
  if ends is None:
    return DASH
  return ' to '.join(signed(end, column) for end in ends)


def mean_cell(summary: Summary, column: Column, seeds: int) -> str:
  """E.g. '43.20 ± 1.10', with half the t interval where there is one.

  Args:
    summary: of the numbers.
    column: for the decimals.
    seeds: how many there should be. Where there are fewer, it says so.
  """
  return _with_spread(plain(summary.mean, column), summary, column, seeds)


def difference_cell(summary: Summary, column: Column, seeds: int) -> str:
  """The same for a difference, which has a sign."""
  return _with_spread(signed(summary.mean, column), summary, column, seeds)


def rank_cell(summary: Summary, seeds: int) -> str:
  """A mean rank with two decimals."""
  if not summary.n:
    return DASH
  text = f'{summary.mean:.2f}'
  if summary.interval:
    text += f' ± {summary.interval[1] - summary.mean:.2f}'
  return text + _count(summary.n, seeds)


def deviation(summary: Summary, column: Column) -> str:
  """A standard deviation; a dash for one number."""
  return number(summary.sd, column.metric)


def percent(chance: float) -> str:
  """A chance, which is never printed as certain: '99.2 %'; '>99.9 %'."""
  if math.isnan(chance):
    return DASH
  if chance > 0.999:
    return '>99.9 %'
  return '<0.1 %' if chance < 0.001 else f'{100 * chance:.1f} %'


def p_value(p: float) -> str:
  """E.g. '0.012', or '<0.001'."""
  if math.isnan(p):
    return DASH
  return '<0.001' if p < 0.001 else f'{p:.3f}'


def _with_spread(text, summary, column, seeds):
  if not summary.n:
    return DASH
  if summary.interval and not (summary.mean == summary.sd == 0):
    half = summary.interval[1] - summary.mean
    text += f' ± {number(half, column.metric)}'
  return text + _count(summary.n, seeds)


def _count(n: int, seeds: int) -> str:
  return '' if n == seeds else f' (n={n})'


def _without_negative_zero(text: str) -> str:
  zero = text.startswith('-') and not text.strip('-0.')
  return text[1:] if zero else text
