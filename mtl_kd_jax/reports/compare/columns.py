"""The columns of a comparison, and the numbers of its rows in them."""

from collections import Counter
from collections.abc import Iterable, Mapping
import math
from typing import NamedTuple

from mtl_kd_jax.reports.cells import FEW_TASKS, one_line, unit_with_arrow
from mtl_kd_jax.reports.gains import GAINS, relative_gains
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.evaluation import Metrics

MAIN_GAIN = 'delta_mtl'  # what verdicts are about
GAIN = 'gain'  # takes the place of the task in the columns of gains

# Row -> seed -> task -> metric -> value.
Scores = Mapping[str, Mapping[int, Metrics]]
# Row -> seed -> value of one column; NaN where there is none.
Values = dict[str, dict[int, float]]


class Column(NamedTuple):
  """A metric of a task, or a gain over single-task networks.

  Attributes:
    task: name of the task; `GAIN` for a gain.
    name: of the metric, or key of `GAINS`.
    metric: how it is read.
    prefix: the task, where another has a column of the same title or there are
      many; or ''.
    headline: whether it is the one that stands for its task, or ΔMTL.
    is_gain: whether it is a gain.
  """

  task: str
  name: str
  metric: Metric
  prefix: str = ''
  headline: bool = False
  is_gain: bool = False

  @property
  def title(self) -> str:
    """Short and unique among the columns, e.g. 'mIoU'."""
    return one_line(f'{self.prefix} {self.metric.title}'.strip())

  @property
  def heading(self) -> tuple[str, str]:
    """Title, unit with direction."""
    return self.title, one_line(unit_with_arrow(self.metric))

  @property
  def counts(self) -> bool:
    """Whether it counts in mean ranks: where it counts in Δm."""
    return self.metric.in_gain and not self.is_gain


def make_columns(tasks: Mapping[str, Task]) -> list[Column]:
  """The metrics of all tasks, without details, and then the gains."""
  shown = {name: task.main_columns() for name, task in tasks.items()}
  titles = Counter(
    metric.title for columns in shown.values() for metric in columns.values()
  )
  columns = [
    Column(
      t,
      m,
      metric,
      t if titles[metric.title] > 1 or len(shown) > FEW_TASKS else '',
      m == tasks[t].headline,
    )
    for t, columns in shown.items()
    for m, metric in columns.items()
  ]
  return columns + [
    Column(GAIN, name, gain.column, headline=name == MAIN_GAIN, is_gain=True)
    for name, gain in GAINS.items()
  ]


def make_values(
  scores: Scores,
  single_task: Mapping[str, str],
  tasks: Mapping[str, Task],
  *,
  rows: Iterable[str],
  seeds: Iterable[int],
) -> dict[Column, Values]:
  """The number of every row and seed in every column.

  Args:
    scores: what was measured.
    single_task: row -> the row that its gains are relative to, seed by seed.
    tasks: the tasks.
    rows: the rows to read.
    seeds: the seeds to read.

  Returns:
    Column -> row -> seed -> value; NaN where it is missing or not finite.
  """
  rows, seeds = list(rows), list(seeds)
  columns = make_columns(tasks)
  table = {column: {row: {} for row in rows} for column in columns}
  for row in rows:
    for seed in seeds:
      metrics = _finite(scores, row, seed)
      single = _finite(scores, single_task.get(row), seed)
      gains = relative_gains(metrics, single, tasks)
      for column in columns:
        if column.is_gain:
          value = gains[column.name]
        else:
          value = metrics.get(column.task, {}).get(column.name, math.nan)
        table[column][row][seed] = value
  return table


def known(values: Mapping[int, float]) -> dict[int, float]:
  """The seeds that have a number."""
  return {seed: x for seed, x in values.items() if not math.isnan(x)}


def _finite(scores: Scores, row: str | None, seed: int) -> Metrics:
  """The metrics of a cell, with NaN for what is None or not finite."""
  metrics = scores.get(row, {}).get(seed, {})
  return {
    task: {
      name: float(x) if x is not None and math.isfinite(x) else math.nan
      for name, x in values.items()
    }
    for task, values in metrics.items()
  }
