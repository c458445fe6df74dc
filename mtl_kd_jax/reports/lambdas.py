"""What became of lambda over a training, in one sentence for each network."""

from collections.abc import Iterator
import itertools
import statistics

from mtl_kd_jax.runtime.metric_keys import ALIGNMENT, FACTOR, Log, key, of_kind


def describe_lambdas(log: Log) -> Iterator[str]:
  """Describes every stage whose lambda changed while it trained.

  Args:
    log: the lines of metrics.jsonl.

  Yields:
    A sentence for each.
  """
  for stage in dict.fromkeys(line['stage'] for line in log):
    lines = [
      line
      for line in log
      if line['stage'] == stage and of_kind(line, key(FACTOR, ALIGNMENT))
    ]
    if parts := _means(lines):
      yield (
        f'Lambda of {stage!r}, on average over the training and as a share of '
        f'what the config says: {", ".join(parts)}.'
      )


def _means(lines: Log) -> list[str]:
  # A line is the mean of the steps since the one before; where they end depends
  # on whether the run was interrupted.
  steps = [0, *(line['step'] for line in lines)]
  counts = [after - before for before, after in itertools.pairwise(steps)]
  parts = []
  for name in of_kind(
    {name for line in lines for name in line}, key(FACTOR, ALIGNMENT)
  ):
    known = [
      (line[name], count)
      for line, count in zip(lines, counts, strict=True)
      if line.get(name) is not None and count > 0
    ]
    if not known:
      continue
    values, weights = zip(*known, strict=True)
    mean = statistics.fmean(values, weights=weights)
    what = name.removeprefix(f'{key(FACTOR, ALIGNMENT)}/')
    parts.append(f'{what} {mean:.2f}')
  return parts
