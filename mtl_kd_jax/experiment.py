"""Config -> dataset, tasks, networks, optimisers: the wiring, and its checks.

`build` raises InputError for whatever can be known to be wrong before a step is
taken. Only this file and jobs/ read the config.
"""

import dataclasses
import functools
import math

import flax.linen as nn
from ml_collections import ConfigDict

from mtl_kd_jax.balancing import Balancer, make_balancer
from mtl_kd_jax.datasets import DATASETS, Dataset, loader, make_dataset
from mtl_kd_jax.distillation import Distillation
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models import make_backbone
from mtl_kd_jax.models.adaptors import Adaptors
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.optim import make_adam, make_schedule, make_student_optimizer
from mtl_kd_jax.parallel import Parallel, make_parallel
from mtl_kd_jax.stage import Rhythm, Stage
from mtl_kd_jax.tasks import Task, make_tasks
from mtl_kd_jax.train_state import feature_shapes

_POSITIVE = (
  'epochs',
  'batch_size',
  'optim.learning_rate',
  'optim.step_epochs',
  'optim.step_factor',
  'distill.learning_rate',
  'report.every_steps',
)
_NOT_NEGATIVE = (
  'seed',
  'optim.weight_decay',
  'distill.weight_decay',
  'data.workers',
  'checkpoint.every_epochs',
  'checkpoint.every_steps',
  'report.eval_every_epochs',
  'report.images',
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a config names, made and checked.

  Attributes:
    config: the config it was made from.
    dataset: the dataset, opened.
    tasks: the tasks, in their order.
    parallel: the devices.
    balancer: of the distilled network.
    steps_per_epoch: optimiser steps in an epoch, of every stage.
  """

  config: ConfigDict
  dataset: Dataset
  tasks: dict[str, Task]
  parallel: Parallel
  balancer: Balancer
  steps_per_epoch: int

  def teacher(self, task: str) -> Stage:
    """The stage that trains the single-task network of a task."""
    return self._stage(f'teacher_{task}', self._network((task,)))

  def baseline(self) -> Stage:
    """The stage that trains all tasks with uniform weights."""
    return self._stage('uniform', self._network(self.tasks))

  def student(self) -> Stage:
    """The stage that trains the distilled network."""
    return self._stage(
      'distilled',
      self._network(self.tasks),
      balancer=self.balancer,
      distillation=self._distillation(),
    )

  @property
  def rhythm(self) -> Rhythm:
    """How often a stage logs, saves and evaluates."""
    config = self.config
    return Rhythm(
      report=config.report.every_steps,
      checkpoint=(
        config.checkpoint.every_steps,
        config.checkpoint.every_epochs * self.steps_per_epoch,
      ),
      evaluate=config.report.eval_every_epochs * self.steps_per_epoch,
    )

  def eval_batches(self):
    """Iterates over this process's share of the evaluation split."""
    data = self.config.data
    return loader.eval_batches(
      self.dataset,
      self.dataset.source(data.eval_split),
      batch_size=self.config.batch_size,
      workers=data.workers,
    )

  def _stage(self, name, network, *, balancer=None, distillation=None):
    config = self.config
    optim, adaptors = config.optim, config.distill
    tx = make_adam(
      make_schedule(
        optim.schedule,
        optim.learning_rate,
        steps_per_epoch=self.steps_per_epoch,
        epochs=config.epochs,
        step_epochs=optim.step_epochs,
        step_factor=optim.step_factor,
      ),
      weight_decay=optim.weight_decay,
    )
    if distillation is not None:
      tx = make_student_optimizer(
        tx,
        make_adam(adaptors.learning_rate, weight_decay=adaptors.weight_decay),
      )
    return Stage(
      name=name,
      network=network,
      tasks={task: self.tasks[task] for task in network.channels},
      balancer=balancer or make_balancer('uniform'),
      tx=tx,
      distillation=distillation,
      image_size=self.dataset.image_size,
      seed=config.seed,
      epochs=config.epochs,
      steps_per_epoch=self.steps_per_epoch,
      parallel=self.parallel,
      train_batches=self._train_batches,
      eval_batches=self.eval_batches,
    )

  def _train_batches(self, start_step):
    config = self.config
    return loader.train_batches(
      self.dataset,
      self.dataset.source(config.data.train_split),
      batch_size=config.batch_size,
      epochs=config.epochs,
      start_step=start_step,
      seed=config.seed,
      scales=config.data.scales,
      flip=config.data.flip,
      workers=config.data.workers,
    )

  def _network(self, tasks) -> nn.Module:
    model = self.config.model
    backbone = make_backbone(
      model.backbone,
      width=model.width,
      image_size=self.dataset.image_size,
      axis_name=self.parallel.axis_name,
    )
    return Network(
      backbone, {task: self.tasks[task].channels for task in tasks}
    )

  def _distillation(self) -> Distillation:
    config = self.config
    teachers = {task: self._network((task,)) for task in self.tasks}
    channels = {}
    for task, network in teachers.items():
      shapes = feature_shapes(network, self.dataset.image_size)
      for tap in config.distill.taps:
        if tap not in shapes:
          raise InputError(
            expected=f'a feature of the backbone: {", ".join(shapes)}',
            found=repr(tap),
            where='config.distill.taps',
            do='name some of those features',
          )
      channels[task] = {tap: shapes[tap][-1] for tap in config.distill.taps}
    return Distillation(
      teachers=teachers,
      adaptors=Adaptors(channels),
      taps={tap: tap for tap in config.distill.taps},
      weights={task: config.distill.weights[task] for task in self.tasks},
      batch_norm=config.teacher.batch_norm,
    )


def build(config: ConfigDict) -> Experiment:
  """Makes and checks everything that the config names.

  Raises:
    InputError: anything in it cannot be used, or the data are missing.
  """
  check_values(config)
  parallel = make_parallel(config.parallel.mode, batch_size=config.batch_size)
  balancer = make_balancer(config.balancing.name)
  name = config.data.name
  options = config.data[name] if name in DATASETS else {}
  dataset = make_dataset(name, data_dir=config.data.data_dir, **options)
  tasks = make_tasks(config.tasks, dataset.labels, dataset=dataset.name)
  missing = [t for t in tasks if t not in config.distill.weights]
  if missing:
    raise InputError(
      expected='a weight (lambda) for every task',
      found=f'none for {", ".join(missing)}',
      where='config.distill.weights',
      do='add it to the config file',
    )
  dataset.source(config.data.eval_split)  # exists
  train = dataset.source(config.data.train_split)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    tasks=tasks,
    parallel=parallel,
    balancer=balancer,
    steps_per_epoch=loader.steps_per_epoch(len(train), config.batch_size),
  )
  experiment.student()  # checks networks, taps, schedule, teacher mode
  return experiment


