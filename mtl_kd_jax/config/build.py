"""Config -> dataset, tasks, networks, optimizers: the wiring.

`build` raises InputError for whatever can be known to be wrong before a step is
taken. Only this file, config_values.py, balancing_values.py and jobs/ read the
config.
"""

import dataclasses
import functools

from ml_collections import ConfigDict

from mtl_kd_jax.balancing import Balancer, GradientBalancer, make_balancer
from mtl_kd_jax.config.balancing import make_configured_balancer
from mtl_kd_jax.config.validate import check_values, value
from mtl_kd_jax.datasets import (
  DATASETS,
  Dataset,
  loader,
  make_dataset,
  preview_dataset,
)
from mtl_kd_jax.datasets.base import Source
from mtl_kd_jax.datasets.holdout import HELD_OUT, hold_out
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.distillation.alignment import Distillation, make_adaptors
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import read_backbone
from mtl_kd_jax.models.network import Network, make_network
from mtl_kd_jax.runtime.parallel import Parallel, make_parallel
from mtl_kd_jax.tasks import Task, make_tasks
from mtl_kd_jax.training.optim import (
  make_adam,
  make_schedule,
  make_student_optimizer,
)
from mtl_kd_jax.training.stage import Rhythm, Stage
from mtl_kd_jax.training.state import (
  backbone_taps,
  feature_shapes,
  network_shapes,
)

# The parts of the config that say what a network is made of.
_STUDENT, _TEACHER = 'model', 'teacher.model'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a config names, made and checked.

  Attributes:
    config: the config it was made from.
    dataset: the dataset, opened.
    tasks: the tasks, in their order.
    parallel: the devices.
    steps_per_epoch: optimizer steps in an epoch, of every stage.
  """

  config: ConfigDict
  dataset: Dataset
  tasks: dict[str, Task]
  parallel: Parallel
  steps_per_epoch: int

  def teacher(self, task: str) -> Stage:
    """The stage that trains the single-task network of a task."""
    return self._stage(f'teacher_{task}', (task,), _TEACHER)

  def baseline(self) -> Stage:
    """The stage that trains all tasks with uniform weights."""
    return self._stage('uniform', self.tasks, _STUDENT)

  def student(self) -> Stage:
    """The stage that trains the distilled network."""
    return self._stage(
      'distilled',
      self.tasks,
      _STUDENT,
      balancer=self.balancer,
      distillation=self._distillation,
      level=self.config.balancing.level,
      mode=self.config.balancing.distillation,
    )

  @functools.cached_property
  def balancer(self) -> Balancer | GradientBalancer:
    """The balancer of the distilled network."""
    network = self._network(self.tasks, _STUDENT)
    return make_configured_balancer(
      self.config.balancing,
      tasks=tuple(self.tasks),
      features=functools.partial(
        backbone_taps, network, self.dataset.image_size
      ),
      steps_per_epoch=self.steps_per_epoch,
      device_batch=self.config.batch_size // self.parallel.num_devices,
    )

  @property
  def rhythm(self) -> Rhythm:
    """How often a stage logs, saves and evaluates."""
    config, epoch = self.config, self.steps_per_epoch
    return Rhythm(
      report=config.report.every_steps,
      checkpoint=(
        config.checkpoint.every_steps,
        config.checkpoint.every_epochs * epoch,
      ),
      evaluate=config.report.eval_every_epochs * epoch,
      average=range(
        (config.epochs - self.average_epochs + 1) * epoch,
        config.epochs * epoch + 1,
        epoch,
      ),
      observe=config.balancing.observe_every,
    )

  @property
  def average_epochs(self) -> int:
    """Over how many last epochs metrics are averaged; 0 for none."""
    return min(self.config.report.average_epochs, self.config.epochs)

  def train_source(self) -> Source:
    """The training samples, with the labels that they keep.

    Raises:
      InputError: config.data.keep_labels cannot be used.
    """
    data = self.config.data
    keep = data.keep_labels
    return hide_labels(
      self.dataset.source(data.train_split),
      labels={task: self.dataset.labels[task] for task in self.tasks},
      keep=keep.to_dict() if isinstance(keep, ConfigDict) else keep,
      seed=self.config.seed,
    )

  def eval_batches(self, split: str):
    """Iterates over this process's share of a split, unchanged."""
    return loader.eval_batches(
      self.dataset,
      self.dataset.source(split),
      batch_size=self.config.batch_size,
      workers=self.config.data.workers,
    )

  def _stage(
    self, name, tasks, part, *, balancer=None, distillation=None, **how
  ):
    config = self.config
    network = self._network(tasks, part)
    optim, adaptors = config.optim, config.distill
    reported, chosen_on = config.data.eval_split, select_split(config)
    make = functools.partial(
      make_schedule,
      steps_per_epoch=self.steps_per_epoch,
      epochs=config.epochs,
      step_epochs=optim.step_epochs,
      step_factor=optim.step_factor,
    )
    tx = make_adam(
      make(optim.schedule, optim.learning_rate, where='config.optim'),
      weight_decay=optim.weight_decay,
    )
    if distillation is not None:
      tx = make_student_optimizer(
        tx,
        make_adam(
          make(
            adaptors.schedule, adaptors.learning_rate, where='config.distill'
          ),
          weight_decay=adaptors.weight_decay,
        ),
      )
    return Stage(
      name=name,
      network=network,
      tasks={task: self.tasks[task] for task in network.channels},
      balancer=balancer or make_balancer('uniform'),
      tx=tx,
      distillation=distillation,
      pretrained=self._pretrained(network, part),
      image_size=self.dataset.image_size,
      seed=config.seed,
      epochs=config.epochs,
      steps_per_epoch=self.steps_per_epoch,
      parallel=self.parallel,
      train_batches=self._train_batches,
      eval_batches=functools.partial(self.eval_batches, reported),
      select_batches=None
      if chosen_on == reported
      else functools.partial(self.eval_batches, chosen_on),
      **how,
    )

  def _train_batches(self, start_step):
    config = self.config
    return loader.train_batches(
      self.dataset,
      self.train_source(),
      batch_size=config.batch_size,
      epochs=config.epochs,
      start_step=start_step,
      seed=config.seed,
      scales=config.data.scales,
      flip=config.data.flip,
      workers=config.data.workers,
    )

  def _network(self, tasks, part) -> Network:
    model = value(self.config, part)
    return make_network(
      backbone=model.backbone,
      head=model.head,
      width=model.width,
      output_stride=model.output_stride,
      channels={task: self.tasks[task].channels for task in tasks},
      image_size=self.dataset.image_size,
      axis_name=self.parallel.axis_name,
      where=f'config.{part}',
    )

  def _pretrained(self, network, part):
    model = value(self.config, part)
    if not model.pretrained:
      return None
    _, like = network_shapes(network, self.dataset.image_size)
    return read_backbone(
      model.pretrained,
      like,
      where=f'config.{part}.pretrained',
    )

  @functools.cached_property  # the shapes of all features take seconds
  def _distillation(self) -> Distillation:
    config, size = self.config, self.dataset.image_size
    teachers = {task: self._network((task,), _TEACHER) for task in self.tasks}
    adaptors = make_adaptors(
      config.distill.taps,
      feature_shapes(self._network(self.tasks, _STUDENT), size),
      {task: feature_shapes(n, size) for task, n in teachers.items()},
    )
    return Distillation(
      teachers=teachers,
      adaptors=adaptors,
      weights={task: config.distill.weights[task] for task in self.tasks},
      epsilon=config.distill.epsilon,
      batch_norm=config.teacher.batch_norm,
    )


