"""What a training run says before it begins."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.config.scored import describe_data, differences
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.reports.longer import describe_longer
from mtl_kd_jax.reports.parameters import parameter_table
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime.metric_keys import Log
from mtl_kd_jax.runtime.metric_log import REPORTED, SELECTION, read_log
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
  """What differs from a run that trained all of its stages itself, at once.

  Where a run is trained for longer than it began, see `describe_longer`; where
  teachers of another run were scored on other data, `read_plan_log`.

  Args:
    experiment: whose stages are planned.
    plan: the stages.
    log: see `read_plan_log`.
  """
  steps = {e['stage']: e['step'] for e in sorted(log, key=lambda e: e['step'])}
  single = [s.name for s in plan.stages if s.row == SINGLE_TASK]
  best = experiment.config.select == 'best'
  return notes_on_data(experiment, plan) + describe_longer(
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


def notes_on_data(experiment: Experiment, plan: Plan) -> list[str]:
  """Which scores `read_plan_log` leaves out, and why."""
  shown = {SELECTION: 'curves of their scores'}
  if experiment.average_epochs:
    shown = {REPORTED: 'means over their last epochs', **shown}
  notes = []
  for elsewhere, names in _trained_elsewhere(plan).items():
    other = _other_data(experiment.config, elsewhere)
    left_out = [text for kind, text in shown.items() if kind in other]
    if left_out:
      why = dict.fromkeys(text for texts in other.values() for text in texts)
      notes.append(
        f'while they were trained in {elsewhere}, {", ".join(names)} were '
        f'scored on other data ({"; ".join(why)}): there are no '
        f'{" and no ".join(left_out)}'
      )
  return notes


def read_plan_log(plan: Plan, workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a run, and of its stages that another run has trained.

  Without the scores that the other run has of other data or another split:
  they cannot be compared.
  """
  log = read_log(workdir)
  for elsewhere, names in _trained_elsewhere(plan).items():
    try:
      other = _other_data(Run(workdir).config, elsewhere)
    except InputError:  # not there yet, on another host
      other = {REPORTED: [], SELECTION: []}
    log += [
      e
      for e in read_log(elsewhere)
      if e['stage'] in names and e['kind'] not in other
    ]
  return log


def _trained_elsewhere(plan: Plan) -> dict[pathlib.Path, list[str]]:
  """Workdir -> the stages that were trained in it."""
  folders: dict[pathlib.Path, list[str]] = {}
  for stage in plan.stages:
    if stage.trained_in is not None:
      folders.setdefault(stage.trained_in, []).append(stage.name)
  return folders


def _other_data(
  config: ConfigDict, elsewhere: pathlib.Path
) -> dict[str, list[str]]:
  """The kinds of scores that another run has of other data -> differences."""
  try:
    there = Run(elsewhere).config
  except InputError:
    unknown = ['its config cannot be read']
    return {REPORTED: unknown, SELECTION: unknown}
  found = {
    kind: differences(
      describe_data(there, split_of(there)),
      describe_data(config, split_of(config)),
    )
    for kind, split_of in (
      (REPORTED, lambda config: config.data.eval_split),
      (SELECTION, select_split),
    )
  }
  return {kind: texts for kind, texts in found.items() if texts}


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
