"""What a config names, made; and the stages that methods make of it.

`Experiment.stage` and what it is given check what they are made of: what is
wrong with a config is reported before a step is taken.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import distillation, models
from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.config.balancing import make_balancer
from mtl_kd_jax.config.distillation import make_distillation
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.tasks import taps_of
from mtl_kd_jax.config.validate import value
from mtl_kd_jax.datasets import Dataset, loader, paths
from mtl_kd_jax.datasets.base import Source
from mtl_kd_jax.datasets.holdout import HELD_OUT
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.distillation import Adaptors
from mtl_kd_jax.interop.import_torch import read_backbone
from mtl_kd_jax.models import Network
from mtl_kd_jax.models.network import (
  BACKBONE,
  FeatureShapes,
  feature_shapes,
)
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.combined import check_grad_wrt, check_minibatches
from mtl_kd_jax.training.computation import PLAIN, Computation
from mtl_kd_jax.training.loop import Intervals
from mtl_kd_jax.training.loss_terms import (
  LossTerm,
  objectives,
  task_terms,
)
from mtl_kd_jax.training.normalization import (
  NormCount,
  check_normalization,
  count_values,
  extra_norms,
  few_values,
)
from mtl_kd_jax.training.optim import (
  make_adam,
  make_optimizer,
  make_schedule,
)
from mtl_kd_jax.training.stage import Stage, StageData
from mtl_kd_jax.training.teacher_cache import TeacherCache, make_cache

# The sections of the config that say what a network is made of.
STUDENT, TEACHER = 'model', 'teacher.model'


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """Everything that a config names, made and checked; and what makes stages.

  Attributes:
    config: the config it was made from.
    dataset: the dataset, opened.
    tasks: the tasks, in their order.
    parallel: the devices.
    steps_per_epoch: optimizer steps in an epoch, of every stage.
    computation: in which precision, and in how many micro-batches.
  """

  config: ConfigDict
  dataset: Dataset
  tasks: dict[str, Task]
  parallel: Parallel
  steps_per_epoch: int
  computation: Computation = PLAIN

  # ---- Networks --------------------------------------------------------------

  @functools.cached_property
  def network(self) -> Callable[..., Network]:
    """From a section, and tasks, to its network; of all tasks for none.

    Each is made once. The section is `STUDENT` or `TEACHER`. Raises InputError
    for a network that cannot be made so.
    """
    return functools.cache(self._make_network)

  def features(self, network: Network) -> FeatureShapes:
    """The shapes of a network's features, traced once for each network."""
    # By identity, since modules cannot be hashed; kept to stay the only one.
    known = self._features
    if id(network) not in known:
      shapes = feature_shapes(network, self.dataset.image_size)
      known[id(network)] = network, shapes
    return known[id(network)][1]

  @functools.cached_property
  def _features(self) -> dict[int, tuple[Network, FeatureShapes]]:
    return {}

  @functools.cached_property
  def pretrained(self) -> Callable[[str], Mapping[str, Any] | None]:
    """From a section to the variables its networks begin with, read once.

    Raises InputError where the file cannot be read, or is of another network.
    """
    return functools.cache(self._read_pretrained)

  def _make_network(self, section, *tasks):
    model = value(self.config, section)
    keys = {
      'image_size': f'data.{self.config.data.name}.image_size',
      'tasks': 'task',
    }
    with named_by_keys(section, keys):
      network = models.make(
        model.backbone,
        {task: self.tasks[task] for task in tasks or self.tasks},
        head=model.head,
        width=model.width,
        output_stride=model.output_stride,
        image_size=self.dataset.image_size,
        axis_name=self.parallel.axis_name,
      )
    return self.with_remat(network)

  def with_remat(self, network: Network) -> Network:
    """The network, as config.remat says."""
    with named_by_keys():
      return network.with_remat() if self.config.remat else network

  def _read_pretrained(self, section):
    path = value(self.config, section).pretrained
    if not path:
      return None
    network = self.network(section)
    like = self.features(network).variables
    with named_by_keys(section, {'path': f'{section}.pretrained'}):
      variables = read_backbone(path, like)
    return {kind: {BACKBONE: tree} for kind, tree in variables.items()}

  # ---- Stages ----------------------------------------------------------------

  def stage(
    self,
    name: str,
    network: Network,
    *,
    terms: Sequence[LossTerm] = (),
    balancer: Balancer | GradientBalancer | None = None,
    grad_wrt: str = 'parameters',
    section: str = '',
    **options: Any,
  ) -> Stage:
    """A stage with this experiment's data, schedule and devices.

    Args:
      name: of the stage.
      network: what is trained.
      terms: all that it descends on; () for the losses of its tasks.
      balancer: None for uniform weights.
      grad_wrt: what its gradients are with respect to.
      section: of the config that describes the network's initial weights; ''
        for none.
      **options: further attributes of `Stage`.

    Raises:
      InputError: it cannot be made so.
    """
    config = self.config
    tasks = {task: self.tasks[task] for task in network.channels}
    if balancer is not None:
      options['balancer'] = balancer
      of_features = grad_wrt == 'features'
      with named_by_keys('balancing', {'batch_size': 'batch_size'}):
        device_batch = config.batch_size // self.parallel.num_devices
        check_minibatches(balancer, device_batch, self.computation.accumulate)
        check_grad_wrt(
          balancer,
          grad_wrt,
          self.features(network).backbone if of_features else (),
        )
    stage = Stage(
      name=name,
      network=network,
      tasks=tasks,
      terms=tuple(terms) or task_terms(tasks),
      tx=self.optimizer(),
      data=self.data,
      epochs=config.epochs,
      parallel=self.parallel,
      grad_wrt=grad_wrt,
      computation=self.computation,
      ema=config.optim.ema,
      pretrained=self.pretrained(section) if section else None,
      seed=config.seed,
      **options,
    )
    with named_by_keys():
      check_normalization(self._norm_counts(stage))
    return stage

  def note(self, stage: Stage) -> str:
    """What should be known of a stage before it is trained, or ''."""
    return few_values(self._norm_counts(stage))

  def _norm_counts(self, stage: Stage) -> list[NormCount]:
    """Of every BatchNorm that uses the statistics of its batch in training."""
    if stage.trained_in is not None:
      return []
    batch_size = self.config.batch_size // self.computation.accumulate
    # Teachers see the batch before a balancer splits it.
    split = batch_size // getattr(stage.balancer, 'num_minibatches', 1)
    count = functools.partial(count_values, parallel=self.parallel)
    shapes = self.features(stage.network)
    counts = count(shapes.norms, split)
    for name, extra in stage.extras.items():
      counts += count(extra_norms(extra, shapes), split, prefix=f'{name}/')
    for name, teacher in stage.teachers.items():
      if teacher.batch_norm == 'batch':
        norms = self.features(teacher.network).norms
        counts += count(norms, batch_size, prefix=f'teacher {name}: ')
    return counts

  def optimizer(self) -> Any:
    """The optimizer of config.optim, of every network."""
    optim = self.config.optim
    with named_by_keys('optim'):
      return make_optimizer(
        optim.name,
        self._schedule('optim', warmup_epochs=optim.warmup_epochs),
        weight_decay=optim.weight_decay,
        decay_on=optim.decay_on,
        momentum=optim.momentum,
        clip_norm=optim.clip_norm,
        backbone_rate=optim.backbone_rate,
      )

  def _schedule(self, section: str, *, warmup_epochs: float = 0) -> Any:
    """The learning rate of a section, 'optim' or 'distill', by step."""
    values, optim = self.config[section], self.config.optim
    with named_by_keys(section):
      return make_schedule(
        values.schedule,
        values.learning_rate,
        steps_per_epoch=self.steps_per_epoch,
        epochs=self.config.epochs,
        decay_every_epochs=optim.decay_every_epochs,
        decay_rate=optim.decay_rate,
        warmup_epochs=warmup_epochs,
      )

  def balancer(self, terms: Sequence[LossTerm]) -> Balancer | GradientBalancer:
    """The balancer that config.balancing describes, for these terms."""
    return make_balancer(
      self.config.balancing,
      objectives=objectives(terms),
      task_kinds={
        name: 'classification' if task.is_classification else 'regression'
        for name, task in self.tasks.items()
      },
      steps_per_epoch=self.steps_per_epoch,
    )

  def adaptors(
    self, network: Network, teachers: Mapping[str, Network]
  ) -> Adaptors:
    """The adaptors of config.distill.taps.

    Args:
      network: the student.
      teachers: task -> its teacher's network.

    Raises:
      InputError: features that cannot be aligned.
    """
    with named_by_keys('distill'):
      return distillation.make_adaptors(
        taps_of(self.config, self.tasks),
        self.features(network).all,
        {task: self.features(n).all for task, n in teachers.items()},
      )

  def distill(
    self,
    network: Network,
    teachers: Mapping[str, Network],
    *,
    baseline: Network | None = None,
  ) -> tuple[tuple[LossTerm, ...], dict[str, Any]]:
    """What distillation adds to a stage, as config.distill describes it.

    Args:
      network: the student.
      teachers: task -> its teacher's network.
      baseline: the network that is trained without teachers, if there is one.

    Returns:
      Its terms, and the attributes `teachers`, `extras`, `adapt`, `rival` and
      `cache` of the stage.

    Raises:
      InputError: features that cannot be aligned, or an unknown option.
    """
    config = self.config
    terms, attributes = make_distillation(
      config,
      self.adaptors(network, teachers),
      teachers,
      tasks=self.tasks,
      head_taps=tuple(self.features(network).heads),
      tx=make_adam(
        self._schedule('distill'), weight_decay=config.distill.weight_decay
      ),
      steps=config.epochs * self.steps_per_epoch,
      held_out=select_split(config) != config.data.eval_split,
      features=self.features,
      baseline=baseline,
    )
    return terms, {**attributes, 'cache': self.teacher_cache()}

  def teacher_cache(self) -> TeacherCache | None:
    """What keeps the outputs of teachers, as config.teacher says; or None.

    Raises:
      InputError: unknown values, or outputs that change from epoch to epoch.
    """
    teacher, data = self.config.teacher, self.config.data
    keys = {key: f'data.{key}' for key in ('scales', 'num_workers')}
    with named_by_keys('teacher', keys):
      return make_cache(
        teacher.cache,
        cache_dtype=teacher.cache_dtype,
        cache_dir=paths.expand(teacher.cache_dir, argument='cache_dir'),
        batch_norm=teacher.batch_norm,
        scales=data.scales,
        num_workers=data.num_workers,
        mirrored=data.flip,
        source=self.train_source,
        missing=self.dataset.missing_sample(),
        frames=self._frames,
        train=self._train_batches,
      )

  def check_cache(self, stage: Stage) -> str:
    """What is to be said of a stage's cache of teachers, or ''.

    Raises:
      InputError: there is no room for it.
    """
    if stage.cache is None or stage.trained_in is not None:
      return ''
    with named_by_keys('teacher'):
      return stage.cache.check(stage)

  # ---- Data ------------------------------------------------------------------

  @functools.cached_property
  def data(self) -> StageData:
    """The batches of every stage."""
    reported, chosen_on = self.config.data.eval_split, select_split(self.config)
    share = self.config.batch_size // jax.process_count()
    return StageData(
      image_size=self.dataset.image_size,
      batch={
        name: jax.ShapeDtypeStruct((share, *x.shape), x.dtype)
        for name, x in self.dataset.missing_sample().items()
      },
      steps_per_epoch=self.steps_per_epoch,
      train=self._train_batches,
      eval=functools.partial(self._eval_batches, reported),
      select=None
      if chosen_on == reported
      else functools.partial(self._eval_batches, chosen_on),
    )

  def train_source(self) -> Source:
    """The training samples, with the labels that they keep.

    Raises:
      InputError: config.data.label_fraction cannot be used.
    """
    data = self.config.data
    fraction = data.label_fraction
    if isinstance(fraction, ConfigDict):
      fraction = fraction.to_dict()
    with named_by_keys('data', {'fraction': 'data.label_fraction'}):
      return hide_labels(
        self.dataset.source(data.train_split),
        labels={task: self.dataset.labels[task] for task in self.tasks},
        fraction=fraction,
        seed=self.config.seed,
      )

  def _train_batches(self, start_step, attach=None):
    config = self.config
    rules = {
      name: task.augmentation
      for name, task in self.tasks.items()
      if task.augmentation is not None
    }
    return loader.train_batches(
      self.dataset,
      self.train_source(),
      rules=rules,
      batch_size=config.batch_size,
      epochs=config.epochs,
      start_step=start_step,
      seed=config.seed,
      scales=config.data.scales,
      flip=config.data.flip,
      num_workers=config.data.num_workers,
      attach=attach,
    )

  def _frames(self):
    """The training split, once and in order."""
    return loader.eval_batches(
      self.dataset,
      self.train_source(),
      batch_size=self.config.batch_size,
      num_workers=self.config.data.num_workers,
    )

  def _eval_batches(self, split):
    return loader.eval_batches(
      self.dataset,
      self.dataset.source(split),
      batch_size=self.config.batch_size,
      num_workers=self.config.data.num_workers,
    )

  # ---- How long, and what is reported ----------------------------------------

  @property
  def intervals(self) -> Intervals:
    """How often a stage logs, saves and evaluates."""
    config, epoch = self.config, self.steps_per_epoch
    return Intervals(
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
      measure=config.balancing.observe_every,
    )

  @property
  def num_pictures(self) -> int:
    """How many samples of the reported split this process keeps to draw.

    Those that pad its last batch are none.
    """
    samples = len(self.dataset.source(self.config.data.eval_split))
    share = loader.share_size(samples, self.config.batch_size)
    return min(self.config.report.images, share)

  @property
  def average_epochs(self) -> int:
    """Over how many last epochs metrics are averaged; 0 for none."""
    return min(self.config.report.average_epochs, self.config.epochs)


def select_split(config: ConfigDict) -> str:
  """The split that checkpoints are chosen on."""
  data = config.data
  default = HELD_OUT if data.val_fraction else data.eval_split
  return data.select_split or default


def source_of_teachers(config: ConfigDict) -> pathlib.Path | None:
  """The workdir that teachers are taken from; None where they are trained."""
  workdir = config.teacher.workdir
  if not workdir:
    return None
  with named_by_keys('teacher'):
    return buckets.absolute(paths.expand(workdir, argument='workdir'))
