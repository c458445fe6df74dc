"""What a job writes and prints once its networks are evaluated."""

from collections.abc import Callable, Mapping, Sequence
import math
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.conflicts import summarize_balance
from mtl_kd_jax.reports.html import write_page
from mtl_kd_jax.reports.html.results import make_results_page
from mtl_kd_jax.reports.lambdas import describe_lambdas
from mtl_kd_jax.reports.plots import draw_balance, draw_curves, draw_predictions
from mtl_kd_jax.reports.statistics import describe_statistics
from mtl_kd_jax.reports.tables import Results
from mtl_kd_jax.reports.verdict import verdict
from mtl_kd_jax.runtime.metric_keys import Log, key
from mtl_kd_jax.runtime.metric_log import REPORTED
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Evaluation, Metrics


class Rows:
  """Collects the evaluations of a run, as the rows of its table.

  Attributes:
    tasks: the tasks.
    metrics: row -> task -> metric -> value. Tasks that no network of a row has
      are dashes in the table, and empty in the pictures.
    predictions: row -> task -> of `Evaluation`, for the `samples`.
    samples: 'image' float [n h w 3] and task -> label [n h w (c)]; {} where no
      evaluation kept any.
    pictures: how many of the samples predictions.png shows.
    batches: network -> number of batches that its statistics were computed
      over; see `describe_statistics`.
    running: row -> task -> metric -> value, with running means.
  """

  def __init__(self, tasks: Mapping[str, Task]):
    self.tasks = tasks
    self.metrics: dict[str, Metrics] = {}
    self.predictions: dict[str, dict[str, np.ndarray]] = {}
    self.samples: dict[str, np.ndarray] = {}
    self.pictures = 0
    self.batches: dict[str, int | None] = {}
    self.running: dict[str, Metrics] = {}

  def add(
    self,
    row: str,
    evaluation: Evaluation,
    *,
    network: str = '',
    recalibrated_over: int | None = None,
    running: Metrics | None = None,
  ) -> None:
    """Adds a network, or one of the networks that share a row.

    Args:
      row: title of the row; the single-task networks share `SINGLE_TASK`.
      evaluation: of the same split as the others. The first one decides which
        samples are drawn; later ones add labels that it has not.
      network: its name; that of the row for ''.
      recalibrated_over: see `TrainedNetwork`.
      running: its metrics with the running means, where those were not what it
        was evaluated with.
    """
    self.metrics.setdefault(row, {}).update(evaluation.metrics)
    self.predictions.setdefault(row, {}).update(evaluation.predictions)
    # Samples as this process saw them: on several hosts, they are not the first
    # ones of the dataset.
    self.samples = {**evaluation.samples, **self.samples}
    self.pictures = max(self.pictures, evaluation.pictures)
    self.batches[network or row] = recalibrated_over
    if running:
      self.running.setdefault(row, {}).update(running)


def report_results(
  rows: Rows,
  workdir: pathlib.Path,
  print: Callable[[Any], None] = print,
  *,
  name: str,
  split: str,
  checkpoint: str,
  chosen_on: str,
  chosen: Mapping[str, bool] | None = None,
  log: Log = (),
  stages: Mapping[str, str] | None = None,
  average_epochs: int = 0,
  notes: Sequence[str] = (),
  suffix: str = '',
  all_metrics: bool = False,
  config: Mapping[str, Any] | None = None,
) -> Results:
  """Writes tables and figures, and prints the tables.

  Writes results.json, results.md and results.html; predictions.png where
  samples were kept; and from the log curves.png and, where gradients were
  measured, balancing.png.

  Args:
    rows: all networks.
    workdir: the folder to write to.
    print: prints a string or an object that rich can render.
    name: of the experiment.
    split: the split that was scored.
    checkpoint: 'last' or 'best', the checkpoints that were scored.
    chosen_on: the split that was scored during training, and that the best
      checkpoints were chosen on.
    chosen: stage -> whether it has a best checkpoint, of all that were scored.
      Where the split has no score of a network, the last one takes its place.
      None where all have one.
    log: the lines of metrics.jsonl, of all stages. Without them there are no
      curves, no means over epochs, and no summary of gradients.
    stages: stage -> its row, of the stages in the log, in the order of the
      curves' legend. Required with a log.
    average_epochs: how many last epochs to report the mean of; 0 for none.
    notes: what else has to be known, in paragraphs.
    suffix: of the names of all files.
    all_metrics: whether tables have the columns of all metrics.
    config: what the networks were scored with, a nested dictionary; None for
      the config of the run.

  Returns:
    The results, as written.

  Raises:
    InputError: the folder cannot be written to; the tables are printed.
  """
  tasks, stages = rows.tasks, stages or {}
  averages = {}
  if log and average_epochs:
    averages = average_rows(log, stages, tasks, average_epochs)
  is_chosen = not chosen or any(chosen.values())
  checkpoint_scored = checkpoint if is_chosen else 'last'
  statistics = describe_statistics(
    rows.batches,
    rows.metrics,
    rows.running,
    tasks,
    while_training=['the means over the last epochs'] * bool(averages)
    + ['the choice of the best checkpoints'] * (checkpoint_scored == 'best'),
  )
  results = Results(
    name=name,
    split=split,
    checkpoint=checkpoint_scored,
    chosen_on=chosen_on if checkpoint == 'best' else '',
    not_chosen=[
      stage
      for stage, is_best in (chosen or {}).items()
      if checkpoint == 'best' and not is_best
    ],
    tasks=tasks,
    rows=rows.metrics,
    all_metrics=all_metrics,
    average_epochs=average_epochs if averages else 0,
    averages=averages,
    balance='\n\n'.join(
      filter(None, [summarize_balance(log, tasks), *describe_lambdas(log)])
    ),
    notes=[*filter(None, [verdict(rows.metrics, tasks), statistics]), *notes],
  )
  try:
    written = _write(
      rows,
      results,
      workdir,
      chosen_on=chosen_on,
      log=log,
      stages=stages,
      suffix=suffix,
      config=config,
      print=print,
    )
  except OSError as error:
    print(results)  # scoring took time
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{workdir}',
      do='see the tables above, which are not written; or make room or the '
      'folder writable, and start again',
    ) from error
  print(results)
  print(f'written to {workdir}: {", ".join(written)}')
  return results


