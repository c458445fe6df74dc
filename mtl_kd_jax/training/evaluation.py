"""A whole split -> metrics; and the gain of one network over others."""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.tasks.base import Metric, Task, merge

Metrics = dict[str, dict[str, float]]  # task -> metric -> value


class Evaluation(NamedTuple):
  """How one network does on one split.

  Attributes:
    metrics: task -> metric -> value.
    predictions: task -> float [n h w c], for the first n samples.
  """

  metrics: Metrics
  predictions: dict[str, np.ndarray]


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
    keep: how many predictions to keep, of the first samples.
  """
  total = None
  kept = []
  for batch in batches:
    statistics, predictions = eval_step(variables, parallel.shard(batch))
    if sum(len(batch['image']) for batch in kept) < keep:
      kept.append(parallel.local(predictions) | {'image': batch['image']})
    statistics = jax.device_get(statistics)
    total = statistics if total is None else merge(total, statistics)
  return Evaluation(
    metrics={name: task.metrics(total[name]) for name, task in tasks.items()},
    predictions={
      name: np.concatenate([part[name] for part in kept])[:keep]
      for name in (tasks if kept else ())
    },
  )


class Gain(NamedTuple):
  """One convention of the literature for 'how much better than single-task'.

  They share a Greek letter and contradict each other, in sign too.

  Attributes:
    column: how to read it.
    compute: (metrics, single-task metrics, tasks) -> percent.
  """

  column: Metric
  compute: Callable[[Metrics, Metrics, Mapping[str, Task]], float]


def relative_gains(
  metrics: Metrics, reference: Metrics, tasks: Mapping[str, Task]
) -> dict[str, float]:
  """The gain over single-task networks, in every convention of `GAINS`.

  Args:
    metrics: of the network in question.
    reference: of the single-task networks.
    tasks: the tasks they share.

  Returns:
    Percent by convention; NaN where a metric is NaN or a reference is 0.
  """
  return {
    name: gain.compute(metrics, reference, tasks)
    for name, gain in GAINS.items()
  }


def _improvements(metrics, reference, tasks, names):
  """Per task, the signed relative improvements of the named metrics."""
  return [
    [
      _improvement(metrics[t][m], reference[t][m], task.columns[m])
      for m in names(task)
    ]
    for t, task in tasks.items()
  ]


def _improvement(value, reference, column):
  if not reference:
    return math.nan
  sign = 1 if column.higher_is_better else -1
  return sign * 100 * (value - reference) / abs(reference)


def _headline(task):
  return [task.headline]


def _in_gain(task):
  return [name for name, column in task.columns.items() if column.in_gain]


def _delta_mtl(metrics, reference, tasks):
  per_task = _improvements(metrics, reference, tasks, _headline)
  return _mean(_mean(values) for values in per_task)


def _delta_m(metrics, reference, tasks):
  per_task = _improvements(metrics, reference, tasks, _in_gain)
  # Not -mean, which is -0 for the reference itself.
  return 0 - _mean(value for values in per_task for value in values)


def _delta_p(metrics, reference, tasks):
  per_task = _improvements(metrics, reference, tasks, _in_gain)
  return _mean(_mean(values) for values in per_task)


def _mean(values):
  values = list(values)
  return sum(values) / len(values)


GAINS = {
  # One headline metric per task (Vandenhende et al.; the distillation papers).
  'delta_mtl': Gain(Metric('ΔMTL', '%', True), _delta_mtl),
  # Every metric counts alike, as a *degradation* (CAGrad, Nash-MTL, FAMO).
  'delta_m': Gain(Metric('Δm', '%', False), _delta_m),
  # Metrics averaged within their task, then tasks (LibMTL).
  'delta_p': Gain(Metric('Δp', '%', True), _delta_p),
}
