"""The main job: teachers, the baseline, the distilled network, the report."""

from collections.abc import Callable, Mapping
import functools
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax.config.build import Experiment, build, select_split
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.jobs.teachers import read_teacher
from mtl_kd_jax.reports.results import Rows, checkpoint_dir, report_results
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_writer import Reporter, parameter_table
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.training.evaluation import Metrics, relative_gains
from mtl_kd_jax.training.stage import Stage, run_stage


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Runs every stage that is not finished yet, then reports.

  Args:
    config: see configs/common.py.
    workdir: where checkpoints, logs and results go. A second run with the same
      one goes on where the first ended.

  Raises:
    InputError: config, data or workdir cannot be used; before any training.
    NotFiniteError: training diverged.
    Stopped: a signal asked for it; everything is saved.
  """
  begun = time.time()
  # --- Make and check everything ---------------------------------------------
  experiment = build(config)
  workdirs.claim(workdir, config.to_dict())
  reporter = Reporter(workdir, enabled=is_main_process())
  _introduce(experiment, workdir, reporter)
  if config.data.check:
    check_dataset(
      experiment.dataset,
      (
        config.data.train_split,
        select_split(config),
        config.data.eval_split,
      ),
      console=reporter.console,
    )
  rows = Rows(experiment)
  train = functools.partial(_train, experiment, workdir, reporter)

  # --- Teachers: one network per task ----------------------------------------
  teachers, single_task = {}, {}
  for task in experiment.tasks:
    stage = experiment.teacher(task)
    score = functools.partial(_headline, experiment.tasks[task])
    if config.teacher.workdir:
      teachers[task] = read_teacher(experiment, stage)
    else:
      teachers[task] = train(stage, {}, score=score)
    evaluation = stage.evaluate(teachers[task], keep=rows.keep)
    rows.add_teacher(task, evaluation)
    # What students are measured by while their checkpoints are chosen.
    if stage.select_batches is not None:
      evaluation = stage.evaluate(teachers[task], select=True)
    single_task |= evaluation.metrics

  # --- Students: the uniform baseline, then the distilled network -------------
  def gain(metrics: Metrics) -> float:
    gains = relative_gains(metrics, single_task, experiment.tasks)
    return gains['delta_mtl']

  if config.baseline:
    stage = experiment.baseline()
    variables = train(stage, {}, score=gain)
    rows.add(stage.name, stage.evaluate(variables, keep=rows.keep))
  stage = experiment.student()
  variables = train(stage, teachers, score=gain)
  rows.add(stage.name, stage.evaluate(variables, keep=rows.keep))

  # --- Report ----------------------------------------------------------------
  report_results(
    rows, workdir, reporter, chosen_on=select_split(config), average=True
  )
  reporter.print(f'finished in {time.time() - begun:.0f} s')


def _train(
  experiment: Experiment,
  workdir: pathlib.Path,
  reporter: Reporter,
  stage: Stage,
  teachers: Mapping[str, Any],
  *,
  score: Callable[[Metrics], float],
) -> Any:
  """Trains a stage, or finds it finished; returns the chosen variables."""
  checkpoints = Checkpoints(checkpoint_dir(workdir, stage))
  try:
    state = run_stage(
      stage,
      teachers,
      checkpoints=checkpoints,
      report=lambda start: reporter.stage(
        stage.name,
        start=start,
        steps=stage.total_steps,
        steps_per_epoch=stage.steps_per_epoch,
      ),
      rhythm=experiment.rhythm,
      score=score,
    )
    if experiment.config.select == 'best':
      state = checkpoints.restore_best(state)
  finally:
    checkpoints.close()
  return state.variables


def _headline(task, metrics: Metrics) -> float:
  value = metrics[task.name][task.headline]
  return value if task.higher_is_better else -value


def _introduce(experiment, workdir, reporter):
  """Says what will run on what, with a table of parameters."""
  config = experiment.config
  devices = jax.devices()
  size = ' x '.join(map(str, experiment.dataset.image_size))
  reporter.print(
    f'{config.name}: {config.data.name}, {size} pixels, '
    f'{len(experiment.tasks)} tasks, {config.epochs} epochs of '
    f'{experiment.steps_per_epoch} steps of {config.batch_size} images on '
    f'{len(devices)} {devices[0].platform} device(s)\nworkdir: {workdir}'
  )
  if config.select == 'best' and select_split(config) == config.data.eval_split:
    reporter.print(
      f'note: the best checkpoints are chosen on {config.data.eval_split!r}, '
      'the split that is reported, which flatters them; '
      '--config.data.val_fraction=0.1 holds a share of training out for it'
    )
  if config.data.keep_labels != 1:
    reporter.print(f'labels kept in training: {config.data.keep_labels}')
  stages = [experiment.teacher(task) for task in experiment.tasks]
  stages += [experiment.baseline()] if config.baseline else []
  stages += [experiment.student()]
  shapes = {s.name: jax.eval_shape(s.init).params for s in stages}
  reporter.print(parameter_table(shapes))