def _write(
  rows, results, workdir, *, chosen_on, log, stages, suffix, config, print
) -> list[str]:
  """Writes all files; returns their names."""
  tasks = rows.tasks
  results.write(workdir, f'results{suffix}')
  written = [f'results{suffix}.json', f'results{suffix}.md']
  if log:
    path = workdir / f'curves{suffix}.png'
    draw_curves(log, tasks, path, split=chosen_on, rows=stages)
    written.append(path.name)
    path = workdir / f'balancing{suffix}.png'
    if draw_balance(log, tasks, path):
      written.append(path.name)
  if rows.samples:
    path = workdir / f'predictions{suffix}.png'
    count = rows.pictures
    draw_predictions(
      _first(rows.samples, count),
      {row: _first(x, count) for row, x in rows.predictions.items()},
      tasks,
      path,
    )
    written.append(path.name)
  return written + write_page(
    workdir / f'results{suffix}.html',
    lambda: make_results_page(
      results,
      rows.samples,
      rows.predictions,
      workdir=workdir,
      log=log,
      stages=stages,
      chosen_on=chosen_on,
      config=config,
    ),
    print,
  )


def _first(
  arrays: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
  return {name: x[:count] for name, x in arrays.items()}


def average_rows(
  log: Log,
  stages: Mapping[str, str],
  tasks: Mapping[str, Task],
  count: int,
) -> dict[str, Metrics]:
  """Averages the last evaluations of all stages.

  Args:
    log: the lines of metrics.jsonl.
    stages: stage -> its row.
    tasks: the tasks.
    count: see `average_metrics`.

  Returns:
    Row -> task -> metric -> mean, of the tasks that its stages were scored on.
  """
  rows = {row: {} for row in stages.values()}
  for stage, row in stages.items():
    scored = {
      name: task
      for name, task in tasks.items()
      if any(key(name, task.headline) in e for e in _reported(log, stage))
    }
    rows[row] |= average_metrics(log, stage, scored, count)
  return rows


def average_metrics(
  log: Log, stage: str, tasks: Mapping[str, Task], count: int
) -> Metrics:
  """Averages the last evaluations of a stage on the reported split.

  Args:
    log: the lines of metrics.jsonl.
    stage: name of the stage.
    tasks: the tasks to average metrics of.
    count: how many epochs, up to that of the last evaluation, to average.

  Returns:
    Task -> metric -> mean; NaN where one of these epochs was not evaluated, or
    had no label.
  """
  lines = _reported(log, stage)
  if lines:  # of the last epochs: a run that went on may lack some before
    last = lines[-1]['epoch']
    lines = [line for line in lines if line['epoch'] > last - count + 0.5]

  def mean(name):
    values = [line.get(name) for line in lines]
    complete = len(values) == count and None not in values
    return sum(values) / count if complete else math.nan

  return {
    name: {metric: mean(key(name, metric)) for metric in task.columns}
    for name, task in tasks.items()
  }


def _reported(log: Log, stage: str) -> list[Mapping[str, Any]]:
  return [e for e in log if (e['stage'], e['kind']) == (stage, REPORTED)]
