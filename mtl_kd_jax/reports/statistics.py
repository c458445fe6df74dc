"""Says which statistics BatchNorm was scored with, and whether it matters."""

from collections.abc import Mapping

from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics

_MATTERS = 0.03  # relative difference of a headline metric


def describe_statistics(
  rows: Mapping[str, Metrics],
  running: Mapping[str, Metrics],
  tasks: Mapping[str, Task],
  *,
  num_batches: int,
) -> str:
  """A paragraph for the report.

  Args:
    rows: network -> task -> metric -> value, with recalibrated statistics.
    running: the same with the running means of training; {} where that is not
      known.
    tasks: the tasks.
    num_batches: that the statistics were computed over; 0 where they are the
      running means.

  Returns:
    The paragraph; '' for running means, which everybody expects.
  """
  if not num_batches:
    return ''
  text = (
    f'The statistics of BatchNorm were computed anew over {num_batches} '
    'batches of training.'
  )
  differing = []
  for row, metrics in running.items():
    for name, task in tasks.items():
      new = rows.get(row, {}).get(name, {}).get(task.headline)
      old = metrics.get(name, {}).get(task.headline)
      if new is None or old is None:
        continue
      if abs(new - old) > _MATTERS * max(abs(new), abs(old)):
        column = task.columns[task.headline]
        number = f'{old:.4g} instead of {new:.4g} {column.unit}'.rstrip()
        differing.append(f'{row}, {name}: {column.title} {number}')
  if differing:
    text += f' With the running means: {"; ".join(differing)}.'
  elif running:
    text += ' The running means give the same to 3 %.'
  return text
