"""Shows how far a long preparation is: a bar, or now and then a line."""

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

_PLAIN_SECONDS = 30


@contextlib.contextmanager
def show_progress(
  title: str, console: Console
) -> Iterator[Callable[[int, int], None]]:
  """Gives a function to call with (done so far, how many in all).

  Args:
    title: what is done: 'preparing cityscapes 128x256'.
    console: a bar is drawn when it is a terminal. Otherwise a line is printed
      at the beginning, every half minute and at the end.
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
    begun = time.monotonic()

    def progress(done, total):
      speed = f'{done / (time.monotonic() - begun):.1f}/s'
      bar.update(task, completed=done, total=total, speed=speed)

    yield progress


class _Lines:
  def __init__(self, title, console):
    self._title, self._console = title, console
    self._begun = self._said = time.monotonic()
    self._console.print(f'{title} ...', highlight=False)

  def __call__(self, done, total):
    now = time.monotonic()
    if done == total or now - self._said > _PLAIN_SECONDS:
      self._said = now
      speed = done / max(now - self._begun, 1e-9)
      self._console.print(
        f'{self._title}: {done}/{total}, {speed:.1f}/s', highlight=False
      )
