"""compare.json and compare.csv: the numbers for other programs."""

from collections.abc import Mapping
import csv
import io
import json
import math
from typing import Any

from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.columns import Column
from mtl_kd_jax.reports.compare.statistics import LEVEL, Difference, Summary
from mtl_kd_jax.reports.compare.words import describe_verdicts


def make_csv(analysis: Analysis) -> str:
  """A line for each row, seed and column; the value is empty for none.

  Gains have 'gain' for the task.
  """
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(['row', 'seed', 'task', 'metric', 'value'])
  for row in analysis.rows:
    for seed in analysis.seeds:
      for column, values in analysis.values.items():
        value = values[row][seed]
        text = '' if math.isnan(value) else repr(value)
        writer.writerow([row, seed, column.task, column.name, text])
  return file.getvalue()


def make_json(
  analysis: Analysis,
  averages: Analysis | None,
  *,
  name: str,
  split: str,
  average_epochs: int,
  single_task: Mapping[str, str],
  missing: Mapping[str, Mapping[int, str]],
  facts: Mapping[str, str],
  other_data: Mapping[str, str],
) -> str:
  """All numbers and statistics; the arguments are those of `Comparison`.

  What is missing is null.
  """
  verdicts = describe_verdicts(analysis)
  document = {
    'name': name,
    'split': split or None,
    'seeds': list(analysis.seeds),
    'reference': analysis.reference,
    'level': LEVEL,
    'columns': _by_task(
      {
        column: {
          'title': column.metric.title,
          'unit': column.metric.unit,
          'higher_is_better': column.metric.higher_is_better,
          'counts_in_rank': column.counts,
          'best': analysis.best[column],
        }
        for column in analysis.columns
      }
    ),
    'rows': {
      row: {
        'single_task': single_task.get(row),
        'missing': dict(missing.get(row, {})),
        'other_data': other_data.get(row),
        'verdict': verdicts.get(row),
        **_numbers(analysis, row),
      }
      for row in analysis.rows
    },
    'facts': dict(facts),
  }
  if averages:
    document['mean_of_last_epochs'] = {
      'epochs': average_epochs,
      'rows': {row: _numbers(averages, row) for row in averages.rows},
    }
  return json.dumps(_finite(document), indent=2, ensure_ascii=False)


def _numbers(analysis: Analysis, row: str) -> dict[str, Any]:
  """Task -> metric -> numbers of a row, its rank and its corrected p-value."""
  cells = {}
  for column, values in analysis.values.items():
    cells[column] = {
      'seeds': values[row],
      **_summary(analysis.summaries[column][row]),
    }
    if row != analysis.reference:
      difference = analysis.differences[column][row]
      cells[column]['difference'] = _difference(difference)
  rank = analysis.ranks.summaries.get(row)
  return {
    'metrics': _by_task(cells),
    'mean_rank': rank
    and {'seeds': analysis.ranks.values.get(row, {}), **_summary(rank)},
    'delta_mtl_p_holm': analysis.corrected.get(row, math.nan),
  }


def _summary(summary: Summary) -> dict[str, Any]:
  return {
    'n': summary.n,
    'mean': summary.mean,
    'sd': summary.sd,
    't_interval': summary.interval,
    'bootstrap_interval': summary.bootstrap,
  }


def _difference(difference: Difference) -> dict[str, Any]:
  """Positive is better."""
  pairs = zip(difference.seeds, difference.better_by, strict=True)
  return {
    'better_by': dict(pairs),
    **_summary(difference.summary),
    'chance': difference.chance,
    'wins': difference.wins,
    'p': difference.p,
    'verdict': ('cannot be told', 'better', 'worse')[difference.direction],
  }


def _by_task(cells: Mapping[Column, Any]) -> dict[str, dict[str, Any]]:
  tasks = {}
  for column, content in cells.items():
    tasks.setdefault(column.task, {})[column.name] = content
  return tasks


def _finite(x):
  """With None for what is not finite, which JSON cannot hold."""
  if isinstance(x, dict):
    return {key: _finite(value) for key, value in x.items()}
  if isinstance(x, list | tuple):
    return [_finite(value) for value in x]
  return None if isinstance(x, float) and not math.isfinite(x) else x
