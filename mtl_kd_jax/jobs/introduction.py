"""What a training run says before it begins."""

import pathlib
from typing import Any

import jax

from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.reports.longer import describe_longer
from mtl_kd_jax.reports.parameters import parameter_table
from mtl_kd_jax.runtime.metric_keys import Log
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage


def introduce(
  experiment: Experiment,
  plan: Plan,
  workdir: pathlib.Path,
  writer: MetricWriter,
) -> None:
  """Says what will run on what, with a table of parameters.

  Args:
    experiment: whose stages are planned.
    plan: the stages.
    workdir: of the run.
    writer: prints.
  """
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
  notes = [*map(experiment.note, plan.stages)]
  notes += notes_on_longer(experiment, plan, read_plan_log(plan, workdir))
  notes += map(experiment.check_cache, plan.stages)
  for text in dict.fromkeys(filter(None, notes)):
    writer.print(f'note: {text}')
  counts = {stage.name: count_parameters(stage) for stage in plan.stages}
  writer.print(parameter_table(counts))


def notes_on_longer(experiment: Experiment, plan: Plan, log: Log) -> list[str]:
  """What differs where a run is trained for longer than it began; see there.

  Args:
    experiment: whose stages are planned.
    plan: the stages.
    log: see `read_plan_log`.
  """
  steps = {e['stage']: e['step'] for e in sorted(log, key=lambda e: e['step'])}
  single = [s.name for s in plan.stages if s.row == SINGLE_TASK]
  best = experiment.config.select == 'best'
  return describe_longer(
    log,
    teachers={s.name: [*s.inputs.values()] for s in plan.stages},
    references={
      s.name: single for s in plan.stages if best and len(s.tasks) > 1
    },
    to_train=[
      s.name
      for s in plan.stages
      if s.trained_in is None and 0 < steps.get(s.name, 0) < s.total_steps
    ],
  )


def read_plan_log(plan: Plan, workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a run, and of its stages that another run has trained."""
  log = read_log(workdir)
  for elsewhere in {s.trained_in for s in plan.stages} - {None}:
    names = {s.name for s in plan.stages if s.trained_in == elsewhere}
    log += [e for e in read_log(elsewhere) if e['stage'] in names]
  return log


def count_parameters(stage: Stage) -> dict[str, int]:
  """The parameters of each part of a stage; none is drawn."""
  state = stage.abstract_state
  counts = {BACKBONE: 0, 'heads': 0}
  for part, params in state.params.items():
    counts[BACKBONE if part == BACKBONE else 'heads'] += _count(params)
  for name, variables in state.extras.items():
    counts[name] = _count(variables['params'])
  return counts


def _count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
