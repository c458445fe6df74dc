"""Tables of comparisons, as a page shows them."""

import itertools
import re

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.cells import plain
from mtl_kd_jax.reports.compare.grids import Grid
from mtl_kd_jax.reports.html.tables import (
  Cell,
  Heading,
  PageTable,
  describe_heading,
  finite,
  first_number,
)

# '43.20 ± 1.10 (n=4)': what follows the number
_SPREAD = re.compile(r' (± |\(n=)')


def tabulate_grid(grid: Grid, *, corner: str) -> PageTable:
  """A table of a comparison; its texts begin with what they are sorted by."""
  groups = [(g, len([*x])) for g, x in itertools.groupby(grid.groups)]
  return PageTable(
    title=grid.title,
    corner=corner,
    groups=[(one_line(name), count) for name, count in groups],
    headings=[
      Heading(
        one_line(title), unit, 'ascending' if '↓' in unit else 'descending'
      )
      for title, unit in grid.headings
    ],
    rows=[
      (
        one_line(row),
        [
          _cell(text, stressed=(row, i) in grid.bold)
          for i, text in enumerate(cells)
        ],
      )
      for row, cells in grid.rows.items()
    ],
  )


def tabulate_seeds(analysis: Analysis, row: str) -> PageTable:
  """All numbers of one row of a comparison, a line for each seed."""
  columns = analysis.columns
  groups = [
    (t, len([*x])) for t, x in itertools.groupby(c.task for c in columns)
  ]
  return PageTable(
    title=f'{one_line(row)}: the numbers of every seed',
    corner='seed',
    groups=[(one_line(name), count) for name, count in groups],
    headings=[describe_heading(c.metric) for c in columns],
    rows=[
      (
        f'seed {seed}',
        [
          Cell(plain(x, c), finite(x))
          for c in columns
          for x in (analysis.values[c][row][seed],)
        ],
      )
      for seed in analysis.seeds
    ],
  )


def _cell(text: str, *, stressed: bool) -> Cell:
  """With the spread of a mean and its number of seeds in a second line."""
  match = _SPREAD.search(text)
  start = match.start() if match else len(text)
  # The second line may be broken before the number of seeds only.
  note = text[start:].strip().replace('± ', '±\N{NO-BREAK SPACE}')
  return Cell(text[:start], first_number(text), note, stressed=stressed)
