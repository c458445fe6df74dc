"""A run, opened again: its config, its networks and what they scored.

  run = mtl_kd_jax.load('runs/quickstart')
  run['distilled'].predict(picture).depth

Opening a run and reading it change nothing in its folder.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mtl_kd_jax import models
from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.config.experiment import STUDENT, TEACHER
from mtl_kd_jax.config.stored import from_stored
from mtl_kd_jax.config.validate import value
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.labels import Label
from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.methods.multi_task import UNIFORM
from mtl_kd_jax.models.network import Network, NetworkSpec, abstract_init
from mtl_kd_jax.runtime import checkpointing
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.statistics import (
  STATISTICS,
  with_statistics,
  write_statistics,
)
from mtl_kd_jax.tasks import TASKS, Task, make_tasks
from mtl_kd_jax.tasks.given import check_given
from mtl_kd_jax.tasks.kinds import find_own, kind_of
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import (
  SINGLE_TASK,
  Stage,
  row_of,
  single_task_name,
)


class Run(Mapping[str, TrainedNetwork]):
  """A workdir: stage -> the network that it trained.

  Of a run that is still going on it holds the stages that are finished.
  Networks are read when they are asked for.

  Attributes:
    workdir: the folder.
  """

  def __init__(self, workdir: pathlib.Path | str):
    """Opens a run.

    Args:
      workdir: of a run or an import, also of an earlier version.

    Raises:
      InputError: it is none.
    """
    self.workdir = paths.expand(workdir, argument='workdir')
    self._config = workdirs.read_config(self.workdir)

  @functools.cached_property
  def config(self) -> ConfigDict:
    """The config that it was started with, under the keys of this version."""
    return from_stored(self._config, where=f'{self.workdir / "config.json"}')

  @functools.cached_property
  def plan(self) -> dict[str, dict[str, Any]]:
    """Stage -> its 'row' in the table, and the run it was 'trained_in'.

    Of all stages that were planned, finished or not, in their order.
    """
    return workdirs.read_plan(self.workdir) or _plan_of(self.config)

  @property
  def log(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl: losses, metrics and gradients."""
    return read_log(self.workdir)

  @property
  def metrics(self) -> dict[str, Metrics]:
    """Stage -> task -> metric -> value, on the split that is reported."""
    found = {n: workdirs.read_metrics(self.workdir, n) for n in self}
    return {name: metrics for name, metrics in found.items() if metrics}

  def single_task_metrics(self) -> Metrics:
    """What single-task networks scored on the split that selects checkpoints.

    Task -> metric -> value, of the networks that gains are relative to.
    """
    metrics: Metrics = {}
    for name, about in self.plan.items():
      if about['row'] == SINGLE_TASK and name in self:
        metrics |= (
          workdirs.read_metrics(self.workdir, name, selected=True) or {}
        )
    return metrics

  def __iter__(self) -> Iterator[str]:
    """The names of finished stages, in the order of the plan."""
    there = workdirs.stage_names(self.workdir)
    planned = [name for name in self.plan if name in there]
    return (n for n in dict.fromkeys([*planned, *there]) if n in self)

  def __len__(self) -> int:
    return len(list(iter(self)))

  def __contains__(self, name: object) -> bool:
    return isinstance(name, str) and checkpointing.is_finished(
      self._folder(name)
    )

  def __getitem__(self, name: str) -> TrainedNetwork:
    return self.network(name)

  def get(self, name: str, default: Any = None) -> Any:
    """The network of a stage; `default` where it is not finished."""
    return self.network(name) if name in self else default

  def network(
    self,
    name: str,
    *,
    best: bool | None = None,
    module: Network | None = None,
    recalibrated: bool = True,
    tasks: Mapping[str, Task] | None = None,
  ) -> TrainedNetwork:
    """The network of a stage, as it was chosen.

    Args:
      name: of the stage.
      best: whether to take the checkpoint with the highest score instead of the
        last; None for what the run's config says.
      module: the network, for one that was not made by `models.make`.
      recalibrated: whether to take the statistics of BatchNorm that were
        computed anew, where there are any, instead of the running means.
      tasks: name -> task, of those that were tasks of one's own when it was
        trained.

    Raises:
      InputError: there is no such stage, it is not finished or damaged, or its
        network cannot be made.
    """
    if name not in self:
      raise self._not_finished(name)
    described = self._described(name)
    made = described.make_tasks(tasks)
    network = module or described.network(tasks)
    _, like = abstract_init(network, described.image_size)
    variables = checkpointing.read_variables(
      self._folder(name),
      like,
      best=self.config.select == 'best' if best is None else best,
    )
    over = 0 if variables.get(STATISTICS) else None
    if recalibrated:
      variables, over = with_statistics(self._folder(name), variables)
    return TrainedNetwork(
      name=name,
      network=network,
      variables=variables,
      tasks=made,
      image_size=described.image_size,
      metrics=workdirs.read_metrics(self.workdir, name),
      workdir=self.workdir,
      recalibrated_over=over,
    )

  def tasks(self, name: str) -> dict[str, Task]:
    """The tasks of a stage; its network is not read.

    Args:
      name: of the stage.

    Raises:
      InputError: there is no such stage, or it is not finished.
    """
    if name not in self:
      raise self._not_finished(name)
    return self._described(name).make_tasks()

  def __repr__(self) -> str:
    return (
      f'Run({str(self.workdir)!r}): {", ".join(self) or "nothing finished"}'
    )

  def _folder(self, name) -> pathlib.Path:
    return workdirs.checkpoint_dir(self.workdir, name)

  def _described(self, name) -> 'NetworkDescription':
    written = workdirs.read_stage(self.workdir, name)
    if written is None:
      return _from_config(self.config, name)
    where = f'{self._folder(name) / "stage.json"}'
    return parse_description(written.get('network'), where)

  def _not_finished(self, name) -> InputError:
    check_type(
      name,
      str,
      expected=f'the name of a stage: {", ".join(self) or "none is finished"}',
      argument='name',
      do="give one, such as run['distilled']",
    )
    there = ', '.join(self) or 'nothing yet'
    step = checkpointing.latest_step(self._folder(name))
    return InputError(
      expected=f'a finished run, or what is finished of it: {there}',
      found=f'{name!r} at step {step}' if step is not None else f'no {name!r}',
      where=f'{self.workdir}',
      do='name what there is, or run the training to its end first',
    )


