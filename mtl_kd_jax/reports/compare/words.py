"""What a comparison says in words: verdicts, gaps, and how to read it."""

from collections.abc import Mapping, Sequence

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.cells import p_value, plain, signed
from mtl_kd_jax.reports.compare.columns import known
from mtl_kd_jax.reports.compare.statistics import FEWEST, LEVEL

_SIGNIFICANT = 0.05


def describe_verdicts(analysis: Analysis) -> dict[str, str]:
  """A sentence or two for every row but the reference, without a full stop.

  The first is about ΔMTL. No row is called better or worse where the interval
  of the paired difference has 0 in it, or where there is none.
  """
  return {
    row: '; '.join(
      filter(None, [_main_verdict(analysis, row), _by_metric(analysis, row)])
    )
    for row in analysis.others
  }


def _main_verdict(analysis: Analysis, row: str) -> str:
  main = analysis.main
  difference = analysis.differences[main][row]
  summary, reference = difference.summary, one_line(analysis.reference)
  name, what = one_line(row), f'in {main.title}'
  if not summary.n:
    return (
      f'{name} has no seed with a number to compare with {reference} {what}'
    )
  if summary.n < FEWEST:
    return (
      f'{name} differs from {reference} {what} by '
      f'{signed(summary.mean, main)} ({_seeds(summary.n)}, too few for an '
      'interval: no winner is called)'
    )
  ends = summary.interval
  if not difference.direction:
    low, high = (signed(end, main) for end in ends)
    return (
      f'{name} cannot be told from {reference} {what} '
      f'({signed(summary.mean, main)}, {low} to {high}, {_seeds(summary.n)})'
    )
  word = 'better' if difference.direction > 0 else 'worse'
  # On one side of 0, so that the nearer end is the lower one.
  numbers = [abs(summary.mean), *sorted(map(abs, ends))]
  size, low, high = (plain(x, main).lstrip('+') for x in numbers)
  text = (
    f'{name} is {word} than {reference} {what} by {size} ({low} to {high}, '
    f'{_seeds(summary.n)}'
  )
  corrected = analysis.corrected[row]
  if corrected >= _SIGNIFICANT:
    text += f'; not after the correction for all rows, p = {p_value(corrected)}'
  return f'{text})'


def _by_metric(analysis: Analysis, row: str) -> str:
  """In which metrics the row is better and worse."""
  differences = {
    c.title: analysis.differences[c][row] for c in analysis.metrics
  }
  told = {t: d for t, d in differences.items() if d.summary.n >= FEWEST}
  if not told:
    return ''
  parts = []
  for direction, word in ((1, 'better'), (-1, 'worse'), (0, 'undecided')):
    titles = [t for t, d in told.items() if d.direction == direction]
    if titles and len(titles) == len(told):
      parts.append(f'{word} in all {len(told)}')
    elif titles and direction:
      parts.append(f'{word} in {", ".join(titles)}')
    elif titles:
      parts.append(f'{word} in {len(titles)} of {len(told)}')
  return f'metrics: {", ".join(parts)}'


def describe_missing(
  analysis: Analysis,
  missing: Mapping[str, Mapping[int, str]],
  *,
  without_number: str = 'the split has no label of it, or it is not finite',
) -> list[str]:
  """Why cells are dashes, or means of fewer seeds.

  Args:
    analysis: of the numbers.
    missing: row -> seed -> why it has no numbers at all.
    without_number: why a metric of a seed that has others has none.
  """
  notes, gaps = [], {}
  for row in analysis.rows:
    reasons: dict[str, list[int]] = {}
    partial: dict[tuple[int, ...], list[str]] = {}
    numbers = {c: known(values[row]) for c, values in analysis.values.items()}
    metrics = [numbers[c] for c in analysis.metrics]
    scored = [s for s in analysis.seeds if any(s in x for x in metrics)]
    for seed in analysis.seeds:
      if seed not in scored:
        reason = missing.get(row, {}).get(seed, 'no numbers')
        reasons.setdefault(one_line(reason), []).append(seed)
    for column in analysis.columns:
      if gap := tuple(s for s in scored if s not in numbers[column]):
        partial.setdefault((column.is_gain, gap), []).append(column.title)
    if reasons:
      texts = [f'{r} ({_list(seeds)})' for r, seeds in reasons.items()]
      notes.append(f'{one_line(row)}: {", ".join(texts)}')
    for (is_gain, gap), titles in partial.items():
      gaps.setdefault((is_gain, gap, tuple(titles)), []).append(one_line(row))
  for (is_gain, seeds, titles), rows in gaps.items():
    where = 'all rows' if len(rows) == len(analysis.rows) else ', '.join(rows)
    reason = (
      'a metric that it needs has no number, here or in the single-task '
      'networks'
      if is_gain
      else without_number
    )
    notes.append(f'{", ".join(titles)} of {where} ({_list(seeds)}): {reason}')
  return notes


