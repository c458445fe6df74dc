"""The front door in Python: trains networks one after another in one workdir.

  data = mtl.datasets.make('scenes', image_size=(64, 96))
  tasks = data.tasks('semantic', 'depth', 'normals')
  net = mtl.models.make('resnet18', tasks, width=0.5)
  fit = mtl.Trainer(data, workdir='runs/a', epochs=6)
  teachers = {t: fit(net.only(t)) for t in tasks}
  kd = fit(net, name='distilled', distill=mtl.distill(teachers))

The same stages, loop and files as those of launch.py: `mtl.load('runs/a')`
opens them any later day, and the same lines continue what was interrupted.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
import dataclasses
import pathlib
from typing import Any
import weakref

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.config import get_config
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import Experiment
from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.config.validate import check_values, may_change
from mtl_kd_jax.datasets import Dataset, paths
from mtl_kd_jax.errors import InputError, check_type, what_is
from mtl_kd_jax.jobs.ahead import compilations
from mtl_kd_jax.jobs.claim import claim_of
from mtl_kd_jax.jobs.train import (
  check_splits,
  make_score,
  score_stage,
  track,
  train_stage,
  with_own_statistics,
)
from mtl_kd_jax.models import Network, check_image_size
from mtl_kd_jax.reports.longer import describe_longer
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.hosts import main_process_first
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.runtime.platform import disable_loop_unrolling, keep_programs
from mtl_kd_jax.runtime.program import CompilesAhead
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.given import check_given
from mtl_kd_jax.teaching import Distill
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.loss_terms import (
  ADAPTORS,
  ExtraNetwork,
  LossTerm,
  task_terms,
)
from mtl_kd_jax.training.stage import (
  SINGLE_TASK,
  Stage,
  row_of,
  single_task_name,
)

# Sections of the config that stand for arguments of a call, and keys among them
# that do not.
_ARGUMENTS = (
  'balancing.',
  'baseline',
  'distill.',
  'method',
  'model.',
  'tasks',
  'teacher.',
)
_KEYS = ('balancing.observe_every',)
_SCHEDULES = ('schedule', 'schedule_lambda')


class Trainer:
  """Trains networks on one dataset, into one workdir; called with a network."""

  def __init__(
    self,
    data: Dataset,
    workdir: pathlib.Path | str,
    *,
    epochs: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    schedule: str = 'cosine',
    seed: int = 0,
    tasks: Mapping[str, Task] | None = None,
    config: Mapping[str, Any] | None = None,
  ):
    """Opens the workdir, making it when needed.

    Args:
      data: any object of the `Dataset` contract with splits 'train' and 'val'.
      workdir: where checkpoints, logs and results go.
      epochs: length of every training, in passes over the training split.
      batch_size: samples in a step, over all devices.
      learning_rate: of Adam.
      schedule: of that rate: 'cosine', 'constant' or 'step'.
      seed: of parameters, order of the samples and augmentation.
      tasks: name -> a task of your own for the label of that name; it needs no
        registration. `run.network(name, tasks=...)` opens its network again.
      config: further keys of the config (config/defaults.py), with dots:
        {'data.flip': True, 'select': 'best'}. Not those of networks, methods
        and balancing, which are arguments of the call.

    Raises:
      InputError: a value that cannot be used, or a workdir that was started
        with others, or in which another run is.
    """
    disable_loop_unrolling()
    keep_programs()
    self.workdir = paths.expand(workdir, argument='workdir')
    check_type(
      data,
      Dataset,
      expected='an open dataset',
      argument='data',
      do="open one: mtl.datasets.make('scenes')",
    )
    check_given(tasks or {}, data.labels)
    self.config = _make_config(
      data,
      {
        'epochs': epochs,
        'batch_size': batch_size,
        'optim.learning_rate': learning_rate,
        'optim.schedule': schedule,
        'seed': seed,
        'name': self.workdir.name,
        'report.average_epochs': 0,
      },
      config or {},
    )
    self._experiment = build(self.config, dataset=data, tasks=tasks)
    claim = claim_of(self.workdir, self.config)
    with main_process_first():
      if is_main_process():
        with exclusive(self.workdir):
          claim()
    self._writer = MetricWriter(self.workdir, enabled=is_main_process())
    weakref.finalize(self, self._writer.close)
    # On every process: what is finished before this one trains anything.
    self._single_task = Run(self.workdir).single_task_metrics()
    if self.config.data.check:
      check_splits(self._experiment, self._writer)

  def __call__(
    self,
    network: Network,
    name: str = '',
    *,
    distill: Distill | None = None,
    balancer: Balancer | GradientBalancer | None = None,
    grad_wrt: str = 'parameters',
    terms: Sequence[LossTerm] = (),
    extras: Mapping[str, ExtraNetwork] | None = None,
  ) -> TrainedNetwork:
    """Trains a network, or continues or reads what was trained already.

    Args:
      network: from `models.make`.
      name: of its folder and its row; by default 'distilled' with teachers,
        else 'teacher_<task>' for one task and 'multi_task' for several. Those
        named 'teacher_<task>' share the row that gains are relative to.
      distill: what teaches it, from `distill`.
      balancer: of its objectives, from `balancing.make`; None for the sum.
      grad_wrt: what a gradient balancer combines: gradients with respect to the
        backbone's 'parameters', or its 'features'.
      terms: further terms of the loss, beside those of the tasks.
      extras: networks that these train along.

    Returns:
      The trained network, with its metrics on the split 'val'.

    Raises:
      InputError: it cannot be trained so, was started otherwise, or another
        run is in the workdir.
      NotFiniteError: training diverged.
      Stopped: a signal asked for it; the state is saved.
    """
    _check_call(network, distill, balancer, terms, extras)
    name = name or _default_name(network, distill)
    workdirs.check_name(name)
    stage = self._stage(
      name, network, distill, balancer, grad_wrt, terms, extras or {}
    )
    notes = [self._experiment.note(stage), *self._notes_on_longer(stage)]
    notes.append(self._experiment.check_cache(stage))
    for text in filter(None, notes):
      self._writer.print(f'note: {text}')
    frozen = {
      task: stage.parallel.replicate(jax.device_get(teacher.variables))
      for task, teacher in (distill.frozen if distill else {}).items()
    }
    best = self.config.select == 'best'
    if best and len(stage.tasks) > 1:
      _check_comparable(stage.tasks, self._single_task)
    alone = exclusive(self.workdir) if is_main_process() else nullcontext()
    ahead = CompilesAhead(self._writer.print)
    with alone, self._writer.closed_on_error(), ahead:
      track(self.config, self._writer)
      self._plan(stage)
      ahead.add(
        compilations(
          stage,
          frozen,
          workdir=self.workdir,
          intervals=self._experiment.intervals,
        )
      )
      variables = train_stage(
        stage,
        frozen,
        workdir=self.workdir,
        writer=self._writer,
        intervals=self._experiment.intervals,
        best=best,
        score=make_score(stage, self._single_task),
      )
      variables, recalibrated_over = with_own_statistics(
        stage,
        variables,
        self.workdir,
        num_batches=self.config.recalibrate,
      )
      evaluation, selected = score_stage(stage, variables, self.workdir)
      if is_main_process():
        self._writer.report(Run(self.workdir).metrics)
    if stage.row == SINGLE_TASK:
      self._single_task |= selected
    return TrainedNetwork(
      name=name,
      network=network.with_axis(None),
      variables=variables,
      tasks=stage.tasks,
      image_size=self._experiment.dataset.image_size,
      metrics=evaluation.metrics,
      workdir=self.workdir,
      recalibrated_over=recalibrated_over,
    )

  def _notes_on_longer(self, stage) -> list[str]:
    """What differs where networks are trained for longer than they began."""
    compared = self.config.select == 'best' and len(stage.tasks) > 1
    single = [single_task_name(task) for task in stage.tasks]
    return describe_longer(
      read_log(self.workdir),
      teachers={stage.name: [*stage.inputs.values()]},
      references={stage.name: single} if compared else {},
    )

  def _stage(
    self, name, network, distill, balancer, grad_wrt, terms, extras
  ) -> Stage:
    """The stage that `__call__` describes, checked."""
    experiment = self._experiment
    axis_name = experiment.parallel.axis_name
    network = experiment.with_remat(network.with_axis(axis_name))
    check_image_size(network, experiment.dataset.image_size)
    tasks = self._tasks(network)
    all_terms, extras = (*task_terms(tasks), *terms), dict(extras)
    options: dict[str, Any] = {}
    if distill is not None:
      distill.check(tasks, experiment.dataset.labels)
      if ADAPTORS in extras:
        raise InputError(
          expected='extra networks with names of their own',
          found=f'{ADAPTORS}, which distillation adds',
          argument='extras',
          do='give it another name',
        )
      experiment = self._with_settings(distill.settings)
      alignments, attributes = experiment.distill(
        network,
        {
          task: teacher.network.with_axis(axis_name)
          for task, teacher in distill.teachers.items()
        },
        baseline=distill.baseline
        and distill.baseline.network.with_axis(axis_name),
      )
      all_terms += alignments
      extras |= attributes['extras']
      options['teachers'] = attributes['teachers']
      options['adapt'] = attributes['adapt']
      options['rival'] = attributes['rival']
      options['cache'] = attributes['cache']
      options['inputs'] = {t: x.name for t, x in distill.frozen.items()}
    balancer = balancer or balancing.make('uniform')
    return experiment.stage(
      name,
      network,
      terms=all_terms,
      balancer=balancer,
      grad_wrt=grad_wrt,
      extras=extras,
      row=row_of(name, tuple(tasks)),
      description={
        'balancer': balancer.made_by,
        'grad_wrt': grad_wrt,
        'terms': {
          term.name: {'objective': term.objective, 'weight': float(term.weight)}
          for term in all_terms
        },
        'extras': sorted(extras),
        'distill': None
        if distill is None
        else self._describe_distill(distill.settings, options['inputs']),
      },
      **options,
    )

  def _describe_distill(self, settings, teachers) -> dict[str, Any]:
    described = {k: x for k, x in settings.items() if not may_change(k)}
    if described['teacher.cache_dtype'] == 'float32':  # changes nothing
      del described['teacher.cache_dtype']
    described['teachers'] = teachers
    scheduled = (settings[f'distill.{x}'] for x in _SCHEDULES)
    if set(scheduled) & {'cosine', 'linear'}:
      described['epochs'] = self.config.epochs  # which no other may follow
    return described

  def _tasks(self, network):
    known = self._experiment.tasks
    for task, channels in network.channels.items():
      if task not in known or known[task].channels != channels:
        found = f'{known[task].channels}' if task in known else 'none'
        raise InputError(
          expected=f'data with labels of {task}, {channels} channels',
          found=found,
          argument='network',
          do='make the network for the tasks of the data: data.tasks(...)',
        )
    return {task: known[task] for task in network.channels}

  def _with_settings(self, settings) -> Experiment:
    config = self.config.copy_and_resolve_references()
    override(config, settings, argument='distill')
    check_values(config)
    return dataclasses.replace(self._experiment, config=config)

  def _plan(self, stage) -> None:
    """Adds a stage to what the workdir says of its stages."""
    plan = workdirs.read_plan(self.workdir) or {}
    if is_main_process():
      plan[stage.name] = {'row': stage.row, 'trained_in': None}
      workdirs.write_plan(self.workdir, plan)


def _make_config(
  data: Dataset, arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> ConfigDict:
  """The config of a Trainer: of its arguments by key, and of further keys."""
  check_type(
    settings,
    (Mapping, ConfigDict),
    expected='keys of the config with their values',
    argument='config',
    do="give a dictionary: {'data.flip': True}",
  )
  config = get_config()
  options = dict(data.options)
  options.pop('progress', None)  # a function, which no config holds
  maps = options.pop('maps', {})
  with config.unlocked():
    config.data.name = data.name
    config.data.data_dir = str(options.pop('data_dir', None) or '')
    if data.name not in config.data:
      config.data[data.name] = ConfigDict()
    config.data[data.name].update(options)
  config.tasks = tuple(data.labels)
  for name, description in (data.described or maps).items():
    config.task[name] = {**description, **maps.get(name, {})}
  for key, value in arguments.items():
    override(config, {key: value}, argument=key.rpartition('.')[2])
  for key in map(str, settings):
    if key.startswith(_ARGUMENTS) and key not in _KEYS:
      raise InputError(
        expected='keys of data, optimizer, report and the like',
        found=f'{key!r}, which a Trainer does not read',
        argument='config',
        do='give networks, teachers and balancers to the call: fit(network, '
        'distill=..., balancer=...)',
      )
  override(config, settings, argument='config')
  return config


def _check_call(network, distill, balancer, terms, extras) -> None:
  """Checks what kind of things a Trainer is called with."""
  check_type(
    network,
    Network,
    expected='a network',
    argument='network',
    do="make one: mtl.models.make('resnet18', data.tasks()); of a trained one "
    'give its `network`',
  )
  if distill is not None:
    check_type(
      distill,
      Distill,
      expected='what mtl.distill returns',
      argument='distill',
      do='give distill=mtl.distill({task: network})',
    )
  if balancer is not None:
    check_type(
      balancer,
      (Balancer, GradientBalancer),
      expected='a balancer',
      argument='balancer',
      do="make one: mtl.balancing.make('mgda')",
    )
  # A term is a tuple, too.
  alone = isinstance(terms, LossTerm) or not isinstance(terms, Sequence)
  wrong = [x for x in terms if not isinstance(x, LossTerm)] if not alone else []
  if alone or wrong:
    raise InputError(
      expected='a list of LossTerm',
      found=what_is(wrong[0] if wrong else terms),
      argument='terms',
      do='give them in a list: terms=[mtl.LossTerm(...)]',
    )
  check_type(
    extras or {},
    Mapping,
    expected='networks that are trained along, by name',
    argument='extras',
    do="give them by name: {'helper': mtl.ExtraNetwork(...)}",
  )
  for name, extra in (extras or {}).items():
    check_type(
      extra,
      ExtraNetwork,
      expected='an ExtraNetwork',
      argument=f'extras.{name}',
      do='make one: mtl.ExtraNetwork(init, tx)',
    )


def _check_comparable(tasks, single_task: Metrics) -> None:
  missing = [t for t in tasks if t not in single_task]
  if missing:
    raise InputError(
      expected="networks of single tasks, to compare checkpoints with: 'best' "
      'is the one with the highest gain over them',
      found=f'none for {", ".join(missing)}',
      argument='config',
      do="train those first: fit(network.only(task)); or use 'select': 'last'",
    )


def _default_name(network: Network, distill: Distill | None) -> str:
  if distill is not None:
    return 'distilled'
  tasks = tuple(network.channels)
  return single_task_name(tasks[0]) if len(tasks) == 1 else 'multi_task'