@dataclasses.dataclass(frozen=True)
class NetworkDescription:
  """What has to be known of a network to make it again, in plain values.

  Attributes:
    spec: of `models.NetworkSpec`; None for a network made by hand.
    image_size: (height, width) in pixels, of the images it was trained on.
    labels: task -> attributes of its `Label`.
    tasks: task -> its description, of those that are not what their label says;
      'kind' is '' for one that was given as a `Task`.
  """

  spec: Mapping[str, Any] | None
  image_size: tuple[int, int]
  labels: Mapping[str, Mapping[str, Any]]
  tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )

  def make_tasks(
    self, own: Mapping[str, Task] | None = None
  ) -> dict[str, Task]:
    """The tasks, made of their labels and descriptions.

    Args:
      own: name -> task, of those that were given as a `Task`.

    Raises:
      InputError: one of these is missing.
    """
    labels = {t: _label(**label) for t, label in self.labels.items()}
    check_given(own or {}, labels)
    for name, description in self.tasks.items():
      if not description['kind'] and name not in (own or {}):
        raise InputError(
          expected=f'the task {name}, which was given to the training as an '
          'object',
          found='none',
          argument='tasks',
          do=f"give it: run.network(..., tasks={{'{name}': ...}})",
        )
    return make_tasks(
      labels,
      labels,
      dataset='the run',
      described={**self.tasks, **(own or {})},
    )

  def network(self, own: Mapping[str, Task] | None = None) -> Network:
    """The network, without variables; see `make_tasks`."""
    if self.spec is None:
      raise InputError(
        expected='a network that was made by models.make',
        found='one that was put together by hand',
        argument='module',
        do='give the network: run.network(name, module=...)',
      )
    spec = dict(self.spec)
    return models.make(spec.pop('backbone'), self.make_tasks(own), **spec)


