"""Scores the networks of a finished run again, on any split."""

import pathlib

from ml_collections import ConfigDict

from mtl_kd_jax import workdir as workdirs
from mtl_kd_jax.checkpointing import Checkpoints
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.experiment import build
from mtl_kd_jax.jobs.results import Rows, checkpoint_dir, report_results
from mtl_kd_jax.parallel import is_main_process
from mtl_kd_jax.reporting import Reporter


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Prints the table of a finished run and writes it beside the first one.

  Args:
    config: of the run; `data.eval_split` names the split to score.
    workdir: of the run. Its own results stay as they are: these go to
      results_<split>.json, results_<split>.md and predictions_<split>.png.

  Raises:
    InputError: there is no such run, or it is not finished.
  """
  workdirs.read_config(workdir)  # is one
  experiment = build(config)
  reporter = Reporter(workdir, enabled=is_main_process())
  rows = Rows(experiment)
  for task in experiment.tasks:
    stage = experiment.teacher(task)
    rows.add_teacher(task, _score(experiment, stage, workdir, rows.keep))
  stages = [experiment.baseline()] if config.baseline else []
  for stage in [*stages, experiment.student()]:
    rows.add(stage.name, _score(experiment, stage, workdir, rows.keep))
  report_results(rows, workdir, reporter, suffix=f'_{config.data.eval_split}')


def _score(experiment, stage, workdir, keep):
  directory = checkpoint_dir(workdir, stage)
  if not directory.is_dir():
    raise _not_finished(stage, directory, 'no checkpoint')
  checkpoints = Checkpoints(directory)
  try:
    state = stage.init()
    last = checkpoints.restore_last(state)
    if last is None or int(last.step) < stage.total_steps:
      done = 'no checkpoint' if last is None else f'step {int(last.step)}'
      raise _not_finished(stage, directory, done)
    best = experiment.config.select == 'best'
    state = checkpoints.restore_best(state) if best else last
  finally:
    checkpoints.close()
  return stage.evaluate(state.variables, keep=keep)


def _not_finished(stage, directory, found):
  return InputError(
    expected=f'a finished run: stage {stage.name} at step {stage.total_steps}',
    found=found,
    where=f'{directory}',
    do='run the training to its end first, with --job=train',
  )
