"""Predictions of several networks for one picture, as HTML."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.prediction import Prediction
from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.html.legends import make_legend
from mtl_kd_jax.reports.html.pictures import encode
from mtl_kd_jax.reports.html.render import render
from mtl_kd_jax.tasks import Task

_LONGEST_SIDE = 1024  # pixels, of the pictures of the page


class TaskView(NamedTuple):
  """One task.

  Attributes:
    name: of the task.
    unit: of its values, or ''.
    pictures: (network, its prediction in colors as a URI, what it shows).
    swatches: (color, meaning).
    ramp: colors from one end of a scale to the other, or ().
    ends: the values at its ends, with their unit.
  """

  name: str
  unit: str
  pictures: Sequence[tuple[str, str, str]]
  swatches: Sequence[tuple[str, str]]
  ramp: Sequence[str]
  ends: tuple[str, str]


def make_view(predictions: Mapping[str, Prediction]) -> str:
  """Shows predictions side by side, task by task, with legends.

  One color means the same in all pictures of a task: depth has one scale for
  all networks.

  Args:
    predictions: network -> what it predicts. All are of one picture.

  Returns:
    HTML with its own style, without scripts and without links.
  """
  tasks = {t: task for p in predictions.values() for t, task in p.tasks.items()}
  views = [
    _view(name, task, {n: p for n, p in predictions.items() if name in p})
    for name, task in tasks.items()
  ]
  folder = pathlib.Path(__file__).parent
  return render('view.html.jinja', folder=folder, tasks=views)


def _view(
  name: str, task: Task, predictions: Mapping[str, Prediction]
) -> TaskView:
  maps = {network: p[name] for network, p in predictions.items()}
  label = task.label
  legend = make_legend(name, task, end=1)
  swatches, ramp, ends = list(legend.swatches)[:-1], legend.ramp, ('', '')
  everything = np.concatenate([x.reshape(-1) for x in maps.values()])
  if task.form.is_class:
    counts = np.bincount(everything, minlength=len(label.classes))
    largest_first = np.argsort(-counts, kind='stable')
    swatches = [swatches[i] for i in largest_first if counts[i]]
  elif task.colors.bounds is not None:
    low, high = task.colors.bounds(everything)
    ends = (f'{low:.3g} {label.unit}'.strip(), f'{high:.3g} {label.unit}')
  pictures = []
  for network, prediction in predictions.items():
    scaled = task.colors.bounds is not None
    rgb = prediction.render(name, like=everything if scaled else None)
    what = f'{one_line(name)} that {one_line(network)} predicts'
    uri = encode(rgb, longest_side=_LONGEST_SIDE)
    pictures.append((one_line(network), uri, what))
  return TaskView(one_line(name), label.unit, pictures, swatches, ramp, ends)
