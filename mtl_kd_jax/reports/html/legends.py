"""How the colors of pictures are read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.html.errors import RIGHT, WRONG, scale_colors
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import UNLABELED


class Legend(NamedTuple):
  """How the colors of a task are read.

  Attributes:
    task: its name.
    swatches: (color, meaning) of predictions.
    ramp: colors from one end of a scale to the other, or ().
    ends: what the ends of that scale are.
    error_swatches: the same of errors.
    error_ramp: the same of errors.
    error_ends: the ends of that scale, in its unit.
  """

  task: str
  swatches: Sequence[tuple[str, str]]
  ramp: Sequence[str]
  ends: tuple[str, str]
  error_swatches: Sequence[tuple[str, str]]
  error_ramp: Sequence[str]
  error_ends: tuple[str, str]


def make_legend(name: str, task: Task, *, end: float) -> Legend:
  """Says how predictions and errors of a task are colored.

  Args:
    name: of the task.
    task: the task.
    end: of the scale of its errors.
  """
  about = task.label
  quantity = about.quantity if about else ''
  unit = f' {one_line(about.unit)}' if about and about.unit else ''
  swatches, ramp, ends = [], [], ('', '')
  if quantity == 'class':
    ids = np.arange(len(about.classes), dtype=np.int32)[None]
    colors = task.render(ids, ids)[0]
    names = map(one_line, about.classes)
    swatches = list(zip(map(_css, colors), names, strict=True))
  elif quantity == 'normal':
    axes = np.array([[[1, 0, 0], [0, -1, 0], [0, 0, -1]]], np.float32)
    names = ('+x (right)', '−y (up)', '−z (toward the camera)')
    colors = task.render(axes, axes)[0]
    swatches = list(zip(map(_css, colors), names, strict=True))
  elif quantity:
    values = np.linspace(1, 2, 9, dtype=np.float32)[None, :, None]
    ramp = [_css(color) for color in task.render(values, values)[0]]
    near = quantity == 'depth'
    ends = ('near', 'far') if near else ('far', 'near')
  gray = (_css(UNLABELED), 'no label')
  if quantity == 'class':
    errors = [(_css(RIGHT), 'right'), (_css(WRONG), 'wrong')]
    return Legend(one_line(name), [*swatches, gray], [], ends, errors, [], ends)
  unit = '°' if quantity == 'normal' else unit
  return Legend(
    one_line(name),
    [*swatches, gray] if quantity else [],
    ramp,
    ends,
    [],
    [_css(color) for color in scale_colors()] if quantity else [],
    (f'0{unit}', f'{end:g}{unit} or more'),
  )


def _css(color) -> str:
  return '#{:02x}{:02x}{:02x}'.format(*(int(x) for x in color))
