"""Tables as a page shows them, and those of results."""

from collections.abc import Mapping, Sequence
import math
import re
from typing import NamedTuple

from mtl_kd_jax.reports.cells import (
  gain_number,
  number,
  one_line,
  unit_with_arrow,
)
from mtl_kd_jax.reports.gains import GAINS, relative_gains
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import SINGLE_TASK

_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?(e[+-]?\d+)?')


class Cell(NamedTuple):
  """One cell.

  Attributes:
    text: what it shows.
    value: what a column is sorted by; None is last.
    note: a second, smaller line.
    tone: 'good', 'bad' or ''.
    stressed: whether it is bold.
  """

  text: str
  value: float | None = None
  note: str = ''
  tone: str = ''
  stressed: bool = False


class Heading(NamedTuple):
  """The heading of a column.

  Attributes:
    title: what it is.
    unit: its unit and direction.
    first: whether a click sorts 'ascending' or 'descending' at first.
  """

  title: str
  unit: str
  first: str = 'descending'


class PageTable(NamedTuple):
  """A table that can be sorted.

  Attributes:
    title: its caption.
    corner: the heading of the names.
    groups: (what columns belong to, how many there are), side by side; () for
      none.
    headings: of all columns but that of the names.
    rows: (name, its cells).
  """

  title: str
  corner: str
  groups: Sequence[tuple[str, int]]
  headings: Sequence[Heading]
  rows: Sequence[tuple[str, Sequence[Cell]]]


def tabulate_results(
  title: str,
  rows: Mapping[str, Metrics],
  tasks: Mapping[str, Task],
  *,
  all_metrics: bool = False,
) -> PageTable:
  """The metrics of all networks, each beside its gain over single tasks.

  Args:
    title: the caption.
    rows: network -> task -> metric -> value.
    tasks: the tasks, for columns and directions.
    all_metrics: whether it has the columns of details, too.
  """
  shown = {
    t: x.columns if all_metrics else x.main_columns() for t, x in tasks.items()
  }
  metrics = [(t, m, c) for t, x in shown.items() for m, c in x.items()]
  gains = {name: gain.column for name, gain in GAINS.items()}
  reference = rows.get(SINGLE_TASK, {})
  lines = []
  for row, values in rows.items():
    cells = []
    for t, m, column in metrics:
      value = values.get(t, {}).get(m, math.nan)
      single = reference.get(t, {}).get(m, math.nan)
      if row == SINGLE_TASK:
        single = math.nan
      cells.append(_metric_cell(value, single, column))
    relative = relative_gains(values, reference, tasks)
    cells += [_gain_cell(relative[name], c) for name, c in gains.items()]
    lines.append((one_line(row), cells))
  return PageTable(
    title=title,
    corner='network',
    groups=[(one_line(t), len(x)) for t, x in shown.items()]
    + [(f'gain over {SINGLE_TASK}', len(gains))],
    headings=[
      describe_heading(c)
      for c in (*(c for _, _, c in metrics), *gains.values())
    ],
    rows=lines,
  )


def first_number(text: str) -> float | None:
  """The number that a text of a table begins with, e.g. 43.2 of '43.2 ± 1'."""
  match = _NUMBER.search(text)
  return float(match[0]) if match else None


def describe_heading(column: Metric) -> Heading:
  """The heading of a metric, which sorts the best to the top at first."""
  return Heading(
    one_line(column.title),
    one_line(unit_with_arrow(column)),
    'descending' if column.higher_is_better else 'ascending',
  )


def finite(value: float) -> float | None:
  """The value that is sorted by; None where it is none."""
  return value if math.isfinite(value) else None


def _metric_cell(value: float, single: float, column: Metric) -> Cell:
  text = number(value, column)
  if not math.isfinite(value - single) or not single:
    return Cell(text, finite(value))
  sign = 1 if column.higher_is_better else -1
  gain = sign * 100 * (value - single) / abs(single)
  note = f'{gain:+.1f}\N{NO-BREAK SPACE}%'
  return Cell(text, finite(value), note, _tone(gain, note))


def _gain_cell(value: float, column: Metric) -> Cell:
  text = gain_number(value)
  sign = 1 if column.higher_is_better else -1
  return Cell(text, finite(value), tone=_tone(sign * value, text))


def _tone(gain: float, text: str) -> str:
  """By the sign, where the number that is shown is not 0."""
  if math.isnan(gain) or not first_number(text):
    return ''
  return 'good' if gain > 0 else 'bad'
