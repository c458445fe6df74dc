"""Scores the finished networks of a run again, on any split."""

import pathlib

from ml_collections import ConfigDict

from mtl_kd_jax.config.build import build, select_split
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs.teachers import read_teacher
from mtl_kd_jax.reports.results import Rows, checkpoint_dir, report_results
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_writer import Reporter
from mtl_kd_jax.runtime.parallel import is_main_process


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Prints the table of a run and writes it beside the first one.

  Networks that are not finished are left out, and named.

  Args:
    config: of the run; `data.eval_split` names the split to score.
    workdir: of the run. Its own results stay as they are: these go to
      results_<split>.json, results_<split>.md and predictions_<split>.png.

  Raises:
    InputError: there is no such run, or none of its networks is finished.
  """
  trained = ConfigDict(workdirs.read_config(workdir))
  experiment = build(config)
  reporter = Reporter(workdir, enabled=is_main_process())
  rows = Rows(experiment)
  unfinished = {}

  def variables_of(stage):
    try:
      return _read(experiment, stage, workdir)
    except InputError as error:
      unfinished[stage.name] = error
      return None

  for task in experiment.tasks:
    stage = experiment.teacher(task)
    if config.teacher.workdir:
      variables = read_teacher(experiment, stage)
    else:
      variables = variables_of(stage)
    if variables is None:
      rows.add_missing_teacher(task)
    else:
      rows.add_teacher(task, stage.evaluate(variables, keep=rows.keep))
  stages = [experiment.baseline()] if config.baseline else []
  stages += [experiment.student()]
  for stage in stages:
    if (variables := variables_of(stage)) is not None:
      rows.add(stage.name, stage.evaluate(variables, keep=rows.keep))
  if len(unfinished) == len(experiment.tasks) + len(stages):
    raise next(iter(unfinished.values()))
  report_results(
    rows,
    workdir,
    reporter,
    chosen_on=select_split(trained),
    suffix=f'_{config.data.eval_split}',
  )
  if unfinished:
    reporter.print(f'not scored, since not finished: {", ".join(unfinished)}')


def _read(experiment, stage, workdir):
  directory = checkpoint_dir(workdir, stage)
  if not directory.is_dir():
    raise _not_finished(stage, directory, 'no checkpoint')
  checkpoints = Checkpoints(directory)
  try:
    like = stage.like()
    last = checkpoints.restore_last(like)
    if not checkpoints.finished:
      done = 'no checkpoint' if last is None else f'step {int(last.step)}'
      raise _not_finished(stage, directory, done)
    best = experiment.config.select == 'best'
    state = checkpoints.restore_best(like) if best else last
  finally:
    checkpoints.close()
  return state.variables


def _not_finished(stage, directory, found):
  return InputError(
    expected=f'a finished run: stage {stage.name} at step {stage.total_steps}',
    found=found,
    where=f'{directory}',
    do='run the training to its end first, with --job=train',
  )
