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
    if lines:
      yield _sentence(stage, lines)


def _sentence(stage: str, lines: Log) -> str:
  # A line is the mean of the steps since the one before; where they end depends
  # on whether the run was interrupted.
  steps = [0, *(line['step'] for line in lines)]
  counts = [after - before for before, after in itertools.pairwise(steps)]
  parts = []
  for name in of_kind(lines[-1], key(FACTOR, ALIGNMENT)):
    mean = statistics.fmean([line[name] for line in lines], weights=counts)
    what = name.removeprefix(f'{key(FACTOR, ALIGNMENT)}/')
    parts.append(f'{what} {mean:.2f}')
  return (
    f'Lambda of {stage!r}, on average over the training and as a share of what '
    f'the config says: {", ".join(parts)}.'
  )
