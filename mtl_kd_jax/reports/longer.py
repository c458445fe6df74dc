"""Says what differs where a run was trained for more epochs than it began with.

Teachers go first: they are trained to their new end before their student goes
on. A run that had that length from the start never used the shorter ones.
"""

from collections.abc import Collection, Mapping

from mtl_kd_jax.runtime.metric_keys import Log


def describe_longer(
  log: Log,
  teachers: Mapping[str, Collection[str]],
  references: Mapping[str, Collection[str]],
  *,
  to_train: Collection[str] = (),
) -> list[str]:
  """Notes on networks that depend on others, which were trained further.

  Args:
    log: the lines of metrics.jsonl, also of other runs with teachers.
    teachers: stage -> the stages of its teachers.
    references: stage -> those that its scores are relative to, where scores
      choose its best checkpoint.
    to_train: stages that are about to be trained further.

  Returns:
    Sentences without a full stop.
  """
  notes = []
  for stage, names in teachers.items():
    if changed := _trained_since(log, stage, names, to_train):
      notes.append(
        f'{stage} began before its teachers ({", ".join(changed)}) were '
        'trained for longer: a run that has this length from the start may '
        'give another network'
      )
  for stage, names in references.items():
    if changed := _trained_since(log, stage, names, to_train):
      notes.append(
        f'{stage} was scored before the single-task networks '
        f'({", ".join(changed)}) that its gain is relative to were trained for '
        'longer: its best checkpoint may be chosen among gains over different '
        'networks'
      )
  return notes


def _trained_since(log, stage, others, to_train) -> list[str]:
  """Those of `others` that took further steps after a stage had begun."""
  began = min((_time(e) for e in log if e['stage'] == stage), default=None)
  if began is None:
    return []
  before, after = dict.fromkeys(others, 0), dict.fromkeys(others, 0)
  for entry in log:
    if (name := entry['stage']) in before:
      steps = after if _time(entry) > began else before
      steps[name] = max(steps[name], entry['step'])
  return [n for n in before if n in to_train or after[n] > before[n] > 0]


def _time(entry) -> float:
  time = entry.get('time')
  return time if isinstance(time, int | float) else 0.0
