"""What was out of balance in a run, in one plain paragraph a network.

Read from the lines of metrics.jsonl: gradients as they were observed
(observation.py) or, where nothing was, as a gradient method combined them; and
weights as the steps used them.
"""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any

from mtl_kd_jax.runtime.metric_keys import OBSERVED, lines_of, objectives_of

Log = Sequence[Mapping[str, Any]]

# A ratio of lengths below which no gradient is said to dominate.
_EVEN = 1.5


def summarize_balance(log: Log, tasks: Sequence[str]) -> str:
  """One paragraph for each stage that has anything to say, or ''.

  Args:
    log: the lines of metrics.jsonl.
    tasks: the tasks.
  """
  stages = dict.fromkeys(e['stage'] for e in log)
  said = {s: _paragraph(lines_of(log, s), tasks) for s in stages}
  return '\n\n'.join(f'Balance of {s!r}: {x}' for s, x in said.items() if x)


def _paragraph(lines, tasks) -> str:
  gradients, weights = lines
  norms = {t: _median(gradients, f'norm/{t}') for t in tasks}
  norms = {t: x for t, x in norms.items() if x is not None and x > 0}
  if len(norms) < 2:
    return ''
  said = [
    _lengths(gradients, norms),
    *_alignments(gradients, norms),
    *_conflicts(gradients),
  ]
  used = {t: _median(weights, f'weight/{t}') for t in norms}
  if None not in used.values():
    said.append(_effect(norms, used))
  return ' '.join(said)


def _lengths(lines, norms) -> str:
  """Which gradient was the longest, by how much and how often."""
  longest, shortest = (f(norms, key=norms.get) for f in (max, min))
  ratio = norms[longest] / norms[shortest]
  whole = [
    {t: e[f'norm/{t}'] for t in norms}
    for e in lines
    if all(e.get(f'norm/{t}') is not None for t in norms)
  ]
  often = _share([max(x, key=x.get) == longest for x in whole])
  steps = _count(lines)
  if ratio < _EVEN:
    return (
      f'over {steps} no gradient dominated; the longest, of {longest}, was '
      f'{ratio:.1f} times the shortest, of {shortest} (medians).'
    )
  return (
    f"over {steps} {longest}'s gradient dominated: {_times(ratio)} the length "
    f'of that of {shortest}, the shortest (medians), and the longest of all in '
    f'{often} of them.'
  )


def _alignments(lines, norms) -> list[str]:
  """How hard every teacher pulls beside its task."""
  pulls = {t: _median(lines, f'norm/alignment/{t}') for t in norms}
  if None in pulls.values():
    return []
  parts = [f'{t} {pulls[t] / norms[t]:.2g}' for t in norms]
  return [
    f'Beside its task, the gradient of an alignment was this many times as '
    f'long: {", ".join(parts)} (medians, times lambda).'
  ]


def _conflicts(lines) -> list[str]:
  """Which pairs conflicted how often; tasks first, then alignments."""
  pairs = dict.fromkeys(k for e in lines for k in _names(e, 'cosine'))
  among, aligned = [], []
  for key in pairs:
    one, other = objectives_of(key)
    values = [e[key] for e in lines if e.get(key) is not None]
    if not values:
      continue
    share = [
      e.get(key.replace('cosine', 'conflict', 1), e[key] < 0)
      for e in lines
      if e.get(key) is not None
    ]
    entry = (statistics.fmean(share), statistics.fmean(values), one, other)
    if other == f'alignment/{one}':
      aligned.append(entry)
    elif 'alignment/' not in one + other:
      among.append(entry)
  said = []
  if among and not any(mean or share for share, mean, _, _ in among):
    said.append(
      'No image had labels of two tasks, so that their gradients cannot meet '
      'in its features: nothing is known of conflicts between tasks.'
    )
  elif among:
    said.append(
      _listed(
        'Conflicts between tasks',
        among,
        '{} and {}',
        'No two tasks ever conflicted',
      )
    )
  if aligned:
    said.append(
      _listed(
        'Conflicts of a task with its alignment',
        aligned,
        '{}',
        'No task conflicted with its alignment',
      )
    )
  return said


def _listed(what, entries, who, never) -> str:
  ordered = sorted(entries, reverse=True)
  parts = [
    f'{who.format(one, other)} in {100 * share:.0f} % (mean cosine {mean:+.2f})'
    for share, mean, one, other in ordered
    if share > 0
  ]
  if not parts:
    least = min(mean for _, mean, _, _ in entries)
    return f'{never} (lowest mean cosine {least:+.2f}).'
  rest = '' if len(parts) == len(entries) else '; no others'
  return f'{what}, by share of steps: {", ".join(parts)}{rest}.'


def _effect(norms, weights) -> str:
  """What became of the lengths once they were weighted."""
  pulls = {t: abs(weights[t]) * norms[t] for t in norms}
  given = ', '.join(f'{t} {x:.3g}' for t, x in weights.items())
  before = max(norms.values()) / min(norms.values())
  said = f'The weights were {given} (medians)'
  if max(weights.values()) - min(weights.values()) <= 1e-3 * max(
    map(abs, weights.values())
  ):
    return f'{said}: alike for all, so that this stayed as it was.'
  longest, shortest = (f(pulls, key=pulls.get) for f in (max, min))
  if pulls[shortest] == 0:
    return f'{said}; {shortest} was left without any pull.'
  after = pulls[longest] / pulls[shortest]
  verb = 'evened this out' if after < before / 1.05 else 'left this about as is'
  verb = 'sharpened this' if after > 1.05 * before else verb
  return (
    f'{said}, which {verb}: weighted, the longest gradient, now of {longest}, '
    f'was {_times(after)} the shortest, of {shortest}, instead of '
    f'{_times(before)}.'
  )


def _names(line, kind):
  return [key for key in line if key.startswith(f'{kind}/')]


def _median(lines, key):
  values = [e[key] for e in lines if e.get(key) is not None]
  return statistics.median(values) if values else None


def _share(flags) -> str:
  return f'{100 * sum(flags) / len(flags):.0f} %' if flags else 'none'


def _count(lines) -> str:
  what = 'observed step' if lines[0]['kind'] == OBSERVED else 'logged line'
  return f'{len(lines)} {what}{"" if len(lines) == 1 else "s"}'


def _times(ratio) -> str:
  return f'{ratio:.1f} times' if ratio < 100 else f'{ratio:.0f} times'
