"""The rows of the result, and what is made of them at the end of a job."""

from collections.abc import Mapping, Sequence
import itertools
import math
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.config.build import Experiment, select_split
from mtl_kd_jax.reports.conflicts import summarize_balance
from mtl_kd_jax.reports.plots import draw_balance, draw_curves, draw_predictions
from mtl_kd_jax.reports.tables import SINGLE_TASK, Results
from mtl_kd_jax.runtime.metric_writer import REPORTED, Reporter, read_log
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Evaluation, Metrics
from mtl_kd_jax.training.stage import Stage


class Rows:
  """Collects the evaluation of every network.

  Attributes:
    keep: how many predictions an evaluation should keep, for the pictures.
    metrics: row -> task -> metric -> value.
    predictions: row -> task -> [n h w c].
  """

  def __init__(self, experiment: Experiment):
    self.experiment = experiment
    self.keep = experiment.config.report.images
    self.metrics = {SINGLE_TASK: {}}
    self.predictions = {SINGLE_TASK: {}}

  def add_teacher(self, task: str, evaluation: Evaluation) -> None:
    """Adds one single-task network; they share a row."""
    self.metrics[SINGLE_TASK][task] = evaluation.metrics[task]
    self.predictions[SINGLE_TASK] |= evaluation.predictions

  def add_missing_teacher(self, task: str) -> None:
    """Leaves the place of a single-task network empty: dashes and gray."""
    part = self.experiment.tasks[task]
    dataset = self.experiment.dataset
    blank = dataset.labels[task].missing(dataset.image_size)
    self.add_teacher(
      task,
      Evaluation(
        metrics={task: dict.fromkeys(part.columns, math.nan)},
        predictions={task: np.repeat(blank[None], self.keep, axis=0)},
      ),
    )

  def add(self, name: str, evaluation: Evaluation) -> None:
    """Adds a multi-task network as a row."""
    self.metrics[name] = evaluation.metrics
    self.predictions[name] = evaluation.predictions


def checkpoint_dir(workdir: pathlib.Path, stage: Stage) -> pathlib.Path:
  """Where a stage keeps its checkpoints."""
  return workdir / 'checkpoints' / stage.name


def report_results(
  rows: Rows,
  workdir: pathlib.Path,
  reporter: Reporter,
  *,
  chosen_on: str,
  average: bool = False,
  suffix: str = '',
) -> None:
  """Writes table and pictures, and prints the table.

  Args:
    rows: all networks.
    workdir: the folder to write to.
    reporter: prints; nothing at all is written when it is not enabled.
    chosen_on: the split that the best checkpoints were chosen on.
    average: whether to add the mean over the last epochs, from the log.
    suffix: of the file names. Curves are drawn only without one.
  """
  if not reporter.enabled:
    return
  experiment = rows.experiment
  config, tasks = experiment.config, experiment.tasks
  log = read_log(workdir)
  results = Results(
    name=config.name,
    split=config.data.eval_split,
    checkpoint=config.select,
    chosen_on=chosen_on if config.select == 'best' else '',
    tasks=tasks,
    rows=rows.metrics,
    average_epochs=experiment.average_epochs if average else 0,
    averages=_averages(rows, workdir) if average else {},
    balance='' if suffix else summarize_balance(log, tuple(tasks)),
  )
  results.write(workdir, f'results{suffix}')
  written = [f'results{suffix}.json', f'results{suffix}.md']
  if not suffix:
    draw_curves(
      log,
      tasks,
      workdir / 'curves.png',
      split=select_split(config),
    )
    written += ['curves.png']
    if draw_balance(log, tasks, workdir / 'balancing.png'):
      written += ['balancing.png']
  if rows.keep:
    source = experiment.dataset.source(config.data.eval_split)
    samples = [
      source[i] for i in itertools.islice(range(len(source)), rows.keep)
    ]
    draw_predictions(
      np.stack([s['image'] for s in samples]),
      {t: np.stack([s[t] for s in samples]) for t in tasks},
      rows.predictions,
      tasks,
      workdir / f'predictions{suffix}.png',
    )
    written += [f'predictions{suffix}.png']
  for title, tables in results.tables(reporter.console.width).items():
    reporter.print(f'\n{title}')
    for table in tables:
      reporter.print(table)
  if results.balance:
    reporter.print(f'\n{results.balance}')
  reporter.print(f'written to {workdir}: {", ".join(written)}')


def _averages(rows: Rows, workdir: pathlib.Path) -> dict[str, Metrics]:
  """Row -> the mean of its metrics over the last epochs, from the log."""
  experiment = rows.experiment
  count = experiment.average_epochs
  if not count:
    return {}
  log = read_log(workdir)
  elsewhere = experiment.config.teacher.workdir
  teachers = read_log(pathlib.Path(elsewhere)) if elsewhere else log
  averages = {SINGLE_TASK: {}}
  for name, task in experiment.tasks.items():
    averages[SINGLE_TASK] |= average_metrics(
      teachers, f'teacher_{name}', {name: task}, count
    )
  for row in rows.metrics:
    if row != SINGLE_TASK:
      averages[row] = average_metrics(log, row, experiment.tasks, count)
  return averages


def average_metrics(
  log: Sequence[Mapping[str, Any]],
  stage: str,
  tasks: Mapping[str, Task],
  count: int,
) -> Metrics:
  """The mean of the last evaluations of a stage on the reported split.

  Args:
    log: the lines of metrics.jsonl.
    stage: name of the stage.
    tasks: its tasks.
    count: how many evaluations there have to be.

  Returns:
    task -> metric -> mean; NaN where one of the evaluations is missing, or had
    no label.
  """
  lines = [e for e in log if (e['stage'], e['kind']) == (stage, REPORTED)]

  def mean(key):
    values = [line.get(key) for line in lines[-count:]]
    whole = len(values) == count and None not in values
    return sum(values) / count if whole else math.nan

  return {
    name: {metric: mean(f'{name}/{metric}') for metric in task.columns}
    for name, task in tasks.items()
  }
