"""The contact sheet of the data doctor: samples with all their labels."""

from collections.abc import Mapping, Sequence
import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from mtl_kd_jax.reports.plots.style import (
  add_picture,
  image_bytes,
  new_figure,
  report_style,
  save,
)
from mtl_kd_jax.reports.plots.texts import literal
from mtl_kd_jax.tasks import Task

_WIDTH = 2.2  # inches, of one picture
_NOTE = 0.22  # inches, of the line under it
_HEADINGS = 0.3  # inches, above the first row
_LEGEND_COLUMNS = 6


def draw_samples(
  samples: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
  path: pathlib.Path,
  *,
  notes: Mapping[str, Mapping[str, str]],
  legend: Mapping[str, Sequence[int]],
) -> None:
  """Draws a contact sheet: a row for each sample, image and labels aligned.

  Args:
    samples: name -> 'image' float [h w 3] in [0, 1], and a label for each task;
      where there are classes, 'outlines' bool [h w] of them, drawn over the
      image in a column of its own.
    tasks: the tasks, for their colors.
    path: the file to write.
    notes: name -> task -> what is written under its label.
    legend: name of a class -> its color, uint8 RGB.
  """
  columns = ['image', *tasks]
  if any('outlines' in sample for sample in samples.values()):
    columns.append('outlines')
  titles = {'outlines': 'classes over image'}
  with report_style():
    figure, axes = _make_grid(samples, len(columns), legend)
    for line, (name, sample) in zip(axes, samples.items(), strict=True):
      image = image_bytes(sample['image'])
      pictures = [image]
      pictures += [
        t.picture(sample[k], sample[k], sample['image'])
        for k, t in tasks.items()
      ]
      if 'outlines' in columns:
        outlined = sample['outlines'][..., None]
        pictures.append(np.where(outlined, 255, image // 2))
      for axis, picture, column in zip(line, pictures, columns, strict=True):
        add_picture(axis, picture)
        note = literal(notes[name].get(column, ''))
        axis.set_xlabel(note, labelpad=2, fontsize=7)
      line[0].set_ylabel(literal(name))
    for axis, column in zip(axes[0], columns, strict=True):
      title = literal(titles.get(column, column))
      axis.set_title(title, loc='center', weight='bold')
    if legend:
      figure.legend(
        [Patch(color=np.divide(color, 255)) for color in legend.values()],
        list(map(literal, legend)),
        loc='lower center',
        ncols=min(_LEGEND_COLUMNS, len(legend)),
        handlelength=1,
      )
  save(figure, path)


def _make_grid(samples, columns, legend) -> tuple[Figure, np.ndarray]:
  """The figure and its axes [sample, column], with room for all texts."""
  h, w = max(s['image'].shape[:2] for s in samples.values())
  picture = _WIDTH * h / w
  foot = 0.2 * -(-len(legend) // _LEGEND_COLUMNS) + 0.1
  height = (picture + _NOTE) * len(samples) + _HEADINGS + foot
  figure = new_figure(_WIDTH * columns, height)
  grid = figure.add_gridspec(
    len(samples),
    columns,
    left=0.02,
    right=0.995,
    bottom=(foot + _NOTE) / height,
    top=1 - _HEADINGS / height,
    wspace=0.03,
    hspace=_NOTE / picture,
  )
  return figure, grid.subplots(squeeze=False)