def describe_other_data(
  other_data: Mapping[str, str], reference: str
) -> list[str]:
  """Which rows were scored on other data than the reference, and on which.

  Args:
    other_data: see `Comparison`.
    reference: the row that the others are compared with.
  """
  return [
    f'{one_line(row)} was scored on other data than {one_line(reference)}: '
    f'{one_line(how)}. Its metrics cannot be compared: it has no differences '
    'in them, no bold and no rank. Its gains are over networks that were '
    'scored on the same data as it.'
    for row, how in other_data.items()
  ]


def describe_method(analysis: Analysis) -> list[str]:
  """How the tables are to be read, in paragraphs."""
  reference = one_line(analysis.reference)
  most = max(
    (s.n for rows in analysis.summaries.values() for s in rows.values()),
    default=0,
  )
  notes = []
  if most < FEWEST:
    notes.append(
      f'No row has more than {_seeds(most)}. With fewer than {FEWEST}, no '
      'interval can be given and no winner is called'
      + ('; with one, there is no spread either.' if most < 2 else '.')
    )
  elif any(
    0 < s.n < FEWEST for x in analysis.summaries.values() for s in x.values()
  ):
    notes.append(
      f'Means of fewer than {FEWEST} seeds (n) have no interval, and are '
      'called neither better nor worse.'
    )
  notes.append(
    '↑ higher is better, ↓ lower is better; a mean ± half of its 95 % interval '
    "(Student's t); n where it is not the number of all seeds. Bold is better "
    'than every other row that has numbers: the 95 % interval of each '
    'difference, paired by seed, excludes 0. In a column without bold, no row '
    'can be called the best.'
  )
  if analysis.others and most >= FEWEST:
    notes.append(
      f'Differences to {reference} are paired by seed, and positive where the '
      'row is better, whatever the direction of the metric. Chance: the '
      'posterior probability that the mean difference over seeds is on the '
      'better side, from the t distribution (flat prior); not the chance to '
      'win with one more seed. Won: in how many of the seeds it was better. '
      'The bootstrap interval (expanded percentiles) cannot exceed the range '
      'of the seeds: of 3 seeds it covers about 75 %, of 4 87 %, of 5 93 %; '
      'verdicts follow the t interval.'
    )
    notes += _describe_multiplicity(analysis)
  if ranked := [r for r, x in analysis.ranks.summaries.items() if x.n]:
    ranks = analysis.ranks
    titles = ', '.join(c.title for c in ranks.columns)
    notes.append(
      f'Mean rank: over {titles}, among the {len(ranked)} rows that have one, '
      f'in {_list(ranks.seeds)}, which have all numbers of all of them; ties '
      'share a rank. Rows with less than half as many complete seeds as '
      'another are not ranked, nor are single-task networks.'
    )
  elif analysis.ranks.summaries:
    notes.append(
      'There is no mean rank: it needs two rows, single-task networks aside, '
      'and a seed in which all rows that are ranked have all metrics.'
    )
  notes.append(_GAINS)
  return notes


def _describe_multiplicity(analysis: Analysis) -> list[str]:
  tests = sum(
    d.summary.n >= FEWEST
    for c in analysis.metrics
    for d in analysis.differences[c].values()
  )
  if not tests:
    return []
  return [
    f'Many comparisons: of the {tests} differences in metrics with an '
    f'interval, about {(1 - LEVEL) * tests:.1f} would look better or worse by '
    'chance if nothing differed. p (Holm) corrects ΔMTL for the number of '
    'rows; the metrics are not corrected.'
  ]


def _seeds(n: int) -> str:
  return f'{n} seed' if n == 1 else f'{n} seeds'


def _list(seeds: Sequence[int]) -> str:
  word = 'seed' if len(seeds) == 1 else 'seeds'
  return f'{word} {", ".join(map(str, seeds))}'


_GAINS = (
  'ΔMTL: mean over tasks of the relative gain in one headline metric each '
  '(Vandenhende et al.). Δm: mean relative degradation over all metrics but '
  'RMSE (CAGrad, Nash-MTL). Δp: gain averaged within each task, then over '
  'tasks (LibMTL). All are relative to the single-task networks of the same '
  'seed.'
)
