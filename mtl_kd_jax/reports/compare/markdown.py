"""compare.md."""

from collections.abc import Sequence

from mtl_kd_jax.reports.cells import as_markdown, escaped
from mtl_kd_jax.reports.compare.grids import Grid
from mtl_kd_jax.reports.compare.page import Page


def make_markdown(page: Page) -> str:
  """A page as Markdown."""
  parts = [f'# {as_markdown(page.title)}', _items(page.verdicts)]
  parts += [
    f'## {as_markdown(grid.title)}\n\n{_table(grid)}' for grid in page.grids
  ]
  if page.missing:
    parts.append(f'Missing numbers:\n\n{_items(page.missing)}')
  parts += ['## How to read this', *map(as_markdown, page.notes)]
  if page.facts:
    lines = [('', ''), ('---', '---')]
    lines += [(_cell(k), _cell(v)) for k, v in page.facts.items()]
    parts.append(f'## How it was made\n\n{_lines(lines)}')
  return '\n\n'.join(filter(None, parts)) + '\n'


def _items(texts: Sequence[str]) -> str:
  return '\n'.join(f'- {as_markdown(text)}.' for text in texts)


def _table(grid: Grid) -> str:
  headings = [_cell(' '.join(filter(None, h))) for h in grid.headings]
  lines = [['', *headings], ['---', *(['---:'] * len(headings))]]
  for row, cells in grid.rows.items():
    cells = [
      f'**{cell}**' if (row, i) in grid.bold else cell
      for i, cell in enumerate(cells)
    ]
    lines.append([_cell(row), *cells])
  return _lines(lines)


def _lines(lines: Sequence[Sequence[str]]) -> str:
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cell(text: str) -> str:
  return escaped(as_markdown(text))