def select_split(config: ConfigDict) -> str:
  """The split that checkpoints are chosen on."""
  data = config.data
  own = HELD_OUT if data.val_fraction else data.eval_split
  return data.select_split or own


def open_dataset(config: ConfigDict, *, data: bool = True) -> Dataset:
  """The dataset that the config names, or what is known of it unopened.

  Raises:
    InputError: the name is unknown, or the data cannot be opened.
  """
  name = config.data.name
  options = config.data[name] if name in DATASETS else {}
  make = make_dataset if data else preview_dataset
  return make(name, data_dir=config.data.data_dir, **options)


def build(config: ConfigDict, *, data: bool = True) -> Experiment:
  """Makes and checks everything that the config names.

  Args:
    config: see configs/common.py.
    data: whether to open the dataset. Without, the stages can be made and
      initialized but not run: an epoch counts as one step.

  Raises:
    InputError: anything in it cannot be used, or the data are missing.
  """
  check_values(config)
  parallel = make_parallel(config.parallel.mode, batch_size=config.batch_size)
  dataset = open_dataset(config, data=data)
  tasks = make_tasks(config.tasks, dataset.labels, dataset=dataset.name)
  missing = [t for t in tasks if t not in config.distill.weights]
  if missing:
    raise InputError(
      expected='a weight (lambda) for every task',
      found=f'none for {", ".join(missing)}',
      where='config.distill.weights',
      do='add it to the config file',
    )
  steps_per_epoch = 1
  if data:
    if config.data.val_fraction:
      dataset = hold_out(
        dataset,
        config.data.train_split,
        fraction=config.data.val_fraction,
        seed=config.seed,
      )
    for split in (config.data.eval_split, select_split(config)):
      dataset.source(split)  # exists
    train = dataset.source(config.data.train_split)
    steps_per_epoch = loader.steps_per_epoch(len(train), config.batch_size)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    tasks=tasks,
    parallel=parallel,
    steps_per_epoch=steps_per_epoch,
  )
  if data:
    experiment.train_source()  # checks which labels are to be kept
  experiment.student()  # checks networks, taps, schedule, teacher mode
  return experiment
