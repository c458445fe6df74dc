"""What a comparison says: summaries, differences, winners and ranks."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses
import math

import numpy as np

from mtl_kd_jax.reports.compare.columns import (
  MAIN_GAIN,
  Column,
  Scores,
  Values,
  known,
  make_values,
)
from mtl_kd_jax.reports.compare.statistics import (
  Difference,
  Summary,
  holm,
  is_better,
  mean_ranks,
  paired_difference,
  summarize,
)
from mtl_kd_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Ranks:
  """The mean rank of every row that can be ranked, over the columns that count.

  Ranks say something only among the same rows, so they are taken in the seeds
  in which all ranked rows have all numbers. A row that has all of them in less
  than half as many seeds as another is not ranked: it would cost the others
  their seeds. Nor are single-task networks, as in the literature, nor rows that
  were scored on other data.

  Attributes:
    columns: the columns that count, of which any row has a number.
    seeds: the seeds that are ranked in.
    values: row -> seed -> mean rank; without the rows that are not ranked.
    summaries: row -> over the seeds.
  """

  columns: Sequence[Column]
  seeds: Sequence[int]
  values: Values
  summaries: Mapping[str, Summary]


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Everything that is computed from the numbers of one protocol.

  Attributes:
    rows: the names of all rows.
    seeds: all seeds.
    reference: the row that the others are compared with.
    values: column -> row -> seed -> value, NaN where there is none.
    summaries: column -> row -> summary over the seeds.
    differences: column -> row -> difference to the reference; without the
      reference.
    best: column -> the row that is better than every other one with a number
      (and, in metrics, of the same data), with intervals of the paired
      differences that exclude 0; or None.
    ranks: mean ranks.
    best_rank: the same as `best`, of mean ranks.
    corrected: row -> p-value in ΔMTL against the reference, corrected for the
      number of rows; NaN where there is none.
  """

  rows: Sequence[str]
  seeds: Sequence[int]
  reference: str
  values: Mapping[Column, Values]
  summaries: Mapping[Column, Mapping[str, Summary]]
  differences: Mapping[Column, Mapping[str, Difference]]
  best: Mapping[Column, str | None]
  ranks: Ranks
  best_rank: str | None
  corrected: Mapping[str, float]

  @property
  def columns(self) -> list[Column]:
    """All columns, gains last."""
    return list(self.values)

  @property
  def metrics(self) -> list[Column]:
    """The columns that are no gains."""
    return [column for column in self.values if not column.is_gain]

  @property
  def main(self) -> Column:
    """The column of ΔMTL."""
    return _main(self.values)

  @property
  def others(self) -> list[str]:
    """All rows but the reference."""
    return [row for row in self.rows if row != self.reference]


def analyze(
  scores: Scores,
  single_task: Mapping[str, str],
  tasks: Mapping[str, Task],
  *,
  rows: Iterable[str],
  seeds: Iterable[int],
  reference: str,
  other_data: Collection[str] = (),
) -> Analysis:
  """Computes all statistics of a comparison.

  Args:
    scores: row -> seed -> task -> metric -> value.
    single_task: row -> the row that its gains are relative to.
    tasks: the tasks, for columns and directions.
    rows: the names of all rows, also of those without numbers.
    seeds: all seeds, also those without numbers.
    reference: the row to compare the others with, one of `rows`.
    other_data: rows that were scored on other data than the reference. Their
      metrics are not compared, but their gains, over networks of those data.
  """
  rows, seeds = list(rows), list(seeds)
  table = make_values(scores, single_task, tasks, rows=rows, seeds=seeds)
  compared = {
    column: {
      row: x if column.is_gain or row not in other_data else {}
      for row, x in values.items()
    }
    for column, values in table.items()
  }
  differences = {
    column: {
      row: paired_difference(
        values[row],
        values[reference],
        higher_is_better=column.metric.higher_is_better,
      )
      for row in rows
      if row != reference
    }
    for column, values in compared.items()
  }
  unranked = {*single_task.values(), *other_data}
  ranks = _rank([r for r in rows if r not in unranked], seeds, table)
  p_values = {row: x.p for row, x in differences[_main(table)].items()}
  return Analysis(
    rows=rows,
    seeds=seeds,
    reference=reference,
    values=table,
    summaries={
      column: {r: summarize(list(known(x).values())) for r, x in values.items()}
      for column, values in table.items()
    },
    differences=differences,
    best={
      column: best_row(values, higher_is_better=column.metric.higher_is_better)
      for column, values in compared.items()
    },
    ranks=ranks,
    best_rank=best_row(ranks.values, higher_is_better=False),
    corrected=holm(p_values),
  )


def best_row(values: Values, *, higher_is_better: bool) -> str | None:
  """The row that is better than all others that have numbers, if there is one.

  Args:
    values: row -> seed -> value.
    higher_is_better: the direction.
  """
  candidates = {row: known(numbers) for row, numbers in values.items()}
  candidates = {row: x for row, x in candidates.items() if x}
  for row, numbers in candidates.items():
    others = [x for other, x in candidates.items() if other != row]
    if others and all(
      is_better(numbers, other, higher_is_better=higher_is_better)
      for other in others
    ):
      return row
  return None


def _main(columns: Iterable[Column]) -> Column:
  return next(c for c in columns if c.is_gain and c.name == MAIN_GAIN)


def _rank(
  rows: Sequence[str],
  seeds: Sequence[int],
  table: Mapping[Column, Values],
) -> Ranks:
  columns = [
    column
    for column, values in table.items()
    if column.counts and any(known(values[row]) for row in rows)
  ]
  complete = {
    row: {
      seed
      for seed in seeds
      if not any(math.isnan(table[c][row][seed]) for c in columns)
    }
    for row in rows
  }
  most = max(map(len, complete.values()), default=0) if columns else 0
  ranked = [row for row in rows if 0 < most <= 2 * len(complete[row])]
  shared = [s for s in seeds if all(s in complete[row] for row in ranked)]
  if len(ranked) < 2:
    ranked, shared = [], []
  directions = [column.metric.higher_is_better for column in columns]
  values = {row: {} for row in ranked}
  for seed in shared:
    numbers = [[table[c][row][seed] for c in columns] for row in ranked]
    ranks = mean_ranks(np.array(numbers), directions)
    for row, rank in zip(ranked, ranks, strict=True):
      values[row][seed] = float(rank)
  return Ranks(
    columns=columns,
    seeds=shared,
    values=values,
    summaries={
      row: summarize(list(values.get(row, {}).values())) for row in rows
    },
  )
