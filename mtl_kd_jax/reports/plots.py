"""The pictures of a run; the only file that imports matplotlib."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from mtl_kd_jax.runtime.metric_keys import lines_of, objectives_of
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric

# Figures are made without pyplot, whose global state belongs to the user: in a
# notebook these functions must not switch the backend.
_STYLE = {
  'font.size': 8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.25,
  'axes.titlesize': 9,
}
_SINGLE = 'single-task'


def draw_curves(
  log: Sequence[Mapping[str, Any]],
  tasks: Mapping[str, Task],
  path: pathlib.Path,
  *,
  split: str,
) -> None:
  """Draws curves.png: per task the training loss, alignment and headline.

  Args:
    log: the lines of metrics.jsonl.
    tasks: the tasks, one row of plots each.
    path: the file to write.
    split: the split that was scored during training.
  """
  with matplotlib.rc_context(_STYLE):
    columns = 3
    figure = Figure(
      figsize=(3.4 * columns, 2.3 * len(tasks)), layout='constrained'
    )
    axes = figure.subplots(len(tasks), columns, squeeze=False)
    for row, (name, task) in zip(axes, tasks.items(), strict=True):
      metric = task.columns[task.headline]
      _curve(row[0], log, 'train', f'loss/{name}', name)
      _curve(row[1], log, 'train', f'alignment/{name}', name)
      _curve(row[2], log, 'eval', f'{name}/{task.headline}', name)
      row[0].set_title(f'{name}: training loss')
      row[1].set_title(f'{name}: alignment with its teacher')
      row[2].set_title(f'{name}: {_label(metric)}, split {split!r}')
    for axis in axes[-1]:
      axis.set_xlabel('epoch')
    handles = {}
    for axis in axes.flat:
      for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    if handles:
      figure.legend(
        handles.values(),
        handles.keys(),
        loc='outside upper center',
        ncols=len(handles),
        frameon=False,
      )
    figure.savefig(path, dpi=150)


def draw_balance(
  log: Sequence[Mapping[str, Any]],
  tasks: Mapping[str, Task],
  path: pathlib.Path,
) -> bool:
  """Draws balancing.png: weights, norms and cosines over the steps.

  Args:
    log: the lines of metrics.jsonl.
    tasks: the tasks, for their order.
    path: the file to write.

  Returns:
    Whether there was anything to draw; no file is written otherwise. A stage
    is drawn, in a column, when the log has lengths of its gradients.
  """
  columns = {}
  for stage in dict.fromkeys(e['stage'] for e in log):
    gradients, weights = lines_of(log, stage)
    if len(_keys(gradients, 'norm/')) > 1:
      columns[stage] = (weights, gradients, gradients)
  if not columns:
    return False
  rows = {'weight': 'weight', 'norm': 'gradient norm', 'cosine': 'cosine'}
  heights = (1.0, 1.2, 1.5)
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(2.4 + 3.9 * len(columns), 7), layout='constrained')
    grid = figure.subplots(
      len(rows),
      len(columns),
      squeeze=False,
      sharex='col',
      sharey='row',
      height_ratios=heights,
    )
    for axes, (stage, parts) in zip(grid.T, columns.items(), strict=True):
      axes[0].set_title(stage, weight='bold')
      for axis, kind, lines in zip(axes, rows, parts, strict=True):
        _balance_lines(axis, lines, kind, list(tasks))
      axes[-1].set_xlabel('step')
      axes[-1].axhline(0, color='k', lw=0.8, zorder=1)
    for axes, title in zip(grid, rows.values(), strict=True):
      axes[0].set_ylabel(title)
      handles = {}
      for axis in axes:
        for h, label in zip(*axis.get_legend_handles_labels(), strict=True):
          handles.setdefault(label, h)
      axes[-1].legend(
        handles.values(),
        handles.keys(),
        loc='center left',
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
      )
    figure.savefig(path, dpi=150)
  return True


def _balance_lines(axis, lines, kind, tasks):
  """The curves of one kind; an alignment is dashed, in its task's color."""
  keys = _keys(lines, f'{kind}/')
  pairs = [k for k in keys if 'alignment/' not in k]
  values = []
  for key in keys:
    points = [(e['step'], e[key]) for e in lines if e.get(key) is not None]
    if not points:
      continue
    x, y = np.array(points, float).T
    values.append(y)
    objectives = objectives_of(key)
    aligned = 'alignment/' in key
    label = ' · '.join(objectives).replace('alignment/', 'align. ')
    if kind == 'cosine' and objectives[-1] == f'alignment/{objectives[0]}':
      label = f'{objectives[0]} · its alignment'
    task = objectives[-1].removeprefix('alignment/')
    color = f'C{tasks.index(task) if task in tasks else 7}'
    if kind == 'cosine' and not aligned:
      color = f'C{len(tasks) + pairs.index(key)}'
    style = {'color': color, 'ls': '--' if aligned else '-'}
    if len(y) > 20:
      axis.plot(x, y, alpha=0.2, lw=0.7, **style)
      y = _smooth(y)
    marker = 'o' if len(y) <= 20 else None
    axis.plot(x, y, label=label, lw=1.4, marker=marker, ms=2.5, **style)
  if not values:
    return
  lowest = min(y.min() for y in values)
  if kind == 'norm' and lowest > 0:
    axis.set_yscale('log')
  if kind == 'weight' and lowest >= 0:
    axis.update_datalim([(axis.dataLim.x0, 0)])  # columns share the axis
    axis.autoscale_view(scalex=False)


def _keys(lines, start):
  """All keys of the lines that start so, in order."""
  return sorted({k for e in lines for k in e if k.startswith(start)})


