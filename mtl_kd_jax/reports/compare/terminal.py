"""A comparison on a terminal or in a notebook, in the width that there is."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.grids import Grid
from mtl_kd_jax.reports.compare.page import Page


def renderables(page: Page, width: int) -> Iterator[RenderableType]:
  """What rich prints for a page, its verdicts last, where they are seen.

  Args:
    page: what to print.
    width: characters of a line.
  """
  yield Text(page.title, style='bold')
  for grid in page.grids:
    yield Text(f'\n{grid.title}')
    yield from _tables(grid, width)
  if page.missing:
    yield Text('\nMissing numbers:')
    yield from (Text(f'  {text}') for text in page.missing)
  for note in page.notes:
    yield Text(f'\n{note}')
  if page.facts:
    yield Text('')
  for key, value in page.facts.items():
    yield Text(f'{one_line(key)}: {one_line(value)}')
  if page.verdicts:
    yield Text('')
  yield from (Text(f'{text}.') for text in page.verdicts)


def _tables(grid: Grid, width: int) -> list[Table]:
  """One table or, where that is too wide, one for each group of columns.

  A group that is too wide all the same is divided further.
  """
  indices = range(len(grid.headings))
  if _fits(grid, indices, width):
    return [_table(grid, indices)]
  tables = []
  for group in dict.fromkeys(grid.groups):
    chosen = []
    for i in (i for i in indices if grid.groups[i] == group):
      if chosen and not _fits(grid, [*chosen, i], width):
        tables.append(_table(grid, chosen))
        chosen = []
      chosen.append(i)
    tables.append(_table(grid, chosen))
  return tables


def _fits(grid: Grid, indices: Sequence[int], width: int) -> bool:
  table = _table(grid, indices)
  return Console(width=10_000).measure(table).maximum <= width


def _table(grid: Grid, indices: Sequence[int]) -> Table:
  table = Table(show_edge=False)
  table.add_column('', overflow='fold')
  for i in indices:
    heading = Text('\n'.join(grid.headings[i]))
    table.add_column(heading, justify='right', no_wrap=True)
  for row, cells in grid.rows.items():
    texts = [
      Text(cells[i], style='bold' if (row, i) in grid.bold else '')
      for i in indices
    ]
    table.add_row(Text(one_line(row)), *texts)
  return table
