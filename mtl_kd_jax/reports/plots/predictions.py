"""predictions.png: images, labels and the predictions of all networks."""

from collections.abc import Mapping, Sequence
import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from mtl_kd_jax.reports.plots.style import (
  GRAY,
  add_picture,
  image_bytes,
  new_figure,
  report_style,
  save,
)
from mtl_kd_jax.reports.plots.texts import literal
from mtl_kd_jax.tasks import Task

_WIDTH = 1.5  # inches, of one picture
_HEADINGS = 0.5  # inches, above the first row


def draw_predictions(
  samples: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
  path: pathlib.Path,
) -> None:
  """Writes the figure of `plot_predictions` to a file."""
  save(plot_predictions(samples, predictions, tasks), path)


def plot_predictions(
  samples: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
) -> Figure:
  """Shows a row for each image: for every task its label and all predictions.

  Args:
    samples: 'image' float [n h w 3] in [0, 1], and task -> label [n h w (c)]
      for some of the tasks.
    predictions: network -> task -> float [n h w c], of the same samples. The
      place of a task that a network does not have stays empty.
    tasks: the tasks to show, where the samples have labels of them.
  """
  tasks = {name: task for name, task in tasks.items() if name in samples}
  images = samples['image']
  n, h, w = images.shape[:3]
  headings = ['label', *predictions]
  columns = 1 + len(tasks) * len(headings)
  height = _WIDTH * h / w * n
  with report_style():
    figure = new_figure(_WIDTH * columns, height + _HEADINGS)
    # A wider gap in front of every task.
    outer = figure.add_gridspec(
      1,
      1 + len(tasks),
      width_ratios=[1] + [len(headings)] * len(tasks),
      left=0.002,
      right=0.998,
      bottom=0.01,
      top=height / (height + _HEADINGS),
      wspace=0.12 / len(headings),
    )
    _add_columns(outer[0], {'image': [image_bytes(x) for x in images]})
    for cell, (name, task) in zip(list(outer)[1:], tasks.items(), strict=True):
      labels = samples[name]
      shown = {'label': labels} | {
        network: parts.get(name) for network, parts in predictions.items()
      }
      first = _add_columns(
        cell,
        {
          heading: [None] * n
          if maps is None
          else [task.picture(maps[i], labels[i], images[i]) for i in range(n)]
          for heading, maps in shown.items()
        },
      )
      first.annotate(
        literal(name),
        (0, 1),
        (0, 18),
        xycoords='axes fraction',
        textcoords='offset points',
        weight='bold',
      )
  return figure


def _add_columns(
  cell, columns: Mapping[str, Sequence[np.ndarray | None]]
) -> Axes:
  """Fills a grid cell with columns of pictures under their headings.

  Returns:
    The axes of the first picture.
  """
  rows = len(next(iter(columns.values())))
  grid = cell.subgridspec(rows, len(columns), wspace=0.02, hspace=0.03)
  axes = grid.subplots(squeeze=False)
  for column, (heading, pictures) in zip(axes.T, columns.items(), strict=True):
    column[0].set_title(literal(heading), loc='center', pad=3)
    for axis, picture in zip(column, pictures, strict=True):
      if picture is None:
        _leave_empty(axis)
      else:
        add_picture(axis, picture)
  return axes[0, 0]


def _leave_empty(axis: Axes) -> None:
  add_picture(axis, np.full((1, 1, 3), 242, np.uint8))
  axis.text(
    0.5,
    0.5,
    '–',
    color=GRAY,
    ha='center',
    va='center',
    transform=axis.transAxes,
  )
