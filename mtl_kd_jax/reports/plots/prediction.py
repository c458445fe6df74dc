"""One picture beside what a network predicts for it."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Patch
import numpy as np

from mtl_kd_jax.reports.plots.style import (
  INK,
  ReportFigure,
  add_picture,
  new_figure,
  report_style,
)
from mtl_kd_jax.reports.plots.texts import literal
from mtl_kd_jax.tasks import Task

_WIDTH = 3.2  # inches, of one picture
_HEADINGS, _SCALE, _LEGEND = 0.3, 0.42, 0.2  # inches; of one line of the legend
_TALLEST = 1.6  # height over width of a panel, at most
_NAME = 1.35  # inches, of a class in the legend


def plot_prediction(
  image: np.ndarray | None,
  maps: Mapping[str, np.ndarray],
  pictures: Mapping[str, np.ndarray],
  tasks: Mapping[str, Task],
) -> ReportFigure:
  """Shows a picture and its predictions in a row, with their legends.

  Args:
    image: the picture, uint8 [h w 3], or None.
    maps: task -> what is predicted, in the form of its label.
    pictures: task -> the same in colors, uint8 [h w 3].
    tasks: the tasks.
  """
  panels = {} if image is None else {'picture': image}
  panels |= pictures
  height, width = next(iter(panels.values())).shape[:2]
  shape = min(height / width, _TALLEST)
  legend = _classes(maps, pictures, tasks)
  columns = max(1, int(_WIDTH * len(panels) / _NAME))
  foot = _SCALE + _LEGEND * -(-len(legend) // columns)
  total = _WIDTH * shape + _HEADINGS + foot
  with report_style():
    figure = new_figure(_WIDTH * len(panels), total)
    axes = figure.subplots(
      1,
      len(panels),
      squeeze=False,
      gridspec_kw={
        'left': 0.005,
        'right': 0.995,
        'bottom': foot / total,
        'top': 1 - _HEADINGS / total,
        'wspace': 0.02,
      },
    )[0]
    for axis, (name, picture) in zip(axes, panels.items(), strict=True):
      add_picture(axis, picture)
      axis.set_aspect('equal')
      axis.set_title(literal(name), loc='center', weight='bold')
      if name in maps and tasks[name].colors.bounds is not None:
        _add_scale(axis, tasks[name], maps[name], inch=1 / (_WIDTH * shape))
    if legend:
      figure.legend(
        [Patch(color=np.divide(color, 255)) for color in legend.values()],
        list(map(literal, legend)),
        loc='lower center',
        ncols=min(columns, len(legend)),
        handlelength=1,
      )
  return figure


def _classes(maps, pictures, tasks) -> dict[str, np.ndarray]:
  """The classes that occur, the largest first -> their colors."""
  legend = {}
  for name, ids in maps.items():
    label = tasks[name].label
    if not tasks[name].form.is_class:
      continue
    flat, colors = ids.ravel(), pictures[name].reshape(-1, 3)
    found, first, counts = np.unique(
      flat, return_index=True, return_counts=True
    )
    for i in np.argsort(-counts, kind='stable'):
      legend[label.classes[found[i]]] = colors[first[i]]
  return legend


def _add_scale(
  axis: Axes, task: Task, values: np.ndarray, *, inch: float
) -> None:
  """Says below a picture of `1 / inch` inches what its colors stand for."""
  low, high = task.colors.bounds(values)
  ramp = np.linspace(low, high, 256, dtype=np.float32)[None, :, None]
  bar = axis.inset_axes((0.15, -0.17 * inch, 0.7, 0.08 * inch))
  scale = values[..., None] if values.ndim == 2 else values
  bar.imshow(task.render(ramp, scale), aspect='auto')
  bar.set(xticks=[], yticks=[])
  bar.spines[:].set_visible(False)
  unit = literal(f' {task.label.unit}'.rstrip())
  for place, value, side in ((-0.02, low, 'right'), (1.02, high, 'left')):
    bar.text(
      place,
      0.5,
      f'{value:.3g}{unit}',
      ha=side,
      va='center',
      color=INK,
      fontsize=7.5,
      transform=bar.transAxes,
    )
