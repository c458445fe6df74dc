"""compare.html: a comparison over seeds, as a page."""

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.figure import plot_differences
from mtl_kd_jax.reports.compare.page import Page
from mtl_kd_jax.reports.html.figures import draw
from mtl_kd_jax.reports.html.grids import tabulate_grid, tabulate_seeds
from mtl_kd_jax.reports.html.render import render

_TONES = {1: 'good', -1: 'bad', 0: 'undecided'}
_ALT = (
  'For each headline metric, the mean difference of every row to the '
  'reference with its 95 % interval, and the single seeds as dots; better is '
  'to the right. The tables below have the same numbers.'
)


def make_comparison_page(page: Page, analysis: Analysis) -> str:
  """The content of compare.html.

  Args:
    page: the comparison in words and tables.
    analysis: its statistics.
  """
  figure = plot_differences(analysis)
  name, _, about = page.title.rpartition(': ')
  return render(
    'compare.html.jinja',
    name=name,
    about=about,
    reference=one_line(analysis.reference),
    verdicts=[
      (_TONES[analysis.differences[analysis.main][row].direction], text)
      for row, text in zip(analysis.others, page.verdicts, strict=True)
    ],
    figure=figure and draw(figure, 'differences', alt=_ALT),
    tables=[tabulate_grid(grid, corner='row') for grid in page.grids],
    missing=page.missing,
    details=[(one_line(r), tabulate_seeds(analysis, r)) for r in analysis.rows],
    notes=page.notes,
    facts=page.facts,
  )
