"""The main job: trains the stages of a config's method, and reports."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
import functools
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import methods
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.config.renames import upgrade
from mtl_kd_jax.config.validate import may_change, may_change_from
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.reports.gains import relative_gains
from mtl_kd_jax.reports.parameters import parameter_table
from mtl_kd_jax.reports.results import Rows, report_results
from mtl_kd_jax.reports.statistics import describe_statistics
from mtl_kd_jax.run import Run, describe_stage
from mtl_kd_jax.runtime import checkpointing
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.metric_writer import MetricWriter, read_log
from mtl_kd_jax.runtime.parallel import any_process, is_main_process
from mtl_kd_jax.runtime.statistics import with_statistics, write_statistics
from mtl_kd_jax.training.evaluation import Evaluation, Metrics
from mtl_kd_jax.training.loop import Intervals, run_stage
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage


def run(config: ConfigDict, workdir: pathlib.Path) -> Run:
  """Trains every stage that is not finished yet, then reports.

  Args:
    config: see config/defaults.py.
    workdir: where checkpoints, logs and results go. A second run with the same
      one continues where the first ended.

  Returns:
    The run.

  Raises:
    InputError: config, data or workdir cannot be used, or another run is in the
      workdir; before any training.
    NotFiniteError: training diverged.
    Stopped: a signal asked for it; everything is saved.
  """
  # --- Make and check everything ---------------------------------------------
  experiment = build(config)
  plan = methods.plan(experiment)
  _refuse_earlier_version(workdir)
  claim = claim_of(workdir, config)
  # --- Alone in the workdir ---------------------------------------------------
  with exclusive(workdir) if is_main_process() else nullcontext():
    if is_main_process():
      claim()
      workdirs.write_plan(workdir, describe_plan(plan))
    _train(experiment, plan, workdir)
  return Run(workdir)


def _train(experiment: Experiment, plan: Plan, workdir: pathlib.Path) -> None:
  """Trains the stages of a plan, and reports."""
  config, begun = experiment.config, time.time()
  writer = MetricWriter(workdir, enabled=is_main_process())
  _introduce(experiment, plan, workdir, writer)
  if config.data.check:
    check_splits(experiment, writer)

  # --- Stage by stage ---------------------------------------------------------
  rows = Rows(experiment.tasks)
  variables: dict[str, Any] = {}
  single_task: Metrics = {}  # what others are compared with, while they train
  running: dict[str, Metrics] = {}  # row -> with the running means
  for stage in plan.stages:
    frozen = {t: variables[name] for t, name in stage.inputs.items()}
    trained = train_stage(
      stage,
      frozen,
      workdir=workdir,
      writer=writer,
      intervals=experiment.intervals,
      best=config.select == 'best',
      score=make_score(stage, single_task),
    )
    variables[stage.name] = with_own_statistics(
      stage, trained, workdir, num_batches=config.recalibrate
    )
    evaluation, selected = score_stage(
      stage, variables[stage.name], workdir, keep=config.report.images
    )
    rows.add(plan.rows[stage.name], evaluation)
    if stage.row == SINGLE_TASK:
      single_task |= selected
    if config.recalibrate and stage.trained_in is None:
      metrics = running.setdefault(plan.rows[stage.name], {})
      metrics |= stage.evaluate(trained).metrics

  # --- Report ----------------------------------------------------------------
  if is_main_process():
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
      log=_log(plan, workdir),
      stages=plan.rows,
      average_epochs=experiment.average_epochs,
      statistics=describe_statistics(
        rows.metrics,
        running,
        experiment.tasks,
        num_batches=config.recalibrate,
      ),
    )
  writer.print(f'finished in {time.time() - begun:.0f} s')


def train_stage(
  stage: Stage,
  frozen: Mapping[str, Any],
  *,
  workdir: pathlib.Path,
  writer: MetricWriter,
  intervals: Intervals,
  best: bool,
  score: Callable[[Metrics], float],
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

  Returns:
    The variables of the chosen checkpoint.

  Raises:
    InputError, NotFiniteError, Stopped: as `run`.
  """
  if stage.trained_in is not None:
    return _read(stage, stage.trained_in, best=best)
  folder = workdirs.checkpoint_dir(workdir, stage.name)
  logged = any(e['stage'] == stage.name for e in read_log(workdir))
  if checkpointing.is_finished(folder) and not logged:
    return _read(stage, workdir, best=best)  # imported
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
    )
    if best:
      state = checkpoints.restore_best(state)
  finally:
    checkpoints.close()
  return state.variables


