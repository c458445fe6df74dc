"""One progress bar over all cells of a comparison, with the time left."""

from collections.abc import Mapping
import time

from rich.console import Console
from rich.progress import (
  BarColumn,
  Progress,
  TaskProgressColumn,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

from mtl_kd_jax.config.comparison import Cell


class CellProgress:
  """Shows how far cells are; lines where there is no terminal."""

  def __init__(self, console: Console, steps: Mapping[Cell, int]):
    """Shows nothing yet.

    Args:
      console: where to print.
      steps: cell that is to be trained -> its optimizer steps.
    """
    self._console = console
    self._steps = {self._key(c): n for c, n in steps.items()}
    self._taken: dict[tuple, dict[str, int]] = {k: {} for k in self._steps}
    self._ended: set[tuple] = set()
    self._begun = time.monotonic()
    self._progress = Progress(
      TextColumn('{task.description}'),
      BarColumn(bar_width=30),
      TaskProgressColumn(),
      TimeElapsedColumn(),
      TextColumn('left'),
      TimeRemainingColumn(elapsed_when_finished=False),
      # Cells differ: what was fast for a minute is not what is to come.
      speed_estimate_period=3600,
      console=console,
      disable=not console.is_terminal,
    )
    self._bar = self._progress.add_task('', total=sum(self._steps.values()))

  def __enter__(self) -> 'CellProgress':
    """Shows the bar, where there is something to train."""
    if self._steps:
      self._progress.start()
    return self

  def __exit__(self, *unused):
    self._progress.stop()

  def start(self, cell: Cell) -> None:
    """A cell is being trained."""
    self._progress.update(self._bar, description=self._title(cell))

  def step(self, cell: Cell, stage: str, step: int) -> None:
    """A cell has taken so many steps of a stage."""
    taken = self._taken.get(self._key(cell))
    if taken is not None:
      taken[stage] = step
      self._progress.update(
        self._bar,
        completed=self._completed,
        description=f'{self._title(cell)}: {stage}',
      )

  def done(self, cell: Cell, divergence: str = '') -> None:
    """A cell has ended."""
    self._end(cell, divergence and f'diverged: {divergence}')

  def skip(self, cell: Cell, reason: str) -> None:
    """A cell is left as it is."""
    self._end(cell, reason)

  def say(self, text: str) -> None:
    """Prints above the bar."""
    self._console.print(text, markup=False)

  def _end(self, cell, note):
    key = self._key(cell)
    if key not in self._steps or key in self._ended:
      return
    self._ended.add(key)
    self._taken[key] = {'': self._steps[key]}
    self._progress.update(self._bar, completed=self._completed)
    seconds = time.monotonic() - self._begun
    total, completed = sum(self._steps.values()), self._completed
    left = seconds * (total - completed) / max(completed, 1)
    note = f' ({note})' if note else ''
    self.say(
      f'[{len(self._ended)}/{len(self._steps)}] {self._title(cell)}{note}, '
      f'{_duration(seconds)}, {_duration(left)} left'
    )

  @property
  def _completed(self) -> int:
    return sum(
      min(self._steps[key], sum(stages.values()))
      for key, stages in self._taken.items()
    )

  def _key(self, cell) -> tuple[str, int]:
    return cell.row, cell.seed

  def _title(self, cell) -> str:
    return f'{cell.row}, seed {cell.seed}'


def _duration(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  if minutes < 120:
    return f'{minutes} min'
  return f'{minutes // 60} h {minutes % 60:02} min'
