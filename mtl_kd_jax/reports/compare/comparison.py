"""A comparison of trainings over seeds, and the files that show it."""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib

from rich.console import Console, ConsoleOptions, RenderResult

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.compare.analysis import Analysis, analyze
from mtl_kd_jax.reports.compare.columns import Scores
from mtl_kd_jax.reports.compare.document import make_csv, make_json
from mtl_kd_jax.reports.compare.figure import draw_differences
from mtl_kd_jax.reports.compare.latex import make_latex
from mtl_kd_jax.reports.compare.markdown import make_markdown
from mtl_kd_jax.reports.compare.page import Page, make_page
from mtl_kd_jax.reports.compare.terminal import renderables
from mtl_kd_jax.reports.html import write_page
from mtl_kd_jax.reports.plain_text import plain_text
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The numbers of a comparison, of which there may be some missing.

  `print(comparison)` prints its tables, and a notebook shows them.

  Attributes:
    name: of the comparison.
    split: the split that was scored.
    tasks: the tasks, for columns and directions.
    seeds: all seeds of the comparison.
    scores: row -> seed -> task -> metric -> value, in the order of the tables.
      A seed without numbers is absent, a row without any is {}. NaN or None is
      a metric without labels.
    single_task: row -> the row of single-task networks that its gains are
      relative to, seed by seed. Those rows are not ranked.
    missing: row -> seed -> why there are no numbers, e.g. 'not trained yet'.
    reference: the row that all others are compared with, paired by seed.
    averages: the same as `scores`, means over the last epochs, the protocol of
      CAGrad, Nash-MTL and FAMO; {} for none.
    average_epochs: the number of epochs that `averages` are means over.
    facts: what else has to be known: command, hardware, hours, versions.
    other_data: row -> in words, how the data that it was scored on differ from
      those of the reference. Of such rows, only gains are compared.
  """

  name: str
  split: str
  tasks: Mapping[str, Task]
  seeds: tuple[int, ...]
  scores: Scores
  single_task: Mapping[str, str]
  missing: Mapping[str, Mapping[int, str]]
  reference: str
  averages: Scores = dataclasses.field(default_factory=dict)
  average_epochs: int = 0
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  other_data: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    """Checks that the reference is one of the rows.

    Raises:
      InputError: it is not.
    """
    if self.reference not in self.rows:
      raise InputError(
        expected=f'one of the rows: {", ".join(self.rows) or "none"}',
        found=repr(self.reference),
        argument='reference',
        do='name the row that the others are to be compared with',
      )

  @property
  def rows(self) -> list[str]:
    """The names of all rows, also of those without numbers."""
    return list(dict.fromkeys([*self.scores, *self.missing]))

  @functools.cached_property
  def analysis(self) -> Analysis:
    """The statistics of `scores`."""
    return self._analyze(self.scores)

  @functools.cached_property
  def average_analysis(self) -> Analysis | None:
    """The statistics of `averages`; None where there are none."""
    return self._analyze(self.averages) if any(self.averages.values()) else None

  @functools.cached_property
  def page(self) -> Page:
    """What is shown of it, in words and tables."""
    return make_page(
      self.analysis,
      self.average_analysis,
      name=self.name,
      split=self.split,
      average_epochs=self.average_epochs,
      missing=self.missing,
      facts=self.facts,
      other_data=self.other_data,
    )

  def json(self) -> str:
    """The content of <stem>.json: all numbers and statistics."""
    return make_json(
      self.analysis,
      self.average_analysis,
      name=self.name,
      split=self.split,
      average_epochs=self.average_epochs,
      single_task=self.single_task,
      missing=self.missing,
      facts=self.facts,
      other_data=self.other_data,
    )

  def markdown(self) -> str:
    """The content of <stem>.md."""
    return make_markdown(self.page)

  def write(self, workdir: pathlib.Path, stem: str = 'compare') -> list[str]:
    """Writes <stem>.md, .csv, .tex, .json, .html and .png.

    Each is written whole or not at all.

    Returns:
      The names of the files. There is no figure of fewer than two rows with
      numbers of the same seed.
    """
    # Imported here because that module imports this package.
    from mtl_kd_jax.reports.html.compare import make_comparison_page

    texts = {
      f'{stem}.md': self.markdown(),
      f'{stem}.csv': make_csv(self.analysis),
      f'{stem}.tex': make_latex(self.page),
      f'{stem}.json': self.json(),
    }
    for name, text in texts.items():
      write_atomically(workdir / name, text)
    page = write_page(
      workdir / f'{stem}.html',
      lambda: make_comparison_page(self.page, self.analysis),
      print,
    )
    names = [*texts, *page]
    figure = f'{stem}.png'
    if draw_differences(self.analysis, workdir / figure):
      return [*names, figure]
    (workdir / figure).unlink(missing_ok=True)  # of an earlier comparison
    return names

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> RenderResult:
    """Makes rich print the tables, in the width that it has."""
    yield from renderables(self.page, options.max_width)

  def __str__(self) -> str:
    """The tables as plain text; see `plain_text`."""
    return plain_text(self)

  def _repr_markdown_(self) -> str:
    return self.markdown()

  def _analyze(self, scores: Scores) -> Analysis:
    return analyze(
      scores,
      self.single_task,
      self.tasks,
      rows=self.rows,
      seeds=self.seeds,
      reference=self.reference,
      other_data=self.other_data,
    )
