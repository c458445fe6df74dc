"""Figures inside of a page, which gives them its colors and its letters."""

import io
import re

from matplotlib.figure import Figure
import matplotlib.style

from mtl_kd_jax.reports.plots.style import INK, report_style

# Texts stay texts.
_STYLE = {'svg.fonttype': 'none', 'path.simplify_threshold': 0.5}
# Color of the style -> variable of the page's style sheet.
_VARIABLES = {
  INK: 'currentColor',
  '#e8e8e8': 'var(--grid)',
  '#b0b0b0': 'var(--frame)',
  '#f5f5f5': 'var(--band)',
  '#ffffff': 'var(--paper)',
  '#0072b2': 'var(--blue)',
  '#882255': 'var(--wine)',
  '#332288': 'var(--indigo)',
}
_COLOR = re.compile(r'(fill|stroke): (#[0-9a-f]{6})')


def to_svg(figure: Figure, name: str) -> str:
  """A figure as an <svg> element, which fills the width that it is given.

  Light and dark are up to the page: its style sheet has the variables of
  `_VARIABLES`.

  Args:
    figure: the figure.
    name: differs between the figures of a page, whose elements have ids.
  """
  salt = {'svg.hashsalt': name}
  file = io.StringIO()
  with report_style(), matplotlib.style.context({**_STYLE, **salt}):
    figure.savefig(
      file, format='svg', transparent=True, metadata={'Date': None}
    )
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'\s*<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  # Of groups, which nothing refers to; each figure has the same.
  text = re.sub(r'<g id="[^"]*"', '<g', text)
  text = re.sub(r' (width|height)="[\d.]+pt"', '', text, count=2)
  return _COLOR.sub(lambda m: f'{m[1]}: {_VARIABLES.get(m[2], m[2])}', text)
