"""Says which statistics BatchNorm was scored with, and whether it matters."""

from collections.abc import Mapping, Sequence

from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics

_MATTERS = 0.03  # relative difference of a headline metric


def describe_statistics(
  batches: Mapping[str, int | None],
  rows: Mapping[str, Metrics],
  running: Mapping[str, Metrics],
  tasks: Mapping[str, Task],
  *,
  while_training: Sequence[str] = (),
) -> str:
  """A paragraph for the report.

  Args:
    batches: network -> number of batches that its statistics were computed
      over: 0 for running means, None without BatchNorm.
    rows: row of the table -> task -> metric -> value.
    running: the same with the running means of training, of networks that were
      scored with other statistics.
    tasks: the tasks.
    while_training: what else is reported, of scores that were taken while the
      networks were trained.

  Returns:
    The paragraph; '' where no network has BatchNorm.
  """
  networks: dict[int, list[str]] = {}
  for name, number in batches.items():
    if number is not None:
      networks.setdefault(number, []).append(name)
  if not networks:
    return ''
  kinds = [
    _describe(number) + (f' ({", ".join(names)})' if len(networks) > 1 else '')
    for number, names in networks.items()
  ]
  text = f'Statistics of BatchNorm: {"; ".join(kinds)}.'
  text += _compare(rows, running, tasks)
  if while_training and any(networks):
    text += f' Of the running means: {", ".join(while_training)}.'
  return text


def _describe(number: int) -> str:
  if not number:
    return 'the running means of training'
  plural = '' if number == 1 else 'es'
  return f'computed anew over {number} batch{plural} of training'


def _compare(rows, running, tasks) -> str:
  """What the running means would have given."""
  compared, differing = False, []
  for row, metrics in running.items():
    for name, task in tasks.items():
      new = rows[row].get(name, {}).get(task.headline)
      old = metrics.get(name, {}).get(task.headline)
      # Not where the same network was scored twice, and not NaN: no label.
      if new is None or old is None or not abs(new - old) > 0:
        continue
      compared = True
      if abs(new - old) > _MATTERS * max(abs(new), abs(old)):
        column = task.columns[task.headline]
        number = f'{old:.4g} instead of {new:.4g} {column.unit}'.rstrip()
        differing.append(f'{row}, {name}: {column.title} {number}')
  if differing:
    return f' With the running means: {"; ".join(differing)}.'
  if compared:
    return f' The running means give the same to {100 * _MATTERS:.0f} %.'
  return ''
