"""What a table says of sharing one network, in two or three sentences."""

from collections.abc import Iterable, Mapping
import math

from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.methods.multi_task import BALANCED, UNIFORM
from mtl_kd_jax.reports.gains import headline_gains
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import SINGLE_TASK

# Percent. What is less is not told from nothing: one seed does not show it.
_NOTHING = 1.0
_NONE_WORSE = f'no task is worse than alone by more than {_NOTHING:.0f} %'
_WORDS = {DISTILLED: 'Distillation', BALANCED: 'Balancing'}


def verdict(rows: Mapping[str, Metrics], tasks: Mapping[str, Task]) -> str:
  """Which task starved, what came back, and what did not.

  Args:
    rows: row of the table -> task -> metric -> value.
    tasks: the tasks.

  Returns:
    Sentences; '' where the rows of single-task networks and of the uniform one
    are not there, or not complete.
  """
  alone = rows.get(SINGLE_TASK, {})
  uniform = _gains(rows, UNIFORM, alone, tasks)
  if not uniform:
    return ''
  starved = [t for t, gain in uniform.items() if gain < -_NOTHING]
  sentences = [_of_uniform(rows[UNIFORM], alone, uniform, starved, tasks)]
  for row, word in _WORDS.items():
    if gains := _gains(rows, row, alone, tasks):
      sentences.append(_of_method(word, gains, uniform))
  return ' '.join(sentences)


def _gains(rows, row, alone, tasks) -> dict[str, float]:
  gains = headline_gains(rows.get(row, {}), alone, tasks)
  return gains if all(map(math.isfinite, gains.values())) else {}


def _of_uniform(metrics, alone, gains, starved, tasks) -> str:
  if not starved:
    better = [t for t, gain in gains.items() if gain > _NOTHING]
    grown = f', and {_and(_with(gains, better))} better' if better else ''
    return f'Uniformly weighted, {_NONE_WORSE}{grown}.'
  parts = []
  for task in starved:
    column = tasks[task].columns[tasks[task].headline]
    was, now = (
      _number(x[task][tasks[task].headline]) for x in (alone, metrics)
    )
    unit = _unit(column.unit)
    parts.append(
      f'{task} by {-gains[task]:.0f} % ({column.title} {now} instead of '
      f'{was}{unit})'
    )
  fed = [t for t, gain in gains.items() if gain > _NOTHING]
  gained = f', while {_and(_with(gains, fed))} better' if fed else ''
  return f'Uniformly weighted, one network starves {_and(parts)}{gained}.'


def _of_method(word, gains, uniform) -> str:
  """From the uniform network to this one, relative to the networks alone."""
  moved = {
    t: f'{t} from {round(uniform[t]):+d} to {round(gains[t]):+d} %'
    for t in gains
  }
  change = {t: gains[t] - uniform[t] for t in gains}
  lifted = [moved[t] for t, x in change.items() if x > _NOTHING]
  dropped = [moved[t] for t, x in change.items() if x < -_NOTHING]
  parts = [f'lifts {_and(lifted)}'] if lifted else []
  if dropped:
    parts.append(f'drops {_and(dropped)}')
  against = ', relative to the single-task networks' if parts else ''
  worse = [t for t, gain in gains.items() if gain < -_NOTHING]
  end = _NONE_WORSE
  if worse:
    end = f'{_and(worse)} {"are" if len(worse) > 1 else "is"} worse than alone'
  did = _and(parts or ['changes little'])
  return f'{word} {did}{against}; {end}.'


def _with(gains, tasks) -> list[str]:
  """E.g. ['depth is 13 %']."""
  return [f'{t} is {abs(gains[t]):.0f} %' for t in tasks]


def _and(parts: Iterable[str]) -> str:
  *first, last = parts
  return f'{", ".join(first)} and {last}' if first else last


def _number(x: float) -> str:
  return f'{x:.3g}'


def _unit(unit: str) -> str:
  """With what stands between a number and its unit, where no line may end."""
  return unit if unit in ('', '°') else f'\N{NO-BREAK SPACE}{unit}'
