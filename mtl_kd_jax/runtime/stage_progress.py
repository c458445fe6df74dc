"""How far a stage is: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Mapping
import math
import time

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

from mtl_kd_jax.runtime import metric_keys

_PLAIN_SECONDS = 10.0  # between two plain lines


class StageProgress:
  """Shows the steps of a stage, their speed and losses."""

  def __init__(self, console: Console, name: str, *, start: int, steps: int):
    """Shows nothing yet.

    Args:
      console: where to print.
      name: of the stage.
      start: steps that were taken before.
      steps: length of the stage.
    """
    self._console = console
    self._name = name
    self._first = self._start = start
    self._steps = steps
    self._started = None  # when the first step ended: compiling does not count
    self._paused = 0.0  # seconds since then that went into evaluation
    self._pause_started = None
    self._next_line = -math.inf  # when the next plain line is due
    self._bar = _make_bar(console) if console.is_terminal else None

  def start(self) -> None:
    """Shows that the first step is being compiled."""
    if self._bar is None:
      self.say(f'step {self._start}/{self._steps}, compiling')
      return
    self._bar.start()
    self._row = self._bar.add_task(
      self._name,
      total=self._steps,
      completed=self._start,
      speed='compiling',
      losses='',
    )

  def stop(self) -> None:
    """Takes the bar away."""
    if self._bar:
      self._bar.stop()

  def show(self, step: int, losses: Mapping[str, float]) -> None:
    """Shows a step that was taken, and ends a pause."""
    self.resume()
    speed, shown = self._steps_per_second(step), _show(losses)
    if self._bar:
      self._bar.update(
        self._row,
        completed=step,
        speed=f'{speed:.1f} steps/s' if speed else '',
        losses=shown,
      )
    elif step == self._steps or time.monotonic() > self._next_line:
      left = (self._steps - step) / speed if speed else math.nan
      pace = f', {speed:.1f} steps/s, {left:.0f} s left' if speed else ''
      self.say(f'step {step}/{self._steps}{pace}: {shown}')
    if self._started is None:
      self._started, self._first = time.monotonic(), step
      self._paused = 0.0

  def pause(self, reason: str) -> None:
    """Stops the clock until the next step; shows why."""
    self._pause_started = time.monotonic()
    if self._bar:
      self._bar.update(self._row, speed=reason)

  def resume(self) -> None:
    """Starts the clock again."""
    if self._pause_started is not None:
      self._paused += time.monotonic() - self._pause_started
      self._pause_started = None

  def say(self, text: str) -> None:
    """Prints a line about the stage."""
    self._next_line = time.monotonic() + _PLAIN_SECONDS
    self._console.print(f'[{self._name}] {text}', markup=False, soft_wrap=True)

  def _steps_per_second(self, step):
    if self._started is None or step == self._first:
      return None
    seconds = time.monotonic() - self._started - self._paused
    return (step - self._first) / max(seconds, 1e-9)


def _show(losses):
  """E.g. 'loss 4.871: depth 0.912 (aligned 0.604), semantic 1.310 (...)'."""
  parts = []
  for name in losses:
    if metric_keys.kind_of(name) != metric_keys.TASK_LOSS:
      continue
    for task in metric_keys.objectives_of(name):
      aligned = losses.get(metric_keys.alignment(task))
      note = '' if aligned is None else f' (aligned {aligned:.3f})'
      x = losses[name]
      shown = f'{x:.3f}' if math.isfinite(x) else 'no label'
      parts.append(f'{task} {shown}{note}')
  return f'loss {losses[metric_keys.TOTAL]:.3f}: {", ".join(parts)}'


def _make_bar(console):
  return Progress(
    TextColumn('{task.description}'),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
    TextColumn('{task.fields[speed]}'),
    TimeElapsedColumn(),
    TextColumn('left'),
    TimeRemainingColumn(),
    TextColumn('{task.fields[losses]}'),
    console=console,
  )
