"""Statistics of BatchNorm that belong to the final weights.

Running means lag behind weights that move fast: after short or high-rate
training a network evaluates far worse than it trains. Computed anew over
batches of training, with weights that stand still, they do not (Wu & Johnson
2021, "Rethinking 'Batch' in BatchNorm", section 3: "precise" BatchNorm).
"""

from collections.abc import Iterable, Mapping
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.models.network import Network
from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.runtime.statistics import STATISTICS


def recalibrate(
  network: Network,
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  parallel: Parallel,
  num_batches: int,
  seed: int,
) -> dict[str, Any]:
  """Computes the running statistics of a network anew.

  Of every 'mean' and 'var' in one place: the mean over all batches, and the
  mean of the variances within batches plus the variance of their means.

  Args:
    network: the network.
    variables: {'params', 'batch_stats', ...}.
    batches: of training, this process's share.
    parallel: places the batches.
    num_batches: how many of them to take; there are at least so many.
    seed: for networks that draw numbers.

  Returns:
    The variables, with other 'batch_stats'; the same where there are none.
  """
  if STATISTICS not in variables:
    return dict(variables)
  step = parallel.compile_measurement(
    functools.partial(_statistics, network=network, seed=seed)
  )
  seen = [
    jax.device_get(step(variables, {}, parallel.shard(batch)))
    for batch in itertools.islice(batches, num_batches)
  ]
  return {**variables, STATISTICS: _merged(seen)}


def _statistics(variables, unused, batch, *, network, seed):
  """What a batch alone would make of the running statistics.

  A module records keep * old + (1 - keep) * new, and says nothing of `keep`:
  from two values of `old` it records what tells both.
  """
  del unused

  def recorded(old):
    _, updated = network.apply(
      {**variables, STATISTICS: old},
      batch['image'],
      train=True,
      mutable=[name for name in variables if name != 'params'],
      rngs={'params': jax.random.key(seed)},
    )
    return updated[STATISTICS]

  # The second value is as large as what is recorded from the first: from 1,
  # rounding would swallow what large statistics keep of it.
  from_0 = recorded(jax.tree.map(jnp.zeros_like, variables[STATISTICS]))
  large = jax.tree.map(lambda a: 1 + jnp.abs(a), from_0)

  def new(a, b, old):
    keep = (b - a) / old
    return a / (1 - keep)

  return jax.tree.map(new, from_0, recorded(large), large)


def _merged(parts: list[Any]) -> Any:
  first = parts[0]
  if not isinstance(first, Mapping):
    return np.mean(parts, axis=0)
  merged = {k: _merged([part[k] for part in parts]) for k in first}
  if {'mean', 'var'} <= merged.keys():
    means = [part['mean'] for part in parts]
    merged['var'] = merged['var'] + np.var(means, axis=0)
  return merged
