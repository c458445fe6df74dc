"""Config -> dataset, tasks and devices, opened and checked."""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import datasets
from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.sets import open_sets
from mtl_kd_jax.config.tasks import described, of_data
from mtl_kd_jax.config.validate import check_steps, check_values
from mtl_kd_jax.datasets import Dataset, loader
from mtl_kd_jax.datasets.holdout import hold_out
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.tasks import Task, make_tasks
from mtl_kd_jax.training.computation import make_computation


def open_dataset(config: ConfigDict, *, data: bool = True) -> Dataset:
  """The dataset that the config names, or what is known of it unopened.

  Raises:
    InputError: the name is unknown, or the data cannot be opened.
  """
  if config.data.sets:
    return open_sets(config, functools.partial(_open_one, data=data))
  return _open_one(config, data=data)


def _open_one(config: ConfigDict, *, data: bool) -> Dataset:
  """That of config.data.name."""
  name = config.data.name
  options = {}
  # A dataset without options needs no section.
  if isinstance(section := config.data.get(name), ConfigDict):
    options = section.to_dict()
  open_it: Callable[..., Dataset] = datasets.make if data else datasets.preview
  keys = {key: f'data.{key}' for key in ('name', 'data_dir', 'manual_dir')}
  keys |= {'tasks': 'tasks', 'maps': 'task'}
  with named_by_keys(f'data.{name}', keys):
    if config.data.data_dir or 'data_dir' in datasets.options(name):
      options = {'data_dir': config.data.data_dir, **options}
    if _reads_maps(config) and (maps := described(config)):
      options['maps'] = maps
    return open_it(name, **options)


def _reads_maps(config: ConfigDict) -> bool:
  """Whether a data set reads maps that config.task describes."""
  sets = config.data.sets.values() if config.data.sets else [config.data]
  names = [entry.get('name', config.data.name) for entry in sets]
  return any('maps' in datasets.options(name) for name in names)


def build(
  config: ConfigDict,
  *,
  data: bool = True,
  dataset: Dataset | None = None,
  tasks: Mapping[str, Task] | None = None,
) -> Experiment:
  """Makes and checks what the config names, but for the stages.

  Args:
    config: see config/defaults.py.
    data: whether to open the dataset. Without, the stages can be made and
      initialized but not run: an epoch counts as one step.
    dataset: an open dataset, in place of the one that the config names.
    tasks: name -> a task of one's own, in place of the one that its label or
      config.task says.

  Raises:
    InputError: anything in it cannot be used, or the data are missing.
  """
  check_values(config)
  if config.parallel.multihost and not jax.distributed.is_initialized():
    raise InputError(
      expected='a process that has joined the others',
      found='one by itself',
      where='config.parallel.multihost',
      do='call mtl_kd_jax.runtime.platform.set_up(multihost=True) before '
      'anything else, as launch.py does',
    )
  with named_by_keys(keys={'mode': 'parallel.mode', 'fsdp': 'parallel.fsdp'}):
    parallel = make_parallel(
      config.parallel.mode,
      batch_size=config.batch_size,
      fsdp=config.parallel.fsdp,
    )
  with named_by_keys():
    computation = make_computation(
      config.precision,
      config.accumulate,
      device_batch=config.batch_size // parallel.num_devices,
    )
  given, dataset = dataset, dataset or open_dataset(config, data=data)
  descriptions = of_data(
    described(config),
    reads_maps=given is None and _reads_maps(config),
  )
  with named_by_keys(keys={'names': 'tasks', 'described': 'task'}):
    tasks = make_tasks(
      config.tasks,
      dataset.labels,
      dataset=dataset.name,
      described={**dataset.described, **descriptions, **(tasks or {})},
    )
  # Colors, and what mirroring exchanges, may come from config.task.
  labels = {**dataset.labels, **{name: t.label for name, t in tasks.items()}}
  dataset = dataclasses.replace(dataset, labels=labels)
  steps_per_epoch = 1
  if data:
    dataset, steps_per_epoch = _check_splits(config, dataset)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    tasks=tasks,
    parallel=parallel,
    steps_per_epoch=steps_per_epoch,
    computation=computation,
  )
  if data:
    experiment.train_source()  # checks which labels are to be kept
  return experiment


def _check_splits(config, dataset) -> tuple[Dataset, int]:
  """The dataset with the held-out share as a split, and an epoch's steps."""
  data = config.data
  splits = {
    'data.train_split': data.train_split,
    'data.eval_split': data.eval_split,
    'data.select_split': select_split(config),
  }
  if data.val_fraction:
    with named_by_keys(
      'data', {'fraction': 'data.val_fraction', 'split': 'data.train_split'}
    ):
      dataset = hold_out(
        dataset,
        data.train_split,
        fraction=data.val_fraction,
        seed=config.seed,
      )
  for key, split in splits.items():
    with named_by_keys(keys={'split': key}):
      source = dataset.source(split)  # exists
    if not len(source):
      raise InputError(
        expected='a sample',
        found='none',
        where=f'split {split!r} of {dataset.name}',
        do=f'name another split with --config.{key}=..., or correct the data',
      )
    if key == 'data.train_split':
      with named_by_keys():
        steps = loader.steps_per_epoch(len(source), config.batch_size)
      check_steps(config, steps)
  return dataset, steps
