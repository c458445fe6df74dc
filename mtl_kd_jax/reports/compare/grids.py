"""The tables of a comparison, before they are Markdown, LaTeX or drawn."""

from collections.abc import Sequence
import dataclasses

from mtl_kd_jax.reports.cells import unit_with_arrow
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.cells import (
  RANK,
  deviation,
  difference_cell,
  interval,
  mean_cell,
  p_value,
  percent,
  rank_cell,
)
from mtl_kd_jax.reports.compare.columns import Column


@dataclasses.dataclass(frozen=True)
class Grid:
  """One table.

  Attributes:
    title: what it shows, one line.
    headings: title and unit of each column but that of the names.
    groups: what each column belongs to; a table that is too wide is split
      between groups.
    rows: name -> the texts of its cells.
    bold: (name, index of the column) of the cells to stress.
  """

  title: str
  headings: Sequence[tuple[str, str]]
  groups: Sequence[str]
  rows: dict[str, list[str]]
  bold: frozenset[tuple[str, int]] = frozenset()


def make_means(analysis: Analysis, title: str) -> Grid:
  """Means of all columns, and the mean rank."""
  return _means(analysis, analysis.columns, title)


def make_protocol(analysis: Analysis, title: str) -> Grid:
  """The same with the one gain of the literature's protocol, Δm."""
  columns = [
    c for c in analysis.columns if not c.is_gain or c.name == 'delta_m'
  ]
  return _means(analysis, columns, title)


def make_verdict(analysis: Analysis, title: str) -> Grid:
  """ΔMTL of all rows, and their difference to the reference in full."""
  main = analysis.main
  unit = main.metric.unit
  headings = [
    main.heading,
    ('sd', ''),
    ('seeds', ''),
    ('better by', unit),
    ('95 % (t)', ''),
    ('95 % (bootstrap)', ''),
    ('chance', ''),
    ('won', ''),
    ('p (Holm)', ''),
  ]
  rows = {}
  for row in analysis.rows:
    own = analysis.summaries[main][row]
    rows[row] = [
      mean_cell(own, main, own.n),
      deviation(own, main),
      f'{own.n}',
    ]
    if row == analysis.reference:
      rows[row] += ['reference'] + [''] * 5
      continue
    difference = analysis.differences[main][row]
    summary = difference.summary
    rows[row] += [
      difference_cell(summary._replace(interval=None), main, own.n),
      interval(summary.interval, main),
      interval(summary.bootstrap, main),
      percent(difference.chance),
      f'{difference.wins} of {summary.n}' if summary.n else '–',
      p_value(analysis.corrected[row]),
    ]
  return Grid(title, headings, [main.title] * 3 + ['difference'] * 6, rows)


def make_differences(analysis: Analysis, title: str) -> Grid:
  """Differences to the reference in all columns."""
  columns = analysis.columns
  return Grid(
    title=title,
    headings=[(c.title, c.metric.unit) for c in columns],
    groups=[c.task for c in columns],
    rows={
      row: [
        difference_cell(
          analysis.differences[c][row].summary, c, len(analysis.seeds)
        )
        for c in columns
      ]
      for row in analysis.others
    },
  )


def _means(analysis: Analysis, columns: Sequence[Column], title: str) -> Grid:
  seeds = len(analysis.seeds)
  ranks = analysis.ranks.summaries
  best = [*(analysis.best[c] for c in columns), analysis.best_rank]
  return Grid(
    title=title,
    headings=[
      *(c.heading for c in columns),
      (RANK.title, unit_with_arrow(RANK)),
    ],
    groups=[*(c.task for c in columns), 'gain'],
    rows={
      row: [
        *(mean_cell(analysis.summaries[c][row], c, seeds) for c in columns),
        rank_cell(ranks[row], seeds) if row in ranks else '–',
      ]
      for row in analysis.rows
    },
    bold=frozenset((row, i) for i, row in enumerate(best) if row is not None),
  )
