"""Relative gain over single-task networks, in three conventions.

The conventions share the letter delta and contradict each other, in sign too,
so a table that prints one has to say which.
"""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import NamedTuple

from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.evaluation import Metrics


class Gain(NamedTuple):
  """One convention.

  Attributes:
    column: title, unit and direction.
    compute: (metrics, single-task metrics, tasks) -> percent.
  """

  column: Metric
  compute: Callable[[Metrics, Metrics, Mapping[str, Task]], float]


def relative_gains(
  metrics: Metrics, reference: Metrics, tasks: Mapping[str, Task]
) -> dict[str, float]:
  """Computes the gain over single-task networks in every convention.

  Args:
    metrics: task -> metric -> value, of the network to compare.
    reference: the same of the single-task networks; {} if there are none.
    tasks: the tasks to compare.

  Returns:
    Convention -> percent. NaN where a metric that counts is NaN or missing on
    either side, or where its reference is 0.
  """
  return {
    name: gain.compute(metrics, reference, tasks)
    for name, gain in GAINS.items()
  }


def headline_gains(
  metrics: Metrics, reference: Metrics, tasks: Mapping[str, Task]
) -> dict[str, float]:
  """Percent by which each task's headline metric is better; NaN for unknown."""
  per_task = _improvements(metrics, reference, tasks, _headline)
  return {t: x for t, (x,) in zip(tasks, per_task, strict=True)}


def _improvements(metrics, reference, tasks, names) -> list[list[float]]:
  """For each task, the improvement of the metrics that `names` picks."""
  return [
    [
      _improvement(_get(metrics, t, m), _get(reference, t, m), task.columns[m])
      for m in names(task)
    ]
    for t, task in tasks.items()
  ]


def _get(metrics: Metrics, task: str, metric: str) -> float:
  return metrics.get(task, {}).get(metric, math.nan)


def _improvement(value: float, reference: float, column: Metric) -> float:
  """Percent of the reference; positive is better."""
  if not reference:
    return math.nan
  sign = 1 if column.higher_is_better else -1
  return sign * 100 * (value - reference) / abs(reference)


def _headline(task: Task) -> list[str]:
  return [task.headline]


def _in_gain(task: Task) -> list[str]:
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


def _mean(values: Iterable[float]) -> float:
  values = list(values)
  return sum(values) / len(values) if values else math.nan


GAINS = {
  # One headline metric for each task: Vandenhende et al., "Multi-Task Learning
  # for Dense Prediction Tasks: A Survey" (PAMI 2021).
  'delta_mtl': Gain(Metric('ΔMTL', '%', True), _delta_mtl),
  # Every metric counts alike, as a *degradation*: CAGrad (Liu et al. 2021),
  # Nash-MTL (Navon et al. 2022), FAMO (Liu et al. 2023).
  'delta_m': Gain(Metric('Δm', '%', False), _delta_m),
  # Mean over the metrics of each task, then over tasks: LibMTL (Lin & Zhang
  # 2023).
  'delta_p': Gain(Metric('Δp', '%', True), _delta_p),
}
