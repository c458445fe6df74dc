"""results.html: what a run has learned, as a page."""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.methods.multi_task import BALANCED, UNIFORM
from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.html.choice import Choice, choose
from mtl_kd_jax.reports.html.facts import (
  describe_process,
  measure_times,
  read_config,
  show_config,
)
from mtl_kd_jax.reports.html.figures import Drawing, draw
from mtl_kd_jax.reports.html.pictures import view_samples
from mtl_kd_jax.reports.html.render import render
from mtl_kd_jax.reports.html.tables import tabulate_results
from mtl_kd_jax.reports.plots import plot_balance, plot_curves
from mtl_kd_jax.reports.tables import Results
from mtl_kd_jax.reports.verdict import verdict
from mtl_kd_jax.runtime.metric_keys import Log
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.stage import SINGLE_TASK

# What the networks of the methods are, for readers who see them for the first
# time.
_NETWORKS = {
  SINGLE_TASK: 'one network for each task, trained by itself: what the others '
  'are measured against.',
  UNIFORM: 'one network for all tasks, trained on the plain sum of their '
  'losses.',
  BALANCED: 'one network for all tasks, whose losses or gradients are '
  'balanced while it is trained.',
  DISTILLED: 'one network for all tasks, which also learns to have the '
  'features of the single-task networks, its teachers.',
}


def make_results_page(
  results: Results,
  samples: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  *,
  workdir: pathlib.Path,
  log: Log,
  stages: Mapping[str, str],
  chosen_on: str,
  config: Mapping[str, Any] | None = None,
) -> str:
  """The content of results.html.

  Args:
    results: the numbers.
    samples: of `Rows`; {} for none.
    predictions: of `Rows`.
    workdir: of the run, for its config.
    log: the lines of metrics.jsonl; empty for none.
    stages: stage -> its row, of the stages in the log.
    chosen_on: the split that was scored during training.
    config: what the networks were scored with; None for that of the workdir.
  """
  tasks = results.tasks
  lead = verdict(results.rows, tasks)
  name = one_line(results.name)
  protocols = {results.title: results.rows}
  if results.averages:
    protocols[results.average_title] = results.averages
  tables = [
    tabulate_results(title, rows, tasks, all_metrics=results.all_metrics)
    for title, rows in protocols.items()
  ]
  choice, views, legends = None, [], []
  predictions = {row: x for row, x in predictions.items() if x}
  if samples and predictions:
    choice = choose(samples, predictions, tasks)
    views, legends = view_samples(samples, predictions, tasks, choice)
  return render(
    'results.html.jinja',
    name=name,
    title=results.title.removeprefix(name).removeprefix(':').strip(),
    lead=lead,
    tables=tables,
    networks=[
      (row, _NETWORKS[row]) for row in results.rows if row in _NETWORKS
    ],
    has_reference=SINGLE_TASK in results.rows,
    samples=views,
    legends=legends,
    num_networks=len(predictions),
    ranking=_describe_ranking(choice, predictions, tasks, results.split),
    curves=_curves(log, tasks, stages, chosen_on),
    balance=results.balance.split('\n\n') if results.balance else [],
    balance_figure=_balance(log, tasks),
    notes=[note for note in results.notes if note != lead],
    facts=describe_process(),
    times=measure_times([e for e in log if e['stage'] in stages]),
    config=read_config(workdir) if config is None else show_config(config),
  )


def _describe_ranking(
  choice: Choice | None, predictions, tasks: Mapping[str, Task], split: str
) -> str:
  """How the worst and the best sample were found."""
  if choice is None or choice.worst is None:
    return ''
  metrics = [
    f'{one_line(t)} ({task.columns[task.headline].title})'
    for t, task in tasks.items()
    if t in predictions[choice.network]
  ]
  where = f' of split {split!r}' if split else ''
  return (
    f'Worst and best, for {one_line(choice.network)}, are found among the '
    f'first {choice.ranked} samples{where} that were scored: samples are '
    'ranked by the headline metric of every task on the one picture, '
    f'{", ".join(metrics)}, and the ranks are '
    'averaged over the tasks. The others are the first samples, not chosen.'
  )


def _curves(log, tasks, stages, split) -> Drawing | None:
  if not log:
    return None
  figure = plot_curves(log, tasks, split=split, rows=stages)
  alt = (
    'Curves over the epochs for each task: training loss, alignment with the '
    'teacher where the network is distilled, and the headline metric.'
  )
  return draw(figure, 'curves', alt=alt)


def _balance(log, tasks) -> Drawing | None:
  figure = plot_balance(log, tasks) if log else None
  if figure is None:
    return None
  alt = (
    'Curves over the steps for each network: weights of the objectives, norms '
    'of their gradients, and cosines between them.'
  )
  return draw(figure, 'balance', alt=alt)
