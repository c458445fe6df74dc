"""Which samples a page shows: the worst, the best, and the first ones."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.tasks import Task

_SHOWN = 8  # samples beside the worst and the best one
_FEWEST = 3  # samples to be ranked


class Choice(NamedTuple):
  """The samples of a page.

  Attributes:
    shown: their indices, the worst and the best one first.
    network: the row that they are ranked for.
    worst: index of the worst one; None where they are not ranked.
    best: index of the best one, or None.
    ranked: how many samples were ranked.
  """

  shown: Sequence[int]
  network: str
  worst: int | None = None
  best: int | None = None
  ranked: int = 0


def choose(
  samples: Mapping[str, np.ndarray],
  predictions: Mapping[str, Mapping[str, np.ndarray]],
  tasks: Mapping[str, Task],
) -> Choice:
  """Chooses samples by how well one network does on each of them.

  Args:
    samples: 'image' float [n h w 3], and task -> label [n h w (c)].
    predictions: row -> task -> of `Evaluation`.
    tasks: the tasks.

  Returns:
    Up to eight samples from the first on, and the worst and the best of all for
    the distilled network or else the last row: by the mean over tasks of their
    ranks in the task's headline metric.
  """
  network = DISTILLED if DISTILLED in predictions else [*predictions][-1]
  count = len(samples['image'])
  first = list(range(min(_SHOWN, count)))
  scores = {
    name: np.array(
      [headline(task, x, y) for x, y in zip(own, samples[name], strict=True)]
    )
    for name, task in tasks.items()
    if name in samples
    for own in [predictions[network].get(name)]
    if own is not None
  }
  badness = mean_ranks(scores, tasks)
  known = np.flatnonzero(~np.isnan(badness))
  if len(known) < _FEWEST:
    return Choice(first, network)
  worst = int(known[np.argmax(badness[known])])
  best = int(known[np.argmin(badness[known])])
  shown = list(dict.fromkeys([worst, best, *first]))
  return Choice(shown, network, worst, best, len(known))


def headline(task: Task, prediction: np.ndarray, label: np.ndarray) -> float:
  """The headline metric of one image; NaN where it has no label.

  Args:
    task: the task.
    prediction: what is kept of the image's.
    label: of the image.
  """
  prediction, label = task.form.restore(prediction[None]), label[None]
  # Compiled once: compilations belong to the function, not to the call.
  compute = jax.jit(task.statistics)
  statistics = compute(prediction, label, task.valid(label))
  return task.metrics(jax.device_get(statistics))[task.headline]


def mean_ranks(
  scores: Mapping[str, np.ndarray], tasks: Mapping[str, Task]
) -> np.ndarray:
  """The mean rank of every sample over the tasks that it has labels of.

  Args:
    scores: task -> headline metric of every sample [n], NaN for no label.
    tasks: the tasks, for the direction.

  Returns:
    float [n] from 0, the best of all in every task, to 1; NaN where a sample
    has no label at all.
  """
  ranks = []
  for name, values in scores.items():
    known = np.isfinite(values)
    signed = -values if tasks[name].higher_is_better else values
    rank = np.full(len(values), np.nan)
    rank[known] = _ranks(signed[known]) / max(known.sum() - 1, 1)
    ranks.append(rank)
  if not ranks:
    return np.zeros(0)
  table = np.array(ranks)
  count = (~np.isnan(table)).sum(axis=0)
  total = np.nansum(table, axis=0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ranks(values: np.ndarray) -> np.ndarray:
  """Ranks from 0; equal values share the mean of theirs.

  Not `scipy.stats.rankdata`: to import that takes a second of every training.
  """
  _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(sizes) - (sizes + 1) / 2)[group]
