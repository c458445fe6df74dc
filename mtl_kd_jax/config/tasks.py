"""config.task -> descriptions of tasks, in plain values."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.kinds import options_of, parse

# What an image-level task is distilled by, where nothing else is said.
POOLED = ('pooled',)
DEFAULT_LAMBDA = 1.0


def described(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Task -> its description, of those of config.tasks that have one.

  Raises:
    InputError: one is no mapping.
  """
  found = {}
  for name in config.tasks:
    if name not in config.task:
      continue
    entry = config.task[name]
    if not isinstance(entry, ConfigDict):
      raise InputError(
        expected="a description, such as {'kind': 'depth'}",
        found=repr(entry),
        where=f'config.task.{name}',
        argument=name,
        do='correct it in the config file (docs/own_tasks.md)',
      )
    found[name] = entry.to_dict()
  return found


def of_data(
  descriptions: Mapping[str, Mapping[str, Any]], *, reads_maps: bool
) -> dict[str, dict[str, Any]]:
  """What tasks are made by: descriptions without what the data set reads.

  Args:
    descriptions: of `described`.
    reads_maps: whether the data set reads what the kinds do not know.

  Raises:
    InputError: nobody knows an entry.
  """
  tasks = {}
  for name, description in descriptions.items():
    with named_by_keys(f'task.{name}'):
      parsed = parse(description)
      if parsed.others and not reads_maps:
        key = next(iter(parsed.others))
        known = options_of(parsed.kind) if parsed.kind else ['kind', 'head']
        raise InputError(
          expected=f'entries of a description: {", ".join(known)}',
          found=repr(key),
          argument=key,
          do=f'correct it{hint(key, known)}; files are read by the data set '
          "'folder'"
          + ('' if parsed.kind else "; options of a kind need 'kind'"),
        )
    tasks[name] = {
      k: v for k, v in description.items() if k not in parsed.others
    }
  return tasks


def taps_of(
  config: ConfigDict, tasks: Mapping[str, Task]
) -> dict[str, tuple[str, ...]]:
  """Task -> the features that are aligned for it."""
  own = {n: parse(d).taps for n, d in described(config).items()}
  return {
    name: own.get(name)
    or (POOLED if task.of_image else tuple(config.distill.taps))
    for name, task in tasks.items()
  }


def lambdas(config: ConfigDict, tasks: Mapping[str, Any]) -> dict[str, float]:
  """Task -> lambda; 1 for a task that config.distill.weights does not have."""
  weights = config.distill.weights
  return {
    t: float(weights[t]) if t in weights else DEFAULT_LAMBDA for t in tasks
  }
