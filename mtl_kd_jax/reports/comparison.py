"""Trained networks -> the rows of a table, where they can be compared."""

from collections.abc import Iterable, Iterator, Mapping
import math
from typing import Any

from mtl_kd_jax.errors import InputError, what_is
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import row_of


def compare(
  networks: Iterable[Any],
) -> tuple[dict[str, Metrics], dict[str, Task]]:
  """Collects the metrics of networks.

  Args:
    networks: `TrainedNetwork`s, or mappings of them.

  Returns:
    Row -> task -> metric -> value; and the tasks.

  Raises:
    InputError: there is no network, or something else; a network has no
      metrics; two networks with different metrics of a task share a row, or
      differ in the meaning of its label.
  """
  rows: dict[str, Metrics] = {}
  tasks: dict[str, Task] = {}
  owners = {}  # (row, task) -> the first network with it, and its metrics
  for network in _flat(networks):
    _check(network)
    row = row_of(network.name, tuple(network.tasks))
    for name, task in network.tasks.items():
      _check_meaning(tasks.setdefault(name, task), task, network)
    for task, metrics in _numbers(network).items():
      other, known = owners.setdefault((row, task), (network, metrics))
      if not _equal(known, metrics):
        raise InputError(
          expected=f'networks in rows of their own, or with the same {task}',
          found=f'{_describe(other)} and {_describe(network)}, both in row '
          f'{row!r}',
          argument='networks',
          do='rename one of them: dataclasses.replace(network, name=...)',
        )
      rows.setdefault(row, {})[task] = metrics
  if not rows:
    raise InputError(
      expected='one or more trained networks',
      found='none',
      argument='networks',
      do='name some: table(network, ...), or table(load(workdir))',
    )
  return rows, tasks


def _flat(networks) -> Iterator[Any]:
  for network in networks:
    if isinstance(network, Mapping):
      yield from _flat(network.values())
    else:
      yield network


def _check(network) -> None:
  known = all(hasattr(network, x) for x in ('name', 'tasks', 'metrics'))
  if not known or not isinstance(network.tasks, Mapping) or not network.tasks:
    raise InputError(
      expected='trained networks, or mappings of them',
      found=what_is(network),
      argument='networks',
      do='open a run: table(load(workdir)); of a list: table(*networks)',
    )
  if not isinstance(network.name, str):
    raise InputError(
      expected='networks with names',
      found=repr(network.name),
      argument='networks',
      do='name it: dataclasses.replace(network, name=...)',
    )
  if network.metrics is None or network.metrics == {}:
    raise InputError(
      expected='networks with metrics',
      found=f'{network.name} without',
      argument='networks',
      do='score it first, e.g. mtl_kd_jax.evaluate(workdir)',
    )


def _check_meaning(task: Task, other: Task, network) -> None:
  """Checks that the numbers of two networks say something of each other."""
  expected, found = _meaning(task), _meaning(other)
  if expected != found:
    raise InputError(
      expected=f'networks with the same label of {task.name}: '
      f'{_shortened(expected)}',
      found=f'{_shortened(found)} of {_describe(network)}',
      argument='networks',
      do='make a table for each',
    )


def _meaning(task: Task) -> str:
  label = task.label
  if label is None:
    return f'{task.channels} channels'
  return ', '.join(filter(None, (label.quantity, label.unit, *label.classes)))


def _shortened(text: str) -> str:
  return text if len(text) < 80 else f'{text[:80]}...'


def _numbers(network) -> Metrics:
  """The metrics of a network as floats; NaN for None."""
  try:
    return {
      task: {m: _float(x) for m, x in _mapping(metrics).items()}
      for task, metrics in _mapping(network.metrics).items()
    }
  except (OverflowError, TypeError, ValueError) as error:
    raise InputError(
      expected='metrics that are numbers: task -> metric -> value',
      found=f'{error}',
      where=f'the metrics of {_describe(network)}',
      argument='networks',
      do='score it again, e.g. mtl_kd_jax.evaluate(workdir)',
    ) from error


def _mapping(metrics) -> Mapping[str, Any]:
  if not isinstance(metrics, Mapping):
    raise TypeError(f'{metrics!r}')
  return metrics


def _float(value) -> float:
  if isinstance(value, str):  # not even '1.0'
    raise TypeError(f'{value!r}')
  return math.nan if value is None else float(value)


def _equal(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
  """Whether metrics are the same; NaN is the same as NaN."""
  return one.keys() == other.keys() and all(
    x == other[m] or (math.isnan(x) and math.isnan(other[m]))
    for m, x in one.items()
  )


def _describe(network) -> str:
  place = '' if network.workdir is None else f' of {network.workdir}'
  return f'{network.name!r}{place}'
