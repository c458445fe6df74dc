"""What became of lambda over a training, in one sentence for each network."""

from collections.abc import Iterator
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
  parts = []
  for name in of_kind(lines[-1], key(FACTOR, ALIGNMENT)):
    factors = [line[name] for line in lines if line.get(name) is not None]
    what = name.removeprefix(f'{key(FACTOR, ALIGNMENT)}/')
    parts.append(f'{what} {statistics.fmean(factors):.2f}, {factors[-1]:.2f}')
  return (
    f'Lambda of {stage!r}, as a share of what the config says (mean over the '
    f'training, and at its end): {"; ".join(parts)}.'
  )
