"""Samples as a page shows them: pictures, captions and color scales."""

import base64
from collections.abc import Mapping, Sequence
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from mtl_kd_jax.reports.cells import number, one_line
from mtl_kd_jax.reports.html.choice import Choice, headline
from mtl_kd_jax.reports.html.errors import (
  color_errors,
  end_of_scale,
  measure_errors,
)
from mtl_kd_jax.reports.html.legends import Legend, make_legend
from mtl_kd_jax.reports.plots.style import image_bytes
from mtl_kd_jax.tasks import Task

# Pictures with more pixels are stored with a little loss, and larger ones are
# drawn smaller: a page has hundreds.
_LOSSLESS, _LONGEST_SIDE = 2**14, 384
_QUALITY = 85


class Picture(NamedTuple):
  """One picture.

  Attributes:
    uri: the picture itself.
    title: what it is: 'label' or the name of a network.
    note: its headline metric; '' for none.
    alt: what it shows, for those who do not see it.
  """

  uri: str
  title: str
  note: str
  alt: str


class Strip(NamedTuple):
  """One task of one sample.

  Attributes:
    task: its name.
    pictures: the label, and the predictions of all networks; None for a network
      that does not have the task.
    errors: the error maps below or beside those predictions; empty where a task
      has none.
  """

  task: str
  pictures: Sequence[Picture | None]
  errors: Sequence[Picture | None]


class SampleView(NamedTuple):
  """One sample.

  Attributes:
    title: e.g. 'Sample 3'.
    mark: 'worst', 'best' or ''.
    image: the picture that was predicted from.
    strips: its tasks.
  """

  title: str
  mark: str
  image: Picture
  strips: Sequence[Strip]


def view_samples(
  samples: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
  choice: Choice,
) -> tuple[list[SampleView], list[Legend]]:
  """Draws the chosen samples, with one scale of errors for each task.

  Args:
    samples: 'image' float [n h w 3] in [0, 1], and task -> label [n h w (c)].
    predictions: row -> task -> of `Evaluation`.
    tasks: the tasks; those without labels among the samples are left out.
    choice: the samples to show.
  """
  tasks = {name: task for name, task in tasks.items() if name in samples}
  errors = {
    name: _errors_of(name, task, samples[name], predictions, choice.shown)
    for name, task in tasks.items()
  }
  ends = {
    name: end_of_scale(m for maps in own.values() for m in maps.values())
    for name, own in errors.items()
  }
  views = []
  for i in choice.shown:
    title, marks = f'Sample {i}', {choice.worst: 'worst', choice.best: 'best'}
    strips = [
      Strip(
        one_line(name),
        _draw(name, task, samples, predictions, i),
        _draw_errors(task, errors[name], i, predictions, end=ends[name]),
      )
      for name, task in tasks.items()
    ]
    image = _picture(image_bytes(samples['image'][i]), 'image', title)
    views.append(SampleView(title, marks.get(i, ''), image, strips))
  return views, [make_legend(n, t, end=ends[n]) for n, t in tasks.items()]


def _errors_of(name, task, labels, predictions, shown):
  """Row -> sample -> error map, of the rows that have the task."""
  if task.label is None or task.colors.errors is None:
    return {}
  return {
    row: {i: measure_errors(own[name][i], labels[i], task) for i in shown}
    for row, own in predictions.items()
    if name in own
  }


def _draw(name, task, samples, predictions, i) -> list[Picture | None]:
  """The label of a sample, and what every network predicts of it."""
  where, column = f'Sample {i}, {name}', task.columns[task.headline]
  label, image = samples[name][i], samples['image'][i]
  pictures = [_picture(task.picture(label, label, image), 'label', where)]
  for row, own in predictions.items():
    if name not in own:
      pictures.append(None)
      continue
    rgb = task.picture(own[name][i], label, image)
    score = with_unit(
      number(headline(task, own[name][i], label), column), column.unit
    )
    pictures.append(_picture(rgb, row, where, note=score, metric=column.title))
  return pictures


def _draw_errors(task, errors, i, rows, *, end) -> list[Picture | None]:
  """The error maps of all networks; [] where the task has none."""
  where = f'Sample {i}, errors of {task.name}'
  return [
    _picture(color_errors(errors[row][i], task, end=end), row, where)
    if row in errors
    else None
    for row in (rows if errors else ())
  ]


def with_unit(text: str, unit: str) -> str:
  """E.g. '0.31 m' or '12.5°'; a dash has no unit."""
  if not unit or not any(map(str.isdigit, text)):
    return text
  return f'{text}{unit}' if unit == '°' else f'{text} {one_line(unit)}'


def _picture(rgb, title, where, *, note='', metric='') -> Picture:
  score = f'{metric} {note}' if note else ''
  alt = ', '.join(map(one_line, filter(None, (where, title, score))))
  return Picture(encode(rgb), one_line(title), note, alt)


def encode(rgb: np.ndarray, *, longest_side: int = _LONGEST_SIDE) -> str:
  """A picture, uint8 [h w 3], as a data URI; larger ones are drawn smaller."""
  stride = -(-max(rgb.shape[:2]) // longest_side)
  picture = Image.fromarray(np.ascontiguousarray(rgb[::stride, ::stride]))
  file = io.BytesIO()
  if picture.width * picture.height <= _LOSSLESS:
    kind = 'png'
    picture.save(file, 'PNG', optimize=True)
  else:
    kind = 'webp'
    picture.save(file, 'WEBP', quality=_QUALITY)
  content = base64.b64encode(file.getvalue()).decode('ascii')
  return f'data:image/{kind};base64,{content}'
