"""compare.png: differences to the reference, a panel for each headline metric.

Small multiples that share the order of the rows with the tables. Better is
always to the right.
"""

from collections.abc import Sequence
import pathlib

import numpy as np

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.cells import signed
from mtl_kd_jax.reports.compare.columns import Column
from mtl_kd_jax.reports.compare.statistics import FEWEST, Difference
from mtl_kd_jax.reports.plots.style import (
  COLORS,
  GRAY,
  INK,
  ReportFigure,
  new_figure,
  report_style,
  save,
  style_axes,
)
from mtl_kd_jax.reports.plots.texts import literal

# By direction of the difference: 0, 1, -1.
_COLORS = (GRAY, COLORS[0], COLORS[1])
_LABELS = ('undecided', 'better', 'worse')
_LONGEST_NAME = 34
_DOT = 5  # points, of a mean
_ROW = 0.24  # inches
# Of so many rows, those that are this many times as much worse as the median
# row is better or worse are cut off: a collapse would dwarf all others.
_MANY, _CUT = 6, 4


def draw_differences(analysis: Analysis, path: pathlib.Path) -> bool:
  """Writes the figure of `plot_differences` to a file.

  Returns:
    Whether there was anything to draw; no file is written otherwise.
  """
  figure = plot_differences(analysis)
  if figure is not None:
    save(figure, path)
  return figure is not None


def plot_differences(analysis: Analysis) -> ReportFigure | None:
  """Plots paired differences to the reference with their 95 % t intervals.

  Returns:
    The figure; None where no row has a difference in any of its panels.
  """
  columns = [
    column
    for column in [analysis.main, *analysis.metrics]
    if column.headline
    and any(d.summary.n for d in analysis.differences[column].values())
  ]
  rows = analysis.others
  if not columns:
    return None
  with report_style():
    figure = new_figure(
      1.9 + 2.0 * len(columns), 1.05 + _ROW * len(rows), layout='constrained'
    )
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axis, column in zip(axes, columns, strict=True):
      style_axes(axis)
      _add_panel(axis, column, analysis.differences[column], rows)
    axes[0].set_yticks(range(len(rows)), [_shortened(row) for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    _add_legend(figure, axes[0], analysis, columns)
  return figure


def _add_panel(
  axis, column: Column, differences: dict[str, Difference], rows: Sequence[str]
) -> None:
  unit = f' [{column.metric.unit}]' if column.metric.unit else ''
  weight = 'bold' if column.is_gain else 'normal'
  axis.set_title(literal(column.title), weight=weight)
  axis.set_xlabel(literal(f'better by{unit} →'), color=INK)
  axis.locator_params(axis='x', nbins=5)
  axis.grid(False, axis='y')
  axis.spines['left'].set_visible(False)
  axis.tick_params(axis='y', length=0)
  for y in range(0, len(rows), 2):
    axis.axhspan(y - 0.5, y + 0.5, color='#f5f5f5', linewidth=0, zorder=0)
  axis.axvline(0, color=INK, linewidth=0.9, zorder=2)
  left, right = _limits([differences[row] for row in rows])
  axis.set_xlim(left, right)
  for y, row in enumerate(rows):
    _add_row(axis, y, differences[row], column, left)


def _add_row(axis, y, difference: Difference, column: Column, left) -> None:
  summary = difference.summary
  if not summary.n:
    axis.text(0, y, ' –', color=GRAY, va='center', zorder=3)
    return
  color = _COLORS[difference.direction]
  axis.plot(
    difference.better_by,
    [y + 0.3] * summary.n,  # below the interval, which would hide them
    'o',
    color=color,
    alpha=0.6,
    markersize=2.4,
    markeredgewidth=0,
    zorder=3,
  )
  if summary.interval:
    axis.plot(summary.interval, [y, y], color=color, linewidth=1.6, zorder=3)
  filled = color if summary.interval else 'white'
  if summary.mean >= left:
    axis.plot(
      [summary.mean],
      [y],
      'o',
      color=color,
      markerfacecolor=filled,
      markersize=_DOT,
      zorder=4,
    )
  else:  # cut off
    axis.text(
      left,
      y,
      f' ◀ {signed(summary.mean, column)}',
      color=color,
      fontsize=7,
      va='center',
      zorder=5,
    )


def _limits(differences: Sequence[Difference]) -> tuple[float, float]:
  """The ends of the axis, with 0 between them."""
  shown = [
    [0, *d.better_by, *(d.summary.interval or ())]
    for d in differences
    if d.summary.n
  ]
  lows, highs = np.array([(min(x), max(x)) for x in shown]).T
  if len(shown) >= _MANY:
    widest = _CUT * np.median(np.maximum(-lows, highs))
    lows = lows[-lows <= widest]  # not empty: the median row is in it
  low, high = lows.min(), highs.max()
  margin = 0.06 * (high - low) or 1.0
  return low - margin, high + margin


def _add_legend(figure, axis, analysis: Analysis, columns) -> None:
  line = {'marker': 'o', 'linewidth': 1.6, 'markersize': _DOT}
  styles = {_LABELS[i]: line | {'color': _COLORS[i]} for i in (1, -1, 0)}
  dot = {'marker': 'o', 'linestyle': '', 'color': GRAY}
  if any(
    0 < d.summary.n < FEWEST
    for column in columns
    for d in analysis.differences[column].values()
  ):
    label = f'fewer than {FEWEST} seeds'
    styles[label] = dot | {'markersize': _DOT, 'markerfacecolor': 'white'}
  styles['one seed'] = dot | {'markersize': 2.4, 'markeredgewidth': 0}
  legend = figure.legend(
    [axis.plot([], [], **style)[0] for style in styles.values()],
    styles,
    loc='outside upper left',
    ncols=len(styles),
    title=f'Mean difference to {_shortened(analysis.reference)}, paired by '
    'seed, and its 95 % interval',
    alignment='left',
  )
  legend.get_title().set_weight('bold')


def _shortened(name: str) -> str:
  name = one_line(name)
  if len(name) > _LONGEST_NAME:
    name = f'{name[:_LONGEST_NAME]}…'
  return literal(name)
