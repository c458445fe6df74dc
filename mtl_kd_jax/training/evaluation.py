"""A whole split -> metrics, and predictions for the pictures."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.tasks.base import Task, merge

Metrics = dict[str, dict[str, float]]  # task -> metric -> value


class Evaluation(NamedTuple):
  """How one network does on one split.

  Attributes:
    metrics: task -> metric -> value.
    predictions: task -> float [n h w c], for the first n samples of this
      process.
    samples: those samples: 'image' float [n h w 3], task -> label [n h w (c)].
  """

  metrics: Metrics
  predictions: dict[str, np.ndarray]
  samples: dict[str, np.ndarray]


def evaluate(
  eval_step: Callable,
  variables: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
  *,
  parallel: Parallel,
  keep: int = 0,
) -> Evaluation:
  """Scores every sample of a split, once.

  Args:
    eval_step: compiled (variables, batch) -> (statistics, predictions).
    variables: of the network.
    batches: this process's share of the split.
    tasks: the tasks to score.
    parallel: places the batches.
    keep: how many samples to keep with their predictions, the first of this
      process.
  """
  total = None
  samples, kept = [], []
  for batch in batches:
    statistics, predictions = eval_step(variables, parallel.shard(batch))
    if sum(len(sample['image']) for sample in samples) < keep:
      samples.append(batch)
      kept.append(parallel.local(predictions))
    statistics = jax.device_get(statistics)
    total = statistics if total is None else merge(total, statistics)
  return Evaluation(
    metrics={name: task.metrics(total[name]) for name, task in tasks.items()},
    predictions=_first(kept, tasks, keep),
    samples=_first(samples, ('image', *tasks), keep),
  )


def _first(parts, names, count) -> dict[str, np.ndarray]:
  """The first entries of arrays that come in parts; {} for no parts."""
  return {
    name: np.concatenate([part[name] for part in parts])[:count]
    for name in (names if parts else ())
  }