def parse_description(network: Any, where: str) -> NetworkDescription:
  """What stage.json says of a network; raises InputError where it is none."""
  network = network if isinstance(network, Mapping) else {'network': network}
  checks = {'spec': _is_spec, 'image_size': _is_size, 'labels': _are_labels}
  checks['tasks'] = _are_descriptions
  network = {'tasks': {}, **network}
  for key in network.keys() | checks.keys():
    value = network.get(key)
    if key not in checks or not checks[key](value):
      raise InputError(
        expected='a description of a network: spec, image_size and labels',
        found=f'{key}: {json.dumps(value)[:80]}',
        where=where,
        do='restore the file; a network can also be trained or imported again',
      )
  size = tuple(network['image_size'])  # JSON has no tuples
  return NetworkDescription(**{**network, 'image_size': size})


def _is_spec(spec) -> bool:
  kinds = {'backbone': str, 'head': str, 'width': int | float}
  kinds['output_stride'] = int
  assert kinds.keys() == set(NetworkSpec._fields)
  return spec is None or _is_like(spec, kinds)


def _is_size(size) -> bool:
  return _is_list(size, int) and len(size) == 2 and min(size) > 0


def _are_labels(labels) -> bool:
  kinds = {'quantity': str, 'unit': str, 'classes': list, 'colors': list}
  newer = {'channels': int, 'pairs': list}
  return isinstance(labels, Mapping) and all(
    isinstance(label, Mapping)
    and _is_like(label, kinds | {k: newer[k] for k in newer if k in label})
    and _is_list(label['classes'], str)
    and all(_is_list(c, int) and len(c) == 3 for c in label['colors'])
    and all(_is_list(c, int) and len(c) == 2 for c in label.get('pairs', ()))
    for label in labels.values()
  )


def _are_descriptions(tasks) -> bool:
  return isinstance(tasks, Mapping) and all(
    isinstance(described, Mapping) and isinstance(described.get('kind'), str)
    for described in tasks.values()
  )


def _is_like(entry, kinds) -> bool:
  return (
    isinstance(entry, Mapping)
    and entry.keys() == kinds.keys()
    and all(isinstance(entry[key], kind) for key, kind in kinds.items())
  )


def _is_list(values, kind) -> bool:
  return isinstance(values, list) and all(isinstance(x, kind) for x in values)


def describe_network(
  network: Network, tasks: Mapping[str, Task], image_size: tuple[int, int]
) -> dict[str, Any]:
  """What `NetworkDescription` is made of, to be written down."""
  spec = network.spec
  described = {t: _describe_task(task) for t, task in tasks.items()}
  described = {t: about for t, about in described.items() if about is not None}
  return {
    'spec': None if spec is None else spec._asdict(),
    'image_size': tuple(image_size),
    'labels': {t: _describe_label(task.label) for t, task in tasks.items()},
    # Not there where the labels say it all, as in earlier versions.
    **({'tasks': described} if described else {}),
  }


def _describe_label(label: Label) -> dict[str, Any]:
  """The attributes of a label, of the newer ones those that say something."""
  return {
    key: value
    for key, value in dataclasses.asdict(label).items()
    if value or key not in ('channels', 'pairs')
  }


def _describe_task(task: Task) -> dict[str, Any] | None:
  """What `make_task` needs beside the label; None for nothing."""
  if not task.kind and (task.name in TASKS or find_own(task.name)):
    return None
  by_label = task.kind == kind_of(task.label)
  head = {'head': task.head} if task.head else {}
  if by_label and not task.options and not head:
    return None
  return {'kind': task.kind, **task.options, **head}