def draw_predictions(
  images: np.ndarray,
  labels: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
  path: pathlib.Path,
) -> None:
  """Draws predictions.png: one row per image; per task, label and networks.

  Args:
    images: float32 [n h w 3] in [0, 1].
    labels: task -> [n h w (c)].
    predictions: network -> task -> float [n h w c].
    tasks: the tasks.
    path: the file to write.
  """
  n, h, w = images.shape[:3]
  headings = ['label', *predictions]
  columns = 1 + len(tasks) * len(headings)
  width, title = 1.5, 0.5  # inches: of one picture, of the headings
  height = width * h / w * n
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(width * columns, height + title))
    # A wider gap in front of every task.
    outer = figure.add_gridspec(
      1,
      1 + len(tasks),
      width_ratios=[1] + [len(headings)] * len(tasks),
      left=0.002,
      right=0.998,
      bottom=0.01,
      top=height / (height + title),
      wspace=0.12 / len(headings),
    )
    _pictures(
      outer[0],
      ['image'],
      [[np.clip(255 * image, 0, 255).astype(np.uint8)] for image in images],
    )
    for k, (name, task) in enumerate(tasks.items(), start=1):
      label = labels[name]
      shown = [label, *(p[name] for p in predictions.values())]
      axes = _pictures(
        outer[k],
        headings,
        [[task.render(x[i], label[i]) for x in shown] for i in range(n)],
      )
      axes[0, 0].annotate(
        name,
        (0, 1),
        (0, 18),
        xycoords='axes fraction',
        textcoords='offset points',
        weight='bold',
      )
    figure.savefig(path, dpi=150)


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
      'outlines' bool [h w], drawn over the image in a column of its own.
    tasks: the tasks, for their colors.
    path: the file to write.
    notes: name -> task -> what is written under its label.
    legend: name of a class -> its color, uint8 RGB.
  """
  columns = ['image', *tasks, 'outlines']
  h, w = max(s['image'].shape[:2] for s in samples.values())
  width, note = 2.2, 0.22  # inches: of one picture, of the line under it
  row = width * h / w + note
  # About six names of classes stand in a line.
  foot = 0.2 * -(-len(legend) // 6) + 0.1
  height = row * len(samples) + 0.3 + foot
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(width * len(columns), height))
    grid = figure.add_gridspec(
      len(samples),
      len(columns),
      left=0.02,
      right=0.995,
      bottom=(foot + note) / height,
      top=1 - 0.3 / height,
      wspace=0.03,
      hspace=note / (row - note),
    )
    axes = grid.subplots(squeeze=False)
    for line, (name, sample) in zip(axes, samples.items(), strict=True):
      image = np.clip(255 * sample['image'], 0, 255).astype(np.uint8)
      pictures = [image]
      pictures += [t.render(sample[k], sample[k]) for k, t in tasks.items()]
      pictures += [np.where(sample['outlines'][..., None], 255, image // 2)]
      for axis, picture, column in zip(line, pictures, columns, strict=True):
        axis.imshow(picture, interpolation='nearest', aspect='auto')
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(notes[name].get(column, ''), labelpad=2, fontsize=7)
      line[0].set_ylabel(name)
    titles = [*columns[:-1], 'classes over image']
    for axis, title in zip(axes[0], titles, strict=True):
      axis.set_title(title, weight='bold')
    if legend:
      figure.legend(
        [Patch(color=np.divide(c, 255)) for c in legend.values()],
        list(legend),
        loc='lower center',
        ncols=min(6, len(legend)),
        frameon=False,
        handlelength=1,
      )
    figure.savefig(path, dpi=150)


def _pictures(cell, headings, rows):
  """Fills a grid cell with rows of pictures under headings."""
  grid = cell.subgridspec(len(rows), len(headings), wspace=0.02, hspace=0.03)
  axes = grid.subplots(squeeze=False)
  for row, pictures in zip(axes, rows, strict=True):
    for axis, picture in zip(row, pictures, strict=True):
      axis.imshow(picture, interpolation='nearest', aspect='auto')
      axis.set(xticks=[], yticks=[])
      axis.spines[:].set_visible(False)
  for axis, heading in zip(axes[0], headings, strict=True):
    axis.set_title(heading, pad=3)
  return axes


def _curve(axis, log, kind, key, task):
  """One line for each stage that logged the key."""
  stages = dict.fromkeys(e['stage'] for e in log if key in e)
  for stage in stages:
    points = [
      (e['epoch'], e[key])
      for e in log
      if e['stage'] == stage and e['kind'] == kind and e.get(key) is not None
    ]
    if not points:
      continue
    x, y = np.array(points, float).T
    label = _SINGLE if stage == f'teacher_{task}' else stage
    color = {_SINGLE: 'C7', 'uniform': 'C0', 'distilled': 'C1'}.get(label)
    marker = 'o' if kind == 'eval' else None
    if kind == 'train' and len(y) > 20:
      axis.plot(x, y, color=color, alpha=0.25, lw=0.8)
      y = _smooth(y)
    axis.plot(x, y, color=color, label=label, lw=1.4, marker=marker, ms=2.5)
  if not stages:
    axis.set_visible(False)


def _smooth(y, window=9):
  """A centerd running mean whose window shrinks at both ends."""
  half = min(window, len(y)) // 2
  return np.array(
    [y[max(0, i - half) : i + half + 1].mean() for i in range(len(y))]
  )


def _label(metric: Metric) -> str:
  unit = f' [{metric.unit}]' if metric.unit else ''
  return f'{metric.title}{unit} {"↑" if metric.higher_is_better else "↓"}'
