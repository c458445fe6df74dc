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
  about, colors = task.label, task.colors
  unit = f' {one_line(about.unit)}' if about and about.unit else ''
  if colors.error_unit is not None:
    unit = colors.error_unit
  swatches = [(_css(c), one_line(text)) for c, text in colors.swatches]
  ramp = [_css(c) for c in color_ramp(task)] if colors.bounds else []
  explained = bool(swatches or ramp)
  if explained:
    swatches.append((_css(UNLABELED), 'no label'))
  if colors.is_right_or_wrong:
    errors = [(_css(RIGHT), 'right'), (_css(WRONG), 'wrong')]
    return Legend(
      one_line(name), swatches, ramp, colors.ends, errors, [], ('', '')
    )
  return Legend(
    one_line(name),
    swatches,
    ramp,
    colors.ends,
    [],
    [_css(color) for color in scale_colors()] if colors.errors else [],
    (f'0{unit}', f'{end:g}{unit} or more'),
  )


def color_ramp(task: Task) -> np.ndarray:
  """Colors from one end of the scale of a task to the other, uint8 [n 3]."""
  low, high = task.colors.bounds(np.linspace(1, 2, 9, dtype=np.float32))
  values = np.linspace(low, high, 9, dtype=np.float32)[None, :, None]
  return task.render(values, values)[0]


def _css(color) -> str:
  return '#{:02x}{:02x}{:02x}'.format(*(int(x) for x in color))
