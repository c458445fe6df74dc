"""Which gradients dominated or conflicted, in one paragraph for each network.

Computed from the lines of metrics.jsonl: gradients as they were observed or,
where none were, as a gradient balancer combined them; and weights as the steps
used them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import statistics
from typing import NamedTuple

from mtl_kd_jax.runtime.metric_keys import (
  CONFLICT,
  COSINE,
  NORM,
  OBSERVED,
  WEIGHT,
  Log,
  alignment,
  is_alignment,
  key,
  lines_of,
  objectives_of,
  of_kind,
)

# A ratio of norms below which no gradient is said to dominate.
_EVEN = 1.5


def summarize_balance(log: Log, tasks: Iterable[str]) -> str:
  """Describes the gradients of every stage that logged any.

  Args:
    log: the lines of metrics.jsonl.
    tasks: names of the tasks.

  Returns:
    A paragraph for each stage with gradients of at least two tasks, or ''.
  """
  tasks = list(tasks)
  stages = dict.fromkeys(e['stage'] for e in log)
  paragraphs = {s: _paragraph(*lines_of(log, s), tasks) for s in stages}
  return '\n\n'.join(
    f'Balance of {stage!r}: {text}'
    for stage, text in paragraphs.items()
    if text
  )


def _paragraph(gradients: Log, weights: Log, tasks: list[str]) -> str:
  norms = {t: _median(gradients, key(NORM, t)) for t in tasks}
  norms = {t: x for t, x in norms.items() if x is not None and x > 0}
  if len(norms) < 2:
    return ''
  sentences = [_dominance(gradients, norms)]
  used = {t: _median(weights, key(WEIGHT, t)) for t in norms}
  if None not in used.values():
    sentences.append(_effect_of_weights(norms, used))
  sentences += _alignment_norms(gradients, norms)
  sentences += _conflicts(gradients)
  return ' '.join(sentences)


def _dominance(lines: Log, norms: Mapping[str, float]) -> str:
  """Which gradient was the longest, by how much and how often."""
  longest, shortest = _extremes(norms)
  ratio = norms[longest] / norms[shortest]
  steps = _count(lines)
  if ratio < _EVEN:
    return (
      f'over {steps}, no gradient dominated. The median norm of the longest, '
      f'of {longest}, was {ratio:.1f} times that of the shortest, of '
      f'{shortest}.'
    )
  complete = [
    [line[key(NORM, t)] for t in norms]
    for line in lines
    if all(line.get(key(NORM, t)) is not None for t in norms)
  ]
  wins = [list(norms)[x.index(max(x))] == longest for x in complete]
  often = f'{100 * statistics.fmean(wins):.0f} %' if wins else 'none'
  return (
    f'over {steps}, the gradient of {longest} dominated. Its median norm was '
    f'{_times(ratio)} that of {shortest}, the shortest, and it was the longest '
    f'in {often} of them.'
  )


def _alignment_norms(lines: Log, norms: Mapping[str, float]) -> Iterator[str]:
  """How the gradients of alignments compare to those of their tasks."""
  aligned = {t: _median(lines, key(NORM, alignment(t))) for t in norms}
  if None not in aligned.values():
    parts = [f'{t} {aligned[t] / norms[t]:.2g}' for t in norms]
    yield (
      'Median norm of the gradient of each alignment, times its lambda, '
      f'relative to that of its task: {", ".join(parts)}.'
    )


class _Pair(NamedTuple):
  """How two gradients met; sorted by the share of steps in conflict."""

  share: float
  cosine: float
  one: str
  other: str


def _conflicts(lines: Log) -> Iterator[str]:
  """Which pairs conflicted how often: tasks first, then alignments."""
  names = {name for line in lines for name in line}
  pairs = [_pair(lines, name) for name in of_kind(names, COSINE)]
  pairs = sorted((pair for pair in pairs if pair), reverse=True)
  among_tasks = [p for p in pairs if not any(map(is_alignment, p[2:]))]
  with_own = [p for p in pairs if p.other == alignment(p.one)]
  if among_tasks and not any(p.cosine or p.share for p in among_tasks):
    yield (
      'No image had labels of two tasks, so their gradients have no features '
      'in common and nothing is known about conflicts between tasks.'
    )
  elif among_tasks:
    yield _list_conflicts(
      'Conflicts between tasks',
      among_tasks,
      '{} and {}',
      'No two tasks ever conflicted',
    )
  if with_own:
    yield _list_conflicts(
      'Conflicts of a task with its alignment',
      with_own,
      '{}',
      'No task conflicted with its alignment',
    )


def _pair(lines: Log, name: str) -> _Pair | None:
  """Of the name of a cosine; None where no line has a value."""
  one, other = objectives_of(name)
  known = [line for line in lines if line.get(name) is not None]
  if not known:
    return None
  # A line with the mean of several steps says in how many they conflicted.
  conflict = key(CONFLICT, one, other)
  shares = [line.get(conflict, line[name] < 0) for line in known]
  cosines = [line[name] for line in known]
  return _Pair(statistics.fmean(shares), statistics.fmean(cosines), one, other)


def _list_conflicts(
  title: str, pairs: Sequence[_Pair], who: str, never: str
) -> str:
  parts = [
    f'{who.format(p.one, p.other)} in {100 * p.share:.0f} % '
    f'(mean cosine {p.cosine:+.2f})'
    for p in pairs
    if p.share > 0
  ]
  if not parts:
    lowest = min(p.cosine for p in pairs)
    return f'{never} (lowest mean cosine {lowest:+.2f}).'
  rest = '' if len(parts) == len(pairs) else '; no others'
  return f'{title}, by share of steps: {", ".join(parts)}{rest}.'


def _effect_of_weights(
  norms: Mapping[str, float], weights: Mapping[str, float]
) -> str:
  """How the norms compare once they are weighted."""
  listed = ', '.join(f'{t} {x:.3g}' for t, x in weights.items())
  start = f'Median weights: {listed};'
  largest = max(map(abs, weights.values()))
  if max(weights.values()) - min(weights.values()) <= 1e-3 * largest:
    return f'{start} equal for all tasks, so this ratio stayed as it was.'
  weighted = {t: abs(weights[t]) * norms[t] for t in norms}
  longest, shortest = _extremes(weighted)
  if weighted[shortest] == 0:
    return f'{start} the gradient of {shortest} had no effect at all.'
  before = max(norms.values()) / min(norms.values())
  after = weighted[longest] / weighted[shortest]
  if after < before / 1.05:
    effect = 'they reduced this ratio'
  elif after > 1.05 * before:
    effect = 'they increased this ratio'
  else:
    effect = 'they left this ratio about the same'
  return (
    f'{start} {effect}. The longest weighted gradient, of {longest}, was '
    f'{_times(after)} as long as the shortest, of {shortest}, instead of '
    f'{_times(before)}.'
  )


def _extremes(values: Mapping[str, float]) -> tuple[str, str]:
  """The names of the largest and of the smallest value."""
  return max(values, key=values.get), min(values, key=values.get)


def _median(lines: Log, name: str) -> float | None:
  values = [line[name] for line in lines if line.get(name) is not None]
  return statistics.median(values) if values else None


def _count(lines: Log) -> str:
  what = 'observed step' if lines[0]['kind'] == OBSERVED else 'logged line'
  return f'{len(lines)} {what}{"" if len(lines) == 1 else "s"}'


def _times(ratio: float) -> str:
  return f'{ratio:.1f} times' if ratio < 100 else f'{ratio:.0f} times'
