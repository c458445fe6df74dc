"""A whole split -> metrics, and samples with predictions for the reports."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.tasks.base import Task, merge

Metrics = dict[str, dict[str, float]]  # task -> metric -> value

# Samples among which a report finds the worst and the best one: so many, or
# fewer large ones, which would fill the memory.
_MOST_SAMPLES, _MOST_PIXELS = 64, 2**21


class Evaluation(NamedTuple):
  """How one network does on one split.

  Attributes:
    metrics: task -> metric -> value.
    predictions: task -> what its `form.keep` keeps, [n ...], for the first n
      samples of this process.
    samples: those samples: 'image' float [n h w 3], task -> label [n ...].
    pictures: how many of them a figure shows. The others are there to choose
      from.
  """

  metrics: Metrics
  predictions: dict[str, np.ndarray]
  samples: dict[str, np.ndarray]
  pictures: int = 0


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
    keep: how many samples to keep with their predictions at least, the first of
      this process; 0 to keep none. More are kept where they are small.
  """
  total = last = None
  samples, kept = [], []
  for batch in batches:
    statistics, predictions = eval_step(variables, parallel.shard(batch))
    if sum(len(x['image']) for x in samples) < _num_kept(batch, keep):
      samples.append(batch)
      kept.append(_compact(parallel.local(predictions), tasks))
    # While a device computes these, those of the batch before are fetched.
    total, last = _merged(total, last), statistics
  total = _merged(total, last)
  count = min(_num_real(samples), _num_kept(samples[0], keep)) if keep else 0
  count = max(count, keep)
  return Evaluation(
    metrics={name: task.metrics(total[name]) for name, task in tasks.items()},
    predictions=_first(kept, tasks, count),
    samples=_first(samples, ('image', *tasks), count),
    pictures=min(keep, sum(len(x['image']) for x in samples)),
  )


def _merged(total, statistics):
  """A sum on the host, and statistics from a device; None for neither."""
  if statistics is None:
    return total
  statistics = jax.device_get(statistics)
  return statistics if total is None else merge(total, statistics)


def _num_kept(batch, keep: int) -> int:
  """How many samples are kept; the same for all networks."""
  if not keep:
    return 0
  height, width = batch['image'].shape[1:3]
  return max(keep, min(_MOST_SAMPLES, _MOST_PIXELS // (height * width)))


def _num_real(batches) -> int:
  """How many samples there are before those that pad the last batch.

  Those are black, and have no labels.
  """
  real = [x.any() for batch in batches for x in batch['image']]
  return len(real) - real[::-1].index(True) if any(real) else 0


def _compact(predictions, tasks) -> dict[str, np.ndarray]:
  """What is kept of predictions until they are drawn."""
  return {
    name: task.form.keep(np.asarray(predictions[name]))
    for name, task in tasks.items()
  }


def _first(parts, names, count) -> dict[str, np.ndarray]:
  """The first entries of arrays that come in parts; {} for no parts."""
  return {
    name: np.concatenate([part[name] for part in parts])[:count]
    for name in (names if parts else ())
  }
