"""How wrong every pixel of a prediction is, as a map with a scale."""

from collections.abc import Iterable
import math

import numpy as np

from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import UNLABELED

# From no error on: white to dark red, even in lightness.
_COLORS = np.array(
  [
    (252, 251, 248),
    (253, 219, 178),
    (252, 160, 104),
    (232, 84, 62),
    (168, 16, 32),
    (84, 0, 22),
  ],
  np.float64,
)
RIGHT, WRONG = tuple(_COLORS[0]), tuple(_COLORS[4])
_STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)  # round numbers


def measure_errors(
  prediction: np.ndarray, label: np.ndarray, task: Task
) -> np.ndarray:
  """The error of every pixel.

  Args:
    prediction: what is kept of one image's.
    label: of that image.
    task: the task, which says how wrong a pixel is.

  Returns:
    float [h w]: 1 where a class is wrong and else 0; or the error in the unit
    of the task. NaN where there is no label.
  """
  errors = task.colors.errors(prediction, label)
  return np.where(task.label.known(label), errors, np.nan)


def end_of_scale(maps: Iterable[np.ndarray]) -> float:
  """A round number that few errors exceed, to which all maps are colored."""
  known = [x[np.isfinite(x)] for x in maps]
  errors = np.concatenate(known) if known else np.zeros(0)
  most = float(np.quantile(errors, 0.98)) if errors.size else 0.0
  if most <= 0:
    return 1.0
  power = 10.0 ** math.floor(math.log10(most))
  return next(s for s in _STEPS if s * power >= most * (1 - 1e-9)) * power


def color_errors(errors: np.ndarray, task: Task, *, end: float) -> np.ndarray:
  """Colors a map of `measure_errors`.

  Args:
    errors: float [h w].
    task: the task.
    end: the error that has the last color, and so have larger ones.

  Returns:
    uint8 [h w 3]; gray where there is no label.
  """
  if task.colors.is_right_or_wrong:
    rgb = np.where(errors[..., None] > 0, WRONG, RIGHT)
  else:
    shade = np.clip(np.nan_to_num(errors / end), 0, 1)
    knots = np.linspace(0, 1, len(_COLORS))
    rgb = np.stack([np.interp(shade, knots, c) for c in _COLORS.T], axis=-1)
  return np.where(np.isnan(errors)[..., None], UNLABELED, rgb).astype(np.uint8)


def scale_colors() -> list[tuple[int, int, int]]:
  """The colors of the scale, evenly from 0 to its end."""
  return [tuple(int(x) for x in color) for color in _COLORS]