def with_own_statistics(
  stage: Stage, variables: Any, workdir: pathlib.Path, *, num_batches: int
) -> Any:
  """Recalibrates a network that was trained here, and writes that down.

  Args:
    stage: the stage.
    variables: of its network.
    workdir: of the run.
    num_batches: of training; 0 to leave the statistics as they are.

  Returns:
    The variables that are to be scored, and to teach with.
  """
  if not num_batches or stage.trained_in is not None:
    return variables
  folder = workdirs.checkpoint_dir(workdir, stage.name)
  known, over = with_statistics(folder, variables)
  if over != num_batches:
    known = stage.recalibrate(variables, num_batches)
    if is_main_process():
      write_statistics(folder, known, num_batches=num_batches)
  return stage.parallel.replicate(known)


def claim_of(workdir: pathlib.Path, config: ConfigDict) -> Callable[[], None]:
  """Checks that a workdir is new, or can be continued with a config.

  Returns:
    Writes the config into it.

  Raises:
    InputError: it cannot be continued so.
  """
  allowed = may_change
  if workdirs.is_workdir(workdir):
    allowed = may_change_from(workdirs.read_config(workdir), config)
  options = {'config': config.to_dict(), 'may_change': allowed}
  workdirs.check(workdir, **options)
  return functools.partial(workdirs.claim, workdir, **options)


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
    How it does on the split that is reported and, for the networks of single
    tasks, its metrics on the split that checkpoints are chosen on.
  """
  evaluation = stage.evaluate(variables, keep=keep)
  selected = evaluation.metrics
  if stage.row == SINGLE_TASK and stage.data.select is not None:
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


def count_parameters(stage: Stage) -> dict[str, int]:
  """The parameters of each part of a stage; none is drawn."""
  state = stage.abstract_state
  counts = {BACKBONE: 0, 'heads': 0}
  for part, params in state.params.items():
    counts[BACKBONE if part == BACKBONE else 'heads'] += _count(params)
  for name, variables in state.extras.items():
    counts[name] = _count(variables['params'])
  return counts


def _refuse_earlier_version(workdir: pathlib.Path) -> None:
  if not workdirs.is_workdir(workdir):
    return
  config = workdirs.read_config(workdir)
  if upgrade(config) != config:
    raise InputError(
      expected='a workdir that this version started',
      found='one of an earlier version, whose checkpoints have another layout',
      where=f'{workdir}',
      argument='workdir',
      do='choose another folder. Its finished networks can be loaded, scored '
      'and taught with (--config.teacher.workdir), but nothing in it can be '
      'continued',
    )


def _read(stage: Stage, workdir: pathlib.Path, *, best: bool) -> Any:
  """The variables of a stage that is not trained here."""
  try:
    trained = Run(workdir).network(
      stage.name, best=best, module=stage.network.with_axis(None)
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


def _log(plan: Plan, workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of the run, and of stages that another run has trained."""
  log = read_log(workdir)
  for elsewhere in {s.trained_in for s in plan.stages} - {None}:
    names = {s.name for s in plan.stages if s.trained_in == elsewhere}
    log += [e for e in read_log(elsewhere) if e['stage'] in names]
  return log


def _count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _introduce(experiment, plan, workdir, writer):
  """Says what will run on what, with a table of parameters."""
  config = experiment.config
  devices = jax.devices()
  size = ' x '.join(map(str, experiment.dataset.image_size))
  writer.print(
    f'{config.name}: {config.data.name}, {size} pixels, '
    f'{len(experiment.tasks)} tasks, {config.epochs} epochs of '
    f'{experiment.steps_per_epoch} steps of {config.batch_size} images on '
    f'{len(devices)} {devices[0].platform} device(s)\nworkdir: {workdir}'
  )
  if config.select == 'best' and select_split(config) == config.data.eval_split:
    writer.print(
      f'note: the best checkpoints are chosen on {config.data.eval_split!r}, '
      'the split that is reported, which flatters them; '
      '--config.data.val_fraction=0.1 holds a share of training out for it'
    )
  if config.data.label_fraction != 1:
    writer.print(f'labels kept in training: {config.data.label_fraction}')
  for text in dict.fromkeys(map(experiment.note, plan.stages)):
    if text:
      writer.print(f'note: {text}')
  counts = {stage.name: count_parameters(stage) for stage in plan.stages}
  writer.print(parameter_table(counts))
