"""The result of a run: one row per network, in three forms.

A terminal table, results.md and results.json, all from the same `Results`.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
import pathlib

from rich.table import Table

from mtl_kd_jax.runtime.metric_writer import write_atomically
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.evaluation import GAINS, Metrics, relative_gains

SINGLE_TASK = 'single-task'


@dataclasses.dataclass(frozen=True)
class Results:
  """The metrics of all networks on one split.

  Attributes:
    name: of the experiment.
    split: the split that was scored.
    checkpoint: 'last' or 'best', the checkpoints that were scored.
    tasks: the tasks, for columns and directions.
    rows: network -> metrics; 'single-task' among them, the reference.
    chosen_on: the split that the best checkpoints were chosen on; '' for none.
    average_epochs: the length of the second protocol's mean; 0 without it.
    averages: the rows of that protocol: network -> metrics, the mean over the
      last epochs on the same split (CAGrad, Nash-MTL, FAMO).
    balance: what was out of balance, in plain words; '' for nothing.
  """

  name: str
  split: str
  checkpoint: str
  tasks: Mapping[str, Task]
  rows: Mapping[str, Metrics]
  chosen_on: str = ''
  average_epochs: int = 0
  averages: Mapping[str, Metrics] = dataclasses.field(default_factory=dict)
  balance: str = ''

  @property
  def title(self) -> str:
    """One line that says what was scored."""
    chosen = f' (chosen on split {self.chosen_on!r})' if self.chosen_on else ''
    return (
      f'{self.name}: {self.checkpoint} checkpoints{chosen} on split '
      f'{self.split!r}'
    )

  @property
  def average_title(self) -> str:
    """The same of the second protocol."""
    count = self.average_epochs
    epochs = 'epoch' if count == 1 else f'{count} epochs'
    return f'{self.name}: mean of the last {epochs} on split {self.split!r}'

  @property
  def protocols(self) -> dict[str, Mapping[str, Metrics]]:
    """Title -> rows, of every protocol that is reported."""
    average = {self.average_title: self.averages} if self.averages else {}
    return {self.title: self.rows, **average}

  def json(self) -> str:
    """The content of results.json; a metric without any label is null."""
    document = {
      'name': self.name,
      'split': self.split,
      'checkpoint': self.checkpoint,
      'chosen_on': self.chosen_on or None,
      'columns': {
        t: {m: _describe(c) for m, c in task.columns.items()}
        for t, task in self.tasks.items()
      },
      'gain_columns': {g: _describe(gain.column) for g, gain in GAINS.items()},
      'rows': self._with_gains(self.rows),
    }
    if self.averages:
      document['mean_of_last_epochs'] = {
        'epochs': self.average_epochs,
        'rows': self._with_gains(self.averages),
      }
    return json.dumps(_without_nan(document), indent=2, ensure_ascii=False)

  def markdown(self) -> str:
    """The content of results.md."""
    head = ['network'] + [' '.join(h) for h, _ in self._columns()]
    parts = []
    for title, rows in self.protocols.items():
      lines = [head, ['---'] + ['---:'] * (len(head) - 1)]
      lines += [[row, *cells] for row, cells in self._cells(rows).items()]
      table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
      parts.append(f'# {title}\n\n{table}\n')
    balance = [f'{self.balance}\n'] if self.balance else []
    return '\n'.join([*parts, f'{_LEGEND}\n', *balance])

  def tables(self, width: int) -> dict[str, list[Table]]:
    """For a terminal of `width` characters.

    Returns:
      Title of a protocol -> one table, or one for each task.
    """
    columns = self._columns()
    groups = [[i for i, (_, g) in enumerate(columns)]]
    if len(columns) * 9 + 15 > width:
      keys = dict.fromkeys(g for _, g in columns)
      groups = [[i for i, (_, g) in enumerate(columns) if g == k] for k in keys]
    return {
      title: [self._table(rows, group) for group in groups]
      for title, rows in self.protocols.items()
    }

  def _gains(self, rows, row):
    return relative_gains(rows[row], rows[SINGLE_TASK], self.tasks)

  def _with_gains(self, rows):
    return {
      row: {'metrics': metrics, 'gains': self._gains(rows, row)}
      for row, metrics in rows.items()
    }

  def _table(self, rows, indices):
    table = Table(show_edge=False)
    table.add_column('network', no_wrap=True)
    columns = self._columns()
    for i in indices:
      (title, unit), _ = columns[i]
      table.add_column(f'{title}\n{unit}', justify='right', no_wrap=True)
    for row, cells in self._cells(rows).items():
      table.add_row(row, *(cells[i] for i in indices))
    return table

  def _columns(self):
    """((title, unit and direction), group) of every column."""
    columns = [
      (c, task) for task, t in self.tasks.items() for c in t.columns.values()
    ]
    columns += [(gain.column, 'gain') for gain in GAINS.values()]
    return [((c.title, _unit(c)), group) for c, group in columns]

  def _cells(self, rows):
    return {
      row: [
        _format(metrics[t][m], column)
        for t, task in self.tasks.items()
        for m, column in task.columns.items()
      ]
      + [
        '–' if math.isnan(gain) else f'{gain:+.2f}'
        for gain in self._gains(rows, row).values()
      ]
      for row, metrics in rows.items()
    }

  def write(self, workdir: pathlib.Path, stem: str = 'results') -> None:
    """Writes <stem>.json and <stem>.md."""
    write_atomically(workdir / f'{stem}.json', self.json())
    write_atomically(workdir / f'{stem}.md', self.markdown())


_LEGEND = """\
↑ higher is better, ↓ lower is better. – means that the split has no label, or
that not all of the last epochs were scored.
ΔMTL: mean over tasks of the relative gain in one headline metric each
(Vandenhende et al.). Δm: mean relative *degradation* over all metrics but RMSE
(CAGrad, Nash-MTL). Δp: gain averaged within each task, then over tasks
(LibMTL). All are relative to the single-task networks of this run."""

# Of the cells above, the decimals that the field prints.
_DECIMALS = {'%': 2, '°': 2}


def _format(value: float, column: Metric) -> str:
  if math.isnan(value):
    return '–'
  return f'{value:.{_DECIMALS.get(column.unit, 4)}f}'


def _unit(column: Metric) -> str:
  arrow = '↑' if column.higher_is_better else '↓'
  return f'{column.unit} {arrow}'.strip()


def _describe(column: Metric) -> dict:
  return {
    'title': column.title,
    'unit': column.unit,
    'higher_is_better': column.higher_is_better,
  }


def _without_nan(x):
  if isinstance(x, dict):
    return {key: _without_nan(value) for key, value in x.items()}
  return None if isinstance(x, float) and math.isnan(x) else x
