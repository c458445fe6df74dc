"""curves.png: what was logged of every task while the networks trained."""

from collections.abc import Mapping
import pathlib

from matplotlib.figure import Figure

from mtl_kd_jax.reports.cells import arrow
from mtl_kd_jax.reports.plots.style import (
  COLORS,
  GRAY,
  add_line,
  legend_entries,
  new_figure,
  report_style,
  save,
  style_axes,
)
from mtl_kd_jax.reports.plots.texts import literal
from mtl_kd_jax.runtime.metric_keys import TASK_LOSS, Log, alignment, key
from mtl_kd_jax.runtime.metric_log import SELECTION
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.stage import SINGLE_TASK


def draw_curves(
  log: Log,
  tasks: Mapping[str, Task],
  path: pathlib.Path,
  *,
  split: str,
  rows: Mapping[str, str],
) -> None:
  """Writes the figure of `plot_curves` to a file."""
  save(plot_curves(log, tasks, split=split, rows=rows), path)


def plot_curves(
  log: Log, tasks: Mapping[str, Task], *, split: str, rows: Mapping[str, str]
) -> Figure:
  """Plots training loss, alignment and headline metric over the epochs.

  Args:
    log: the lines of metrics.jsonl.
    tasks: the tasks, a row of plots for each.
    split: the split that was scored during training.
    rows: stage -> the network that it is shown as, in the order of the legend.
      Stages of one network, such as the single-task ones, share a color. Other
      stages of the log are left out.

  Returns:
    The figure. It has no plots of alignments where nothing was distilled.
  """
  log = [e for e in log if e['stage'] in rows]
  distilled = any(alignment(task) in e for e in log for task in tasks)
  with report_style():
    columns = 3 if distilled else 2
    figure = new_figure(
      3.4 * columns, 2.1 * len(tasks) + 0.4, layout='constrained'
    )
    grid = figure.subplots(len(tasks), columns, squeeze=False, sharex=True)
    colors = _colors(rows)
    for axes, (name, task) in zip(grid, tasks.items(), strict=True):
      metric = task.columns[task.headline]
      plots = {
        f'{name}: training loss': ('train', key(TASK_LOSS, name)),
        f'{name}: alignment with its teacher': ('train', alignment(name)),
        f'{name}: {_label(metric)}, split {split!r}': (
          SELECTION,
          key(name, task.headline),
        ),
      }
      if not distilled:
        del plots[f'{name}: alignment with its teacher']
      for axis, (title, (kind, what)) in zip(axes, plots.items(), strict=True):
        style_axes(axis)
        axis.set_title(literal(title))
        _add_lines(axis, log, kind, what, rows=rows, colors=colors)
    for axis in grid[-1]:
      axis.set_xlabel('epoch')
    entries = legend_entries(grid.flat)
    order = [title for title in colors if title in entries]
    if order:
      figure.legend(
        [entries[title] for title in order],
        list(map(literal, order)),
        loc='outside upper left',
        ncols=len(order),
      )
  return figure


def _colors(rows: Mapping[str, str]) -> dict[str, str]:
  """Title -> color; gray for the single-task networks, the reference."""
  titles = dict.fromkeys(rows.values())
  others = [title for title in titles if title != SINGLE_TASK]
  return {
    title: GRAY
    if title == SINGLE_TASK
    else COLORS[others.index(title) % len(COLORS)]
    for title in titles
  }


def _add_lines(axis, log, kind, name, *, rows, colors):
  """A line for each stage that logged `name`."""
  for stage, title in rows.items():
    points = [
      (e['epoch'], e[name])
      for e in log
      if (e['stage'], e['kind']) == (stage, kind) and e.get(name) is not None
    ]
    if points:
      add_line(
        axis,
        points,
        label=title,
        color=colors[title],
        markers=kind == SELECTION,
      )


def _label(metric: Metric) -> str:
  unit = f' [{metric.unit}]' if metric.unit else ''
  return f'{metric.title}{unit} {arrow(metric)}'
