"""Figures inside of a page: as SVG, or as PNG where that is smaller."""

import base64
import io
from typing import NamedTuple

from markupsafe import Markup

from mtl_kd_jax.reports.plots.style import ReportFigure, save
from mtl_kd_jax.reports.plots.svg import to_svg

_LARGEST_SVG = 400_000  # characters


class Drawing(NamedTuple):
  """A figure.

  Attributes:
    svg: an <svg> element; '' where there are too many lines for it.
    uri: a picture instead; ''.
    alt: what it shows, for those who do not see it.
    width: CSS pixels below which it cannot be read.
  """

  svg: str
  uri: str
  alt: str
  width: int


def draw(figure: ReportFigure, name: str, *, alt: str) -> Drawing:
  """Draws a figure for a page.

  Args:
    figure: the figure.
    name: differs between the figures of a page.
    alt: what it shows.
  """
  width = round(75 * figure.get_figwidth())
  svg = to_svg(figure, name)
  if len(svg) <= _LARGEST_SVG:
    return Drawing(Markup(svg), '', alt, width)
  file = io.BytesIO()
  save(figure, file)
  content = base64.b64encode(file.getvalue()).decode('ascii')
  return Drawing('', f'data:image/png;base64,{content}', alt, width)
