"""What the cells of a comparison have scored, as one table."""

from collections.abc import Mapping, Sequence
import math
import pathlib
import shlex
import sys

from ml_collections import ConfigDict

from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.comparison import Cell, reference_of
from mtl_kd_jax.config.scored import describe_data, differences
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs.cells import divergence_of, is_finished, record_of
from mtl_kd_jax.reports.compare import Comparison
from mtl_kd_jax.reports.results import average_metrics
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics


def collect(
  config: ConfigDict, cells: Sequence[Cell], workdir: pathlib.Path
) -> Comparison:
  """Reads what is there; changes nothing.

  Args:
    config: of the comparison.
    cells: all of them.
    workdir: of the comparison.

  Raises:
    InputError: a file of a cell cannot be read.
  """
  tasks, reference = build(config.base).tasks, reference_of(config)
  count = min(config.base.report.average_epochs, config.base.epochs)
  rows = dict.fromkeys(
    c.row for c in sorted(cells, key=lambda c: not c.teaches)
  )
  scores: dict[str, dict[int, Metrics]] = {row: {} for row in rows}
  averages: dict[str, dict[int, Metrics]] = {row: {} for row in rows}
  missing: dict[str, dict[int, str]] = {row: {} for row in rows}
  for cell in cells:
    folder = workdir / cell.folder
    if not is_finished(folder):
      why = divergence_of(folder)
      missing[cell.row][cell.seed] = (
        f'diverged: {why}' if why else 'not trained'
      )
      continue
    stages = _reported_stages(folder)
    scores[cell.row][cell.seed] = _metrics(folder, stages)
    if count:
      averages[cell.row][cell.seed] = _averages(folder, stages, tasks, count)
  return Comparison(
    name=config.name,
    split=next(c.config.data.eval_split for c in cells if c.row == reference),
    tasks=tasks,
    seeds=tuple(config.seeds),
    scores=scores,
    single_task={c.row: c.single_task for c in cells},
    missing=missing,
    reference=reference,
    averages=averages if count else {},
    average_epochs=count,
    facts=_facts(cells, workdir),
    other_data=_other_data(cells, reference),
  )


def _other_data(cells: Sequence[Cell], reference: str) -> dict[str, str]:
  """Row -> how its data differ from those of the reference, if they do."""
  own = {c.seed: describe_data(c.config) for c in cells if c.row == reference}
  found: dict[str, str] = {}
  for cell in cells:
    texts = differences(describe_data(cell.config), own[cell.seed])
    if texts:
      found.setdefault(cell.row, '; '.join(texts))
  return found


def _reported_stages(folder: pathlib.Path) -> list[str]:
  """The stages of the last row of a run: what it is a run of."""
  plan = workdirs.read_plan(folder)
  if not plan:
    raise InputError(
      expected='the stages of a finished cell',
      found='none',
      where=f'{folder / "plan.json"}',
      do='restore the file, or remove the folder to train the cell again',
    )
  last = [about['row'] for about in plan.values()][-1]
  return [name for name, about in plan.items() if about['row'] == last]


def _metrics(folder: pathlib.Path, stages: Sequence[str]) -> Metrics:
  metrics: dict[str, dict[str, float]] = {}
  for stage in stages:
    for task, values in (workdirs.read_metrics(folder, stage) or {}).items():
      metrics[task] = {name: _float(x) for name, x in values.items()}
  return metrics


def _float(x: float | None) -> float:
  try:
    return math.nan if x is None else float(x)
  except OverflowError:  # an integer with more digits than a float takes
    return math.nan


def _averages(
  folder: pathlib.Path,
  stages: Sequence[str],
  tasks: Mapping[str, Task],
  count: int,
) -> Metrics:
  log, metrics = read_log(folder), {}
  for stage in stages:
    scored = _metrics(folder, [stage])
    metrics |= average_metrics(
      log, stage, {t: tasks[t] for t in scored if t in tasks}, count
    )
  return metrics


def _facts(cells: Sequence[Cell], workdir: pathlib.Path) -> dict[str, str]:
  """How the numbers were made."""
  records = {(c.row, c.seed): record_of(workdir / c.folder) for c in cells}
  seconds = {k: float(r.get('seconds', 0)) for k, r in records.items()}
  # What it would have taken, had each cell trained teachers of its own.
  alone = sum(
    seconds[c.row, c.seed] + seconds[c.single_task, c.seed]
    for c in cells
    if not c.teaches and seconds[c.row, c.seed]
  )
  known = {
    key: '; '.join(sorted({r[key] for r in records.values() if key in r}))
    for key in ('devices', 'versions')
  }
  return {
    'command': f'python {shlex.join(sys.argv)}',
    'devices': known['devices'],
    'versions': known['versions'],
    'hours': f'{sum(seconds.values()) / 3600:.2f}; {alone / 3600:.2f} if '
    'every cell trained its own single-task networks',
  }