def describe_stage(stage: Stage) -> dict[str, Any]:
  """What is written down of a stage."""
  network = describe_network(stage.network, stage.tasks, stage.data.image_size)
  return {
    'network': network,
    'steps_per_epoch': stage.data.steps_per_epoch,
    **stage.description,
  }


def write_run(
  workdir: pathlib.Path | str,
  config: Mapping[str, Any],
  networks: Mapping[str, TrainedNetwork],
) -> 'Run':
  """Makes a run of networks that come from elsewhere: imported, averaged.

  It can be opened, evaluated and taught with as if it had been trained.

  Args:
    workdir: a folder without these networks.
    config: of the run, a nested dictionary; what is not in it is that of
      config/defaults.py, and the tasks are those of the networks.
    networks: name -> network.

  Raises:
    InputError: the folder belongs to another config, holds one of the networks
      already, has another run in it, or cannot be written to.
  """
  workdir = paths.expand(workdir, argument='workdir')
  tasks = dict.fromkeys(t for x in networks.values() for t in x.tasks)
  whole = {'data': {}, 'tasks': list(tasks), **config}
  config = from_stored(whole, where='argument config').to_dict()
  for name in networks:
    folder = workdirs.checkpoint_dir(workdir, name)
    if folder.exists():
      raise InputError(
        expected=f'a workdir without a stage {name}',
        found='a checkpoint of it, which is left as it is',
        where=f'{folder}',
        argument='workdir',
        do='choose another folder',
      )
  stored = None
  if workdirs.is_workdir(workdir):
    # An earlier version may have written fewer keys.
    stored = Run(workdir).config.to_dict()
  workdirs.check(workdir, config, stored=stored)
  with exclusive(workdir):
    workdirs.claim(workdir, config, stored=stored)
    _write_networks(workdir, networks)
  return Run(workdir)


def _write_networks(workdir, networks) -> None:
  plan = workdirs.read_plan(workdir) or {}
  for name, trained in networks.items():
    plan.setdefault(name, {'row': row_of(name, tuple(trained.tasks))})
  workdirs.write_plan(workdir, plan)
  for name, trained in networks.items():
    described = describe_network(
      trained.network, trained.tasks, trained.image_size
    )
    workdirs.claim_stage(workdir, name, {'network': described})
    folder = workdirs.checkpoint_dir(workdir, name)
    checkpoints = checkpointing.Checkpoints(folder)
    collections = dict(trained.variables)
    params = collections.pop('params')
    state = {'step': np.int32(0), 'params': params, 'collections': collections}
    checkpoints.save(0, state, finished=True)
    checkpoints.close()
    if over := trained.recalibrated_over:
      write_statistics(folder, trained.variables, num_batches=over)


def _label(*, classes, colors, pairs=(), **label) -> Label:
  """A label of plain values; JSON has no tuples."""
  return Label(
    classes=tuple(classes),
    colors=tuple(map(tuple, colors)),
    pairs=tuple(map(tuple, pairs)),
    **label,
  )


def _plan_of(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Of a run of an earlier version, which had one method."""
  elsewhere = config.teacher.workdir or None
  plan = {
    single_task_name(task): {'row': SINGLE_TASK, 'trained_in': elsewhere}
    for task in config.tasks
  }
  multi_task = [UNIFORM] * bool(config.baseline) + [DISTILLED]
  return plan | {name: {'row': name} for name in multi_task}


def _from_config(config: ConfigDict, name: str) -> NetworkDescription:
  """Of a stage that an earlier version trained, which wrote only the config."""
  of_task = {single_task_name(task): task for task in config.tasks}
  section = TEACHER if name in of_task else STUDENT
  dataset = open_dataset(config, data=False)
  model = value(config, section)
  tasks = (of_task[name],) if name in of_task else config.tasks
  return NetworkDescription(
    spec={
      'backbone': model.backbone,
      'head': model.head,
      'width': model.width,
      'output_stride': model.output_stride,
    },
    image_size=dataset.image_size,
    labels={t: _describe_label(dataset.labels[t]) for t in tasks},
  )