def check_values(config: ConfigDict) -> None:
  """Checks the numbers of a config, without opening anything.

  Raises:
    InputError: one of them is out of its range.
  """
  for key in _POSITIVE:
    if not _value(config, key) > 0:
      raise _bad_value(config, key, 'a number above 0')
  for key in _NOT_NEGATIVE:
    if not _value(config, key) >= 0:
      raise _bad_value(config, key, '0 or more')
  if config.select not in ('last', 'best'):
    raise _bad_value(config, 'select', "'last' or 'best'")
  if not config.distill.taps:
    raise _bad_value(config, 'distill.taps', 'at least one feature')
  scales = config.data.scales
  if not scales or not all(s >= 1 and math.isfinite(s) for s in scales):
    raise _bad_value(config, 'data.scales', 'zoom factors of 1 or more')
  for task, weight in config.distill.weights.items():
    if not weight >= 0:
      key = f'distill.weights.{task}'
      raise _bad_value(config, key, '0 or more')


def _value(config, key):
  return functools.reduce(lambda c, part: c[part], key.split('.'), config)


def _bad_value(config, key, expected):
  return InputError(
    expected=expected,
    found=repr(_value(config, key)),
    where=f'config.{key}',
    do=f'correct it in the config file or with --config.{key}=...',
  )
