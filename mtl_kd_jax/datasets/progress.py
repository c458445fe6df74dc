"""Progress of a long preparation: a bar on a terminal, else a few lines."""

from collections.abc import Callable, Iterator
import contextlib
import time

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)

_LINE_SECONDS = 30


@contextlib.contextmanager
def show_progress(
  title: str, console: Console
) -> Iterator[Callable[[int, int], None]]:
  """Yields a function to call with (number done, total number).

  Args:
    title: of the bar, e.g. 'preparing cityscapes 128x256'.
    console: if it is a terminal, a bar is drawn. Otherwise a line is printed at
      the start, every half minute and at the end.
  """
  if not console.is_terminal:
    yield _Lines(title, console)
    return
  bar = Progress(
    TextColumn('{task.description}'),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
    TextColumn('{task.fields[speed]}'),
    TimeRemainingColumn(),
    TextColumn('left'),
    console=console,
    transient=True,
  )
  with bar:
    task = bar.add_task(title, total=None, speed='')
    start = time.monotonic()

    def progress(done, total):
      speed = f'{done / (time.monotonic() - start):.1f}/s'
      bar.update(task, completed=done, total=total, speed=speed)

    yield progress


class _Lines:
  def __init__(self, title, console):
    self._title, self._console = title, console
    self._start = self._printed = time.monotonic()
    self._console.print(f'{title} ...', highlight=False)

  def __call__(self, done, total):
    now = time.monotonic()
    if done == total or now - self._printed > _LINE_SECONDS:
      self._printed = now
      speed = done / max(now - self._start, 1e-9)
      self._console.print(
        f'{self._title}: {done}/{total}, {speed:.1f}/s', highlight=False
      )
