"""The metrics of all networks of a run, as a table in several forms.

A table for a terminal or a notebook, results.md and results.json are all made
from the same `Results`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from mtl_kd_jax.reports.cells import (
  FEW_TASKS,
  as_markdown,
  escaped,
  gain_number,
  number,
  one_line,
  unit_with_arrow,
)
from mtl_kd_jax.reports.comparison import compare
from mtl_kd_jax.reports.gains import GAINS, relative_gains
from mtl_kd_jax.reports.plain_text import plain_text
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import Metric
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import SINGLE_TASK


@dataclasses.dataclass(frozen=True)
class Results:
  """The metrics of all networks on one split.

  `print(results)` prints a table, and a notebook shows one.

  Attributes:
    name: of the experiment.
    split: the split that was scored; '' where it is not known.
    checkpoint: 'last' or 'best', the checkpoints that were scored; '' where it
      is not known.
    tasks: the tasks, for columns and directions.
    rows: network -> task -> metric -> value; NaN and what is missing is a dash.
      Gains are relative to `SINGLE_TASK`, and dashes where there is no such
      row.
    chosen_on: the split that the best checkpoints were to be chosen on; '' for
      none.
    not_chosen: the networks of which the last checkpoint was scored all the
      same, since none had a score on that split.
    average_epochs: the number of epochs that `averages` are means over.
    averages: the same as `rows`, as means over the last epochs, the protocol of
      CAGrad, Nash-MTL and FAMO; {} for none.
    balance: a summary of the balance of gradients; '' for none.
    notes: what else has to be known of the rows, in paragraphs.
    all_metrics: whether tables have the columns of all metrics. results.json
      has them in any case.
  """

  name: str
  split: str
  checkpoint: str
  tasks: Mapping[str, Task]
  rows: Mapping[str, Metrics]
  chosen_on: str = ''
  not_chosen: Sequence[str] = ()
  average_epochs: int = 0
  averages: Mapping[str, Metrics] = dataclasses.field(default_factory=dict)
  balance: str = ''
  notes: Sequence[str] = ()
  all_metrics: bool = False

  @property
  def title(self) -> str:
    """One line that says what was scored."""
    kind = f': {self.checkpoint} checkpoints' if self.checkpoint else ''
    chosen = f' ({self._choice})' if self.chosen_on else ''
    return f'{one_line(self.name)}{kind}{chosen}{self._on_split}'

  @property
  def average_title(self) -> str:
    """The same for the means over the last epochs."""
    count = self.average_epochs
    epochs = 'epoch' if count == 1 else f'{count} epochs'
    return f'{one_line(self.name)}: mean of the last {epochs}{self._on_split}'

  def json(self) -> str:
    """The content of results.json; a metric without any label is null."""
    document = {
      'name': self.name,
      'split': self.split or None,
      'checkpoint': self.checkpoint or None,
      'chosen_on': self.chosen_on or None,
      'not_chosen': list(self.not_chosen),
      'columns': {
        t: {m: _describe(c) for m, c in task.columns.items()}
        for t, task in self.tasks.items()
      },
      'gain_columns': {g: _describe(gain.column) for g, gain in GAINS.items()},
      'rows': self._with_gains(self.rows),
    }
    if self.notes:
      document['notes'] = list(self.notes)
    if self.averages:
      document['mean_of_last_epochs'] = {
        'epochs': self.average_epochs,
        'rows': self._with_gains(self.averages),
      }
    return json.dumps(_finite(document), indent=2, ensure_ascii=False)

  def markdown(self) -> str:
    """The content of results.md."""
    head = [escaped(' '.join(c.heading)) for c in self._columns()]
    head.insert(0, 'network')
    parts = []
    for title, rows in self._protocols().items():
      lines = [head, ['---'] + ['---:'] * (len(head) - 1)]
      cells = self._cells(rows).items()
      lines += [[escaped(row), *numbers] for row, numbers in cells]
      table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
      parts.append(f'# {as_markdown(title)}\n\n{table}\n')
    below = [f'{text}\n' for text in self._below()]
    return '\n'.join([*parts, f'{_LEGEND}\n', *below])

  def tables(self, width: int) -> dict[str, list[Table]]:
    """Tables that fit in `width` characters.

    Returns:
      Title -> one table or, where that is too wide, one for each task and one
      for the gains; several for a task where that is too wide still.
    """
    columns = self._columns()
    tables = {}
    for title, rows in self._protocols().items():
      table = self._table(rows, range(len(columns)))
      tables[title] = [table]
      if _width(table) > width:
        groups = dict.fromkeys(c.group for c in columns)
        tables[title] = [
          table
          for group in groups
          for table in self._in_width(
            rows, [i for i, c in enumerate(columns) if c.group == group], width
          )
        ]
    return tables

  def _in_width(self, rows, indices, width: int) -> list[Table]:
    """The columns of one group, in several tables where one is too wide."""
    for count in range(len(indices), 1, -1):
      table = self._table(rows, indices[:count])
      if _width(table) <= width:
        rest = indices[count:]
        return [table, *(self._in_width(rows, rest, width) if rest else [])]
    rest = indices[1:]
    first = self._table(rows, indices[:1])
    return [first, *(self._in_width(rows, rest, width) if rest else [])]

  def write(self, workdir: pathlib.Path, stem: str = 'results') -> None:
    """Writes <stem>.json and <stem>.md."""
    write_atomically(workdir / f'{stem}.json', self.json())
    write_atomically(workdir / f'{stem}.md', self.markdown())

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> RenderResult:
    """Makes rich print the tables, in the width that it has."""
    for title, tables in self.tables(options.max_width).items():
      yield Text(f'\n{title}')
      yield from tables
    for text in self._below():
      yield Text(f'\n{text}')

  def __str__(self) -> str:
    """The tables as plain text; see `plain_text`."""
    return plain_text(self)

  __repr__ = __str__  # what consoles show of a value

  def _repr_markdown_(self) -> str:
    return self.markdown()

  @property
  def _choice(self) -> str:
    """What the checkpoints were chosen on, and which could not be chosen."""
    on = f'split {self.chosen_on!r}'
    if self.checkpoint != 'best':
      return f'none has a score on {on} to choose the best by'
    if not self.not_chosen:
      return f'chosen on {on}'
    names = ', '.join(map(one_line, self.not_chosen))
    return f'chosen on {on}; the last of {names}, without a score there'

  @property
  def _on_split(self) -> str:
    return f' on split {self.split!r}' if self.split else ''

  def _below(self) -> list[str]:
    """Paragraphs under the tables."""
    return [*self.notes, *filter(None, [self.balance])]

  def _protocols(self) -> dict[str, Mapping[str, Metrics]]:
    """Title -> rows."""
    average = {self.average_title: self.averages} if self.averages else {}
    return {self.title: self.rows, **average}

  def _columns(self) -> list['_Column']:
    shown = self._shown()
    titles = Counter(c.title for x in shown.values() for c in x.values())
    many = len(shown) > FEW_TASKS
    columns = [
      _Column(
        ((t,) if many or titles[c.title] > 1 else ())
        + (c.title, unit_with_arrow(c)),
        t,
      )
      for t, columns in shown.items()
      for c in columns.values()
    ]
    gains = [gain.column for gain in GAINS.values()]
    return columns + [
      _Column((c.title, unit_with_arrow(c)), 'gain') for c in gains
    ]

  def _shown(self) -> dict[str, Mapping[str, Metric]]:
    """Task -> metric -> column, of those that tables have."""
    return {
      t: task.columns if self.all_metrics else task.main_columns()
      for t, task in self.tasks.items()
    }

  def _with_gains(self, rows: Mapping[str, Metrics]) -> dict[str, dict]:
    """Every row with all metrics, NaN where they are missing, and its gains."""
    reference = rows.get(SINGLE_TASK, {})
    return {
      row: {
        'metrics': {
          t: {m: metrics.get(t, {}).get(m, math.nan) for m in task.columns}
          for t, task in self.tasks.items()
        },
        'gains': relative_gains(metrics, reference, self.tasks),
      }
      for row, metrics in rows.items()
    }

  def _cells(self, rows: Mapping[str, Metrics]) -> dict[str, list[str]]:
    return {
      row: [
        number(entry['metrics'][t][m], column)
        for t, columns in self._shown().items()
        for m, column in columns.items()
      ]
      + [gain_number(gain) for gain in entry['gains'].values()]
      for row, entry in self._with_gains(rows).items()
    }

  def _table(self, rows, indices) -> Table:
    table = Table(show_edge=False)
    table.add_column('network', overflow='fold')
    columns = self._columns()
    for i in indices:
      heading = Text('\n'.join(map(one_line, columns[i].heading)))
      table.add_column(heading, justify='right', no_wrap=True)
    for row, cells in self._cells(rows).items():
      table.add_row(Text(one_line(row)), *(cells[i] for i in indices))
    return table


def table(*networks: Any, name: str = 'networks', split: str = '') -> Results:
  """Compares trained networks, as the table of a paper.

  Args:
    *networks: `TrainedNetwork`s, or mappings of them. A row has the name of its
      network; those of one task each that are named 'teacher_<task>' share the
      row of single tasks, which gains are relative to.
    name: of the comparison, for its title.
    split: that they were scored on, for its title; '' to leave it out.

  Raises:
    InputError: there is no network, or one cannot be compared with the others;
      see `compare`.
  """
  rows, tasks = compare(networks)
  return Results(name=name, split=split, checkpoint='', tasks=tasks, rows=rows)


class _Column(NamedTuple):
  """A column of the table.

  Attributes:
    heading: its parts: the task, where another has a column of the same title
      or there are many; title; unit and direction.
    group: the task, or 'gain'.
  """

  heading: tuple[str, ...]
  group: str


_LEGEND = """\
↑ higher is better, ↓ lower is better. – means that the split has no label, that
not all of the last epochs were scored, or that there is no single-task network
to compare with, or one whose metric is 0, of which there are no percent.
ΔMTL: mean over tasks of the relative gain in one headline metric each
(Vandenhende et al.). Δm: mean relative *degradation* over all metrics but RMSE
(CAGrad, Nash-MTL). Δp: gain averaged within each task, then over tasks
(LibMTL). All are relative to the single-task networks of this run."""


def _describe(column: Metric) -> dict:
  return {
    'title': column.title,
    'unit': column.unit,
    'higher_is_better': column.higher_is_better,
  }


def _finite(x):
  """With None for what is not finite, which JSON cannot hold."""
  if isinstance(x, dict):
    return {key: _finite(value) for key, value in x.items()}
  return None if isinstance(x, float) and not math.isfinite(x) else x


def _width(table: Table) -> int:
  """The characters that a table takes where there is room."""
  return Console(width=10_000).measure(table).maximum
