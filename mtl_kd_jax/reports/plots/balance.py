"""balancing.png: weights of the objectives, norms and angles of gradients."""

from collections.abc import Iterable, Sequence
import itertools
import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtl_kd_jax.reports.plots.style import (
  COLORS,
  GRAY,
  INK,
  add_line,
  legend_entries,
  new_figure,
  report_style,
  save,
  style_axes,
)
from mtl_kd_jax.reports.plots.texts import literal
from mtl_kd_jax.runtime.metric_keys import (
  COSINE,
  NORM,
  WEIGHT,
  Log,
  alignment,
  is_alignment,
  lines_of,
  objectives_of,
  of_kind,
  task_of,
)

# kind -> (label of its axis, height relative to the others)
_KINDS = {
  WEIGHT: ('weight', 1.0),
  NORM: ('gradient norm', 1.2),
  COSINE: ('cosine', 1.5),
}
# Whether the objectives of two tasks, in alphabetical order, are alignments ->
# how the line of the pair is drawn.
_PAIR_STYLES = {
  (False, False): '-',
  (True, True): '--',
  (False, True): ':',
  (True, False): '-.',
}
# More lines than these are drawn without their points behind them.
_MOST_FAINT_LINES = 6


def draw_balance(log: Log, tasks: Iterable[str], path: pathlib.Path) -> bool:
  """Writes the figure of `plot_balance` to a file.

  Returns:
    Whether there was anything to draw; no file is written otherwise.
  """
  figure = plot_balance(log, tasks)
  if figure is not None:
    save(figure, path)
  return figure is not None


def plot_balance(log: Log, tasks: Iterable[str]) -> Figure | None:
  """Plots weights, gradient norms and cosines over the steps.

  A column for each stage with gradients of at least two objectives in its log.
  An objective has the color of its task, and is dashed if it is an alignment.

  Args:
    log: the lines of metrics.jsonl.
    tasks: names of the tasks; their order decides their colors.

  Returns:
    The figure, or None where no stage has such gradients.
  """
  columns = {}
  for stage in dict.fromkeys(e['stage'] for e in log):
    gradients, weights = lines_of(log, stage)
    if len(of_kind(_names(gradients), NORM)) > 1:
      columns[stage] = {WEIGHT: weights, NORM: gradients, COSINE: gradients}
  kinds = [
    kind
    for kind in _KINDS
    if any(of_kind(_names(lines[kind]), kind) for lines in columns.values())
  ]
  if not columns:
    return None
  tasks = list(tasks)
  with report_style():
    figure = new_figure(
      2.4 + 3.9 * len(columns),
      0.4 + 1.8 * sum(_KINDS[kind][1] for kind in kinds),
      layout='constrained',
    )
    grid = figure.subplots(
      len(kinds),
      len(columns),
      squeeze=False,
      sharex='col',
      sharey='row',
      height_ratios=[_KINDS[kind][1] for kind in kinds],
    )
    for axes, (stage, lines) in zip(grid.T, columns.items(), strict=True):
      axes[0].set_title(literal(stage), weight='bold')
      axes[-1].set_xlabel('step')
      for axis, kind in zip(axes, kinds, strict=True):
        style_axes(axis)
        _add_lines(axis, lines[kind], kind, tasks)
    for axes, kind in zip(grid, kinds, strict=True):
      _finish_row(axes, kind)
  return figure


def _add_lines(axis: Axes, lines: Log, kind: str, tasks: list[str]) -> None:
  order = [*tasks, *map(alignment, tasks)]
  names = sorted(
    of_kind(_names(lines), kind),
    key=lambda name: [
      order.index(x) if x in order else len(order) for x in objectives_of(name)
    ],
  )
  for name in names:
    points = [(e['step'], e[name]) for e in lines if e.get(name) is not None]
    if points:
      style = _line_style(objectives_of(name), tasks)
      add_line(axis, points, faint=len(names) <= _MOST_FAINT_LINES, **style)


def _line_style(
  objectives: tuple[str, ...], tasks: list[str]
) -> dict[str, str]:
  """Label, color and line style of an objective, or of a pair of them."""
  aligned = {task_of(o): is_alignment(o) for o in objectives}
  label = ' · '.join(map(_label, objectives))
  if len(aligned) == 2:
    linestyle = _PAIR_STYLES[tuple(aligned[task] for task in sorted(aligned))]
  else:
    linestyle = '--' if any(map(is_alignment, objectives)) else '-'
    if len(objectives) == 2:
      label = f'{objectives[0]} · its alignment'
  # Pairs of tasks have the colors that follow those of the tasks.
  subjects = [{task} for task in tasks]
  subjects += map(set, itertools.combinations(tasks, 2))
  subject = set(aligned)
  color = GRAY
  if subject in subjects:
    color = COLORS[subjects.index(subject) % len(COLORS)]
  return {'label': label, 'color': color, 'linestyle': linestyle}


def _label(objective: str) -> str:
  prefix = 'align. ' if is_alignment(objective) else ''
  return prefix + task_of(objective)


def _finish_row(axes: Sequence[Axes], kind: str) -> None:
  """Scale, label and legend of a row of plots, which share the y axis."""
  lowest = min(
    (line.get_ydata().min() for axis in axes for line in axis.lines),
    default=0,
  )
  if kind == NORM and lowest > 0:
    axes[0].set_yscale('log')
  elif kind == WEIGHT and lowest >= 0:
    axes[0].set_ylim(bottom=0)
  elif kind == COSINE:
    for axis in axes:
      axis.axhline(0, color=INK, linewidth=0.8, zorder=1)
  axes[0].set_ylabel(_KINDS[kind][0])
  entries = legend_entries(axes)
  axes[-1].legend(
    entries.values(),
    list(map(literal, entries)),
    loc='center left',
    bbox_to_anchor=(1.02, 0.5),
    handlelength=2.8,
  )


def _names(lines: Log) -> set[str]:
  return {name for line in lines for name in line}
