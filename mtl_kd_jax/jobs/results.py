"""The rows of the result, and what is made of them at the end of a job."""

import itertools
import math
import pathlib

import numpy as np

from mtl_kd_jax.evaluation import Evaluation
from mtl_kd_jax.experiment import Experiment
from mtl_kd_jax.plotting import draw_curves, draw_predictions
from mtl_kd_jax.reporting import Reporter, read_log
from mtl_kd_jax.stage import Stage
from mtl_kd_jax.tables import SINGLE_TASK, Results


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
    """Leaves the place of a single-task network empty: dashes and grey."""
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
  rows: Rows, workdir: pathlib.Path, reporter: Reporter, *, suffix: str = ''
) -> None:
  """Writes table and pictures, and prints the table.

  Args:
    rows: all networks.
    workdir: the folder to write to.
    reporter: prints; nothing at all is written when it is not enabled.
    suffix: of the file names. Curves are drawn only without one.
  """
  if not reporter.enabled:
    return
  experiment = rows.experiment
  config, tasks = experiment.config, experiment.tasks
  results = Results(
    name=config.name,
    split=config.data.eval_split,
    checkpoint=config.select,
    tasks=tasks,
    rows=rows.metrics,
  )
  results.write(workdir, f'results{suffix}')
  written = [f'results{suffix}.json', f'results{suffix}.md']
  if not suffix:
    draw_curves(read_log(workdir), tasks, workdir / 'curves.png')
    written += ['curves.png']
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
  reporter.print(f'\n{results.title}')
  for table in results.tables(reporter.console.width):
    reporter.print(table)
  reporter.print(f'written to {workdir}: {", ".join(written)}')
