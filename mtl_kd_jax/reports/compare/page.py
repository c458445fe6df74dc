"""A comparison as it is read: sentences, tables, notes; in no format yet."""

from collections.abc import Mapping, Sequence
import dataclasses

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.analysis import Analysis
from mtl_kd_jax.reports.compare.grids import (
  Grid,
  make_differences,
  make_means,
  make_protocol,
  make_verdict,
)
from mtl_kd_jax.reports.compare.words import (
  describe_method,
  describe_missing,
  describe_other_data,
  describe_verdicts,
)


@dataclasses.dataclass(frozen=True)
class Page:
  """What Markdown, LaTeX and a terminal show.

  Attributes:
    title: one line.
    verdicts: a sentence for each row but the reference.
    grids: the tables.
    missing: why there are dashes, or means of fewer seeds.
    notes: how to read it, in paragraphs.
    facts: command, hardware, hours, versions.
  """

  title: str
  verdicts: Sequence[str]
  grids: Sequence[Grid]
  missing: Sequence[str]
  notes: Sequence[str]
  facts: Mapping[str, str]


def make_page(
  analysis: Analysis,
  averages: Analysis | None,
  *,
  name: str,
  split: str,
  average_epochs: int,
  missing: Mapping[str, Mapping[int, str]],
  facts: Mapping[str, str],
  other_data: Mapping[str, str],
) -> Page:
  """Puts a comparison together; the arguments are those of `Comparison`."""
  count = len(analysis.seeds)
  seeds = '1 seed' if count == 1 else f'{count} seeds'
  where = f' on split {split!r}' if split else ''
  reference = one_line(analysis.reference)
  grids = [make_means(analysis, f'Means over {seeds}{where}')]
  if analysis.others:
    grids += [
      make_verdict(analysis, f'ΔMTL, compared with {reference}'),
      make_differences(analysis, f'Better than {reference} by'),
    ]
  below = describe_missing(analysis, missing)
  if averages:
    epochs = 'epoch' if average_epochs == 1 else f'{average_epochs} epochs'
    title = f'Mean of the last {epochs}'
    grids.append(
      make_protocol(
        averages,
        f"{title}{where}, over {seeds} (the literature's protocol)",
      )
    )
    below += [
      f'{title}: {note}'
      for note in describe_missing(
        averages,
        missing,
        without_number=f'not all of the last {epochs} have a number',
      )
      if note not in below
    ]
  return Page(
    title=f'{one_line(name)}: {seeds}{where}',
    verdicts=list(describe_verdicts(analysis).values()),
    grids=grids,
    missing=below,
    notes=[
      *describe_other_data(other_data, analysis.reference),
      *describe_method(analysis),
    ],
    facts=facts,
  )
