"""config.data.sets -> one dataset, mixed of one for each task or domain."""

from collections.abc import Callable, Iterator
import contextlib
import copy

from ml_collections import ConfigDict

from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.datasets import Dataset
from mtl_kd_jax.datasets.mixture import Part, mix
from mtl_kd_jax.errors import InputError, hint

# Of an entry; all others are keys of config.data.
_LABELS, _RATE = 'labels', 'rate'


def open_sets(
  config: ConfigDict, open_one: Callable[[ConfigDict], Dataset]
) -> Dataset:
  """Opens the datasets of config.data.sets, and mixes them.

  Args:
    config: the experiment.
    open_one: opens the dataset of config.data, without sets.

  Raises:
    InputError: one cannot be opened, or they do not go together.
  """
  parts = {}
  for name, entry in config.data.sets.items():
    key = f'data.sets.{name}'
    if not isinstance(entry, ConfigDict):
      raise InputError(
        expected="keys of config.data, such as {'name': 'folder'}",
        found=repr(entry),
        where=f'config.{key}',
        argument=name,
        do='correct it in the config file (docs/own_tasks.md)',
      )
    settings = entry.to_dict()
    labels, rate = settings.pop(_LABELS, {}), settings.pop(_RATE, 1.0)
    tasks = tuple(labels) or ((name,) if name in config.tasks else config.tasks)
    with _named_by(name):
      dataset = open_one(_config_of(config, tasks, settings, key))
    labels = labels or _default_labels(name, tasks, dataset)
    parts[name] = Part(dataset, labels, rate)
  with named_by_keys('data.sets', {'image_size': 'data.image_size'}):
    return mix(parts, image_size=tuple(config.data.image_size) or None)


def _config_of(config, tasks, settings, key) -> ConfigDict:
  """The experiment with one of the datasets alone."""
  # With references still in it: some data sets read what config.tasks says.
  mine = copy.deepcopy(config)
  with mine.unlocked():
    mine.data.sets = ConfigDict()
    mine.tasks = tasks
  override(
    mine,
    {f'data.{k}': v for k, v in settings.items()},
    argument=f'config.{key}',
  )
  return mine.copy_and_resolve_references().lock()


def _default_labels(name, tasks, dataset: Dataset) -> dict[str, str]:
  """Task -> label, where the config does not say."""
  found = {task: task for task in tasks if task in dataset.labels}
  if not found and len(tasks) == len(dataset.labels) == 1:
    return {tasks[0]: next(iter(dataset.labels))}
  if not found:
    raise InputError(
      expected=f'which of its labels ({", ".join(dataset.labels)}) the tasks '
      f'{", ".join(tasks)} learn',
      found='none of that name',
      where=f'config.data.sets.{name}',
      argument=_LABELS,
      do=f"say 'labels': {{'{tasks[0]}': '{next(iter(dataset.labels))}'}}"
      + hint(tasks[0], dataset.labels),
    )
  return found


@contextlib.contextmanager
def _named_by(name: str) -> Iterator[None]:
  """Errors about config.data name the entry in which it stands."""
  try:
    yield
  except InputError as error:
    old, new = 'config.data.', f'config.data.sets.{name}.'
    if not error.where.startswith(old):
      raise
    raise InputError(
      expected=error.expected,
      found=error.found,
      where=error.where.replace(old, new, 1),
      do=error.do.replace(f'--{old}', f'--{new}'),
      argument=error.argument,
    ) from error
