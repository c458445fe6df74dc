"""The main job: trains the stages of a config's method, and reports."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
import itertools
import pathlib
import time
from types import MappingProxyType
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import methods
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs.ahead import planned_compilations
from mtl_kd_jax.jobs.claim import claim_of
from mtl_kd_jax.jobs.introduction import (
  introduce,
  notes_on_longer,
  read_plan_log,
)
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.reports.gains import relative_gains
from mtl_kd_jax.reports.results import Rows, report_results
from mtl_kd_jax.run import Run, describe_stage
from mtl_kd_jax.runtime import buckets, checkpointing
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.memory import release_freed_memory
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.parallel import any_process, is_main_process
from mtl_kd_jax.runtime.program import CompilesAhead
from mtl_kd_jax.runtime.statistics import with_statistics, write_statistics
from mtl_kd_jax.training.evaluation import Evaluation, Metrics
from mtl_kd_jax.training.loop import Intervals, run_stage
from mtl_kd_jax.training.loss_terms import ADAPTORS
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage

JOINS_HOSTS = True  # that are found, unless the config says
# What a run reports, of which trackers get a copy.
_FILES = (
  'results.md',
  'results.json',
  'results.html',
  'predictions.png',
  'curves.png',
  'balancing.png',
)


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  writer: MetricWriter | None = None,
) -> Run:
  """Trains every stage that is not finished yet, then reports.

  Args:
    config: see config/defaults.py.
    workdir: where checkpoints, logs and results go. A second run with the same
      one continues where the first ended.
    writer: shows and logs; None for one that prints.

  Returns:
    The run.

  Raises:
    InputError: config, data or workdir cannot be used, or another run is in the
      workdir; before any training.
    NotFiniteError: training diverged.
    Stopped: a signal asked for it; everything is saved.
  """
  # --- Make and check everything ---------------------------------------------
  buckets.check_access(workdir, argument='workdir', write=True)
  experiment = build(config)
  plan = methods.plan(experiment)
  adapts = any(ADAPTORS in stage.extras for stage in plan.stages)
  claim = claim_of(
    workdir, config, schedules=('optim', 'distill') if adapts else ('optim',)
  )
  _check_teachers(plan)
  _refuse_files_of_others(workdir)
  # --- Alone in the workdir ---------------------------------------------------
  with exclusive(workdir) if is_main_process() else nullcontext():
    if is_main_process():
      claim()
      workdirs.write_plan(workdir, describe_plan(plan))
    writer = writer or MetricWriter(workdir, enabled=is_main_process())
    track(config, writer)
    with writer.closed_on_error():
      _train(experiment, plan, workdir, writer)
    writer.close()
  return Run(workdir)


def _check_teachers(plan: Plan) -> None:
  """Raises InputError where networks of other runs are not there."""
  for stage in plan.stages:
    folder = stage.trained_in
    if folder is not None and not checkpointing.is_finished(
      workdirs.checkpoint_dir(folder, stage.name)
    ):
      _read(stage, folder, best=False)  # says why


def _refuse_files_of_others(workdir: pathlib.Path) -> None:
  """Raises InputError where a report would overwrite what no run wrote."""
  found = [name for name in _FILES if (workdir / name).exists()]
  if found and not workdirs.is_workdir(workdir):
    raise InputError(
      expected='the workdir of a run, or a folder without files of its names',
      found=paths.some(found),
      where=f'{workdir}',
      argument='workdir',
      do='choose another folder, or move them',
    )


def track(config: ConfigDict, writer: MetricWriter) -> None:
  """Opens the trackers that a config names; raises InputError."""
  with named_by_keys('report'):
    writer.track(
      config.report.trackers, name=config.name, config=config.to_dict()
    )


def _train(
  experiment: Experiment,
  plan: Plan,
  workdir: pathlib.Path,
  writer: MetricWriter,
) -> None:
  """Trains the stages of a plan, and reports."""
  config, begun = experiment.config, time.time()
  introduce(experiment, plan, workdir, writer)
  if config.data.check:
    check_splits(experiment, writer)

  # --- Stage by stage ---------------------------------------------------------
  rows = Rows(experiment.tasks)
  variables: dict[str, Any] = {}
  selected: dict[str, Metrics] = {}  # on the split that chooses checkpoints
  single_task: Metrics = {}  # what others are compared with, while they train
  with CompilesAhead(writer.print) as ahead:
    for stage, following in itertools.pairwise([*plan.stages, None]):
      frozen = {t: variables[name] for t, name in stage.inputs.items()}
      ahead.add(
        planned_compilations(
          stage,
          following,
          plan,
          workdir=workdir,
          intervals=experiment.intervals,
        )
      )
      trained = train_stage(
        stage,
        frozen,
        workdir=workdir,
        writer=writer,
        intervals=experiment.intervals,
        best=config.select == 'best',
        score=make_score(stage, single_task),
        known={t: selected[name] for t, name in stage.inputs.items()},
      )
      variables[stage.name], recalibrated_over = with_own_statistics(
        stage, trained, workdir, num_batches=config.recalibrate
      )
      evaluation, selected[stage.name] = score_stage(
        stage, variables[stage.name], workdir, keep=experiment.num_pictures
      )
      if stage.row == SINGLE_TASK:
        single_task |= selected[stage.name]
      recalibrated = any_process(bool(recalibrated_over))
      rows.add(
        plan.rows[stage.name],
        evaluation,
        network=stage.name,
        recalibrated_over=recalibrated_over,
        running=stage.evaluate(trained).metrics if recalibrated else None,
      )
      stage.forget_programs()
      release_freed_memory()

  # --- Report ----------------------------------------------------------------
  if is_main_process():
    _report(experiment, plan, workdir, rows, writer)
    files = [workdir / name for name in _FILES]
    writer.report(Run(workdir).metrics, [p for p in files if p.exists()])
  writer.print(f'finished in {time.time() - begun:.0f} s')


def _report(
  experiment: Experiment,
  plan: Plan,
  workdir: pathlib.Path,
  rows: Rows,
  writer: MetricWriter,
) -> None:
  """Writes and prints what a finished run has scored."""
  config, log = experiment.config, read_plan_log(plan, workdir)
  report_results(
    rows,
    workdir,
    writer.print,
    name=config.name,
    split=config.data.eval_split,
    checkpoint=config.select,
    chosen_on=select_split(config),
    chosen={
      stage.name: checkpointing.has_best(
        workdirs.checkpoint_dir(stage.trained_in or workdir, stage.name)
      )
      for stage in plan.stages
    },
    log=log,
    stages=plan.rows,
    average_epochs=experiment.average_epochs,
    notes=[f'Note: {text}.' for text in notes_on_longer(experiment, plan, log)],
  )


def train_stage(
  stage: Stage,
  frozen: Mapping[str, Any],
  *,
  workdir: pathlib.Path,
  writer: MetricWriter,
  intervals: Intervals,
  best: bool,
  score: Callable[[Metrics], float],
  known: Mapping[str, Metrics] = MappingProxyType({}),
) -> Any:
  """Trains a stage, or finds it finished.

  Args:
    stage: the stage.
    frozen: teacher -> its variables.
    workdir: of the run.
    writer: shows and logs.
    intervals: what happens how often.
    best: whether the checkpoint with the highest score is chosen, or the last.
    score: see `run_stage`.
    known: see `run_stage`.

  Returns:
    The variables of the chosen checkpoint, with their running means.

  Raises:
    InputError, NotFiniteError, Stopped: as `run`.
  """
  if stage.trained_in is not None:
    return _read(stage, stage.trained_in, best=best)
  folder = workdirs.checkpoint_dir(workdir, stage.name)
  logged = any(e['stage'] == stage.name for e in read_log(workdir))
  # In this order: of what was trained here, a checkpoint may be damaged, which
  # only training mends.
  imported = not logged and checkpointing.is_finished(folder)
  # On a network disk, hosts may see files at different times.
  if not any_process(not imported):
    return _read(stage, workdir, best=best)
  if is_main_process():
    workdirs.claim_stage(workdir, stage.name, describe_stage(stage))
  any_process(False)  # the folder is claimed before anybody fills it
  checkpoints = checkpointing.Checkpoints(folder)
  try:
    state = run_stage(
      stage,
      frozen,
      checkpoints=checkpoints,
      open_writer=lambda start: writer.stage(
        stage.name,
        start=start,
        steps=stage.total_steps,
        steps_per_epoch=stage.data.steps_per_epoch,
      ),
      intervals=intervals,
      score=score,
      known=known,
    )
    if best:
      state = checkpoints.restore_best(stage.abstract_checkpoint)
  finally:
    checkpoints.close()
  return stage.parallel.whole(state.result)


def with_own_statistics(
  stage: Stage, variables: Any, workdir: pathlib.Path, *, num_batches: int
) -> tuple[Any, int | None]:
  """Recalibrates a network that was trained here, and writes that down.

  One that another run has trained gets what that run has written down.

  Args:
    stage: the stage.
    variables: of its network.
    workdir: of the run.
    num_batches: of training, as far as the stage has so many; 0 to leave the
      statistics as they are.

  Returns:
    The variables that are to be scored, and to teach with; and the number of
    batches that their statistics were computed over: 0 for running means, None
    without BatchNorm.
  """
  folder = workdirs.checkpoint_dir(stage.trained_in or workdir, stage.name)
  known, over = with_statistics(folder, variables)
  wanted = min(num_batches, stage.total_steps)
  if wanted and over is not None and stage.trained_in is None:
    # Together: hosts may see the file at different times.
    if any_process(over != wanted):
      known, over = stage.recalibrate(variables, wanted), wanted
      if is_main_process():
        write_statistics(folder, known, num_batches=wanted)
  return stage.parallel.replicate(known), over


def score_stage(
  stage: Stage, variables: Any, workdir: pathlib.Path, *, keep: int = 0
) -> tuple[Evaluation, Metrics]:
  """Scores a finished stage, and writes that down.

  Args:
    stage: the stage.
    variables: of its network.
    workdir: of the run.
    keep: see `Stage.evaluate`.

  Returns:
    How it does on the split that is reported, and its metrics on the split that
    checkpoints are chosen on.
  """
  evaluation = stage.evaluate(variables, keep=keep)
  selected = evaluation.metrics
  if stage.data.select is not None:
    selected = stage.evaluate(variables, select=True).metrics
  if is_main_process() and stage.trained_in is None:
    workdirs.write_metrics(workdir, stage.name, evaluation.metrics)
    workdirs.write_metrics(workdir, stage.name, selected, selected=True)
  return evaluation, selected


def check_splits(experiment: Experiment, writer: MetricWriter) -> None:
  """Reads all samples that will be used, and warns of what looks wrong."""
  data = experiment.config.data
  splits = (data.train_split, select_split(experiment.config), data.eval_split)
  check_dataset(experiment.dataset, splits, console=writer.console)


def make_score(
  stage: Stage, single_task: Metrics
) -> Callable[[Metrics], float]:
  """The score that selects the best checkpoint of a stage: higher is better.

  Of a single task it is the headline metric; of several the relative gain over
  the networks of single tasks, NaN where there are none.
  """
  if len(stage.tasks) == 1:
    (task,) = stage.tasks.values()
    sign = 1 if task.higher_is_better else -1
    return lambda metrics: sign * metrics[task.name][task.headline]

  def gain(metrics: Metrics) -> float:
    return relative_gains(metrics, single_task, stage.tasks)['delta_mtl']

  return gain


def describe_plan(plan: Plan) -> dict[str, dict[str, Any]]:
  """What is written down of a plan."""
  return {
    stage.name: {
      'row': plan.rows[stage.name],
      'trained_in': stage.trained_in and str(stage.trained_in),
    }
    for stage in plan.stages
  }


def _read(stage: Stage, workdir: pathlib.Path, *, best: bool) -> Any:
  """The variables of a stage that is not trained here."""
  try:
    trained = Run(workdir).network(
      stage.name,
      best=best,
      module=stage.network.with_axis(None),
      recalibrated=False,
    )
  except InputError as error:
    raise InputError(
      expected=error.expected,
      found=error.found,
      where=error.where,
      do=f'{error.do}: correct the network in the config, config.tasks, or '
      'config.teacher.workdir',
    ) from error
  # From the host: what is on one device cannot be placed on those of others.
  return stage.parallel.replicate(jax.device_get(trained.variables))
