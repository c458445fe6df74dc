"""What is shown and logged while a run trains.

    <workdir>/metrics.jsonl         one JSON object a line: losses and metrics
    <workdir>/tensorboard/<stage>/  the same for TensorBoard

and a progress bar per stage, or plain lines where there is no terminal.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import math
import pathlib
import time
from typing import Any

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.runtime.files import write_bytes_atomically

# Kinds of lines with metrics: of the split that checkpoints are chosen on, and
# of the one that is reported, in the last epochs.
SELECTION = 'eval'
REPORTED = 'test'
_LOG = 'metrics.jsonl'
# What every line says.
_KEYS = {'stage': str, 'kind': str, 'step': int, 'epoch': int | float}
_PLAIN_SECONDS = 10.0  # between two plain lines


class MetricWriter:
  """Opens a `StageWriter` per stage; silent in all processes but one."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    enabled: bool = True,
    console: Console | None = None,
    on_step: Callable[[str, int], None] | None = None,
  ):
    """Opens nothing yet.

    Args:
      workdir: where the logs go.
      enabled: False in all processes but the main one.
      console: where to print; None for the terminal.
      on_step: is called with a stage and the steps it has taken.
    """
    self.workdir = pathlib.Path(workdir)
    self.enabled = enabled
    self.console = console or Console(quiet=not enabled, highlight=False)
    self.on_step = on_step

  def print(self, *parts: Any) -> None:
    """Prints above a progress bar, rich tables too."""
    self.console.print(*parts, markup=False, soft_wrap=True)

  def stage(
    self, name: str, *, start: int, steps: int, steps_per_epoch: int
  ) -> 'StageWriter':
    """Opens the log of a stage that continues after `start` of `steps`."""
    return StageWriter(
      self, name, start=start, steps=steps, steps_per_epoch=steps_per_epoch
    )


class StageWriter:
  """Progress, JSON lines and TensorBoard of one stage; a context manager."""

  def __init__(
    self,
    parent: MetricWriter,
    name: str,
    *,
    start: int,
    steps: int,
    steps_per_epoch: int,
  ):
    """Opens nothing yet; entering does.

    Args:
      parent: says where, and whether this process writes.
      name: of the stage.
      start: steps that were taken before.
      steps: length of the stage.
      steps_per_epoch: steps in an epoch.
    """
    self._parent = parent
    self._name = name
    self._start = self._step = start
    self._steps = steps
    self._steps_per_epoch = steps_per_epoch
    self._started = None  # when the first step ended: compiling does not count
    self._first = start
    self._paused = 0.0  # seconds since then that went into evaluation
    self._pause_started = None
    self._next_line = -math.inf  # when the next plain line is due
    self._progress = None

  def __enter__(self) -> 'StageWriter':
    """Opens the log.

    Raises:
      InputError: the workdir cannot be written to; also while lines are logged,
        and at the end.
    """
    if not self._parent.enabled:
      return self
    # Imports PyTorch where that is installed, which takes seconds.
    from tensorboardX import SummaryWriter

    workdir = self._parent.workdir
    with _writing(workdir):
      _forget_after(workdir / _LOG, self._name, self._start)
      self._tensorboard = SummaryWriter(
        str(workdir / 'tensorboard' / self._name),
        purge_step=self._start + 1,  # the first step to come is purged
      )
      self._log = open(workdir / _LOG, 'ab', buffering=0)  # each line at once
    if self._parent.console.is_terminal:
      self._progress = _make_progress(self._parent.console)
      self._progress.start()
      self._bar = self._progress.add_task(
        self._name,
        total=self._steps,
        completed=self._start,
        speed='compiling',
        losses='',
      )
    else:
      self._say(f'step {self._start}/{self._steps}, compiling')
    return self

  def __exit__(self, *unused):
    if not self._parent.enabled:
      return
    if self._progress:
      self._progress.stop()
    with _writing(self._parent.workdir):
      self._log.close()
      self._tensorboard.close()

  def train(self, steps: list[tuple[int, Mapping[str, float]]]) -> None:
    """Shows and logs the losses of some steps.

    Args:
      steps: (step, values by name), in order, since the last call. One line is
        logged, with the mean over them (metric_keys.py).
    """
    self._resume_clock()
    self._step = steps[-1][0]
    mean = metric_keys.mean_of_steps([values for _, values in steps])
    speed = self._steps_per_second()
    if self._parent.on_step is not None:
      self._parent.on_step(self._name, self._step)
    if self._parent.enabled:
      self._write('train', mean)
      shown = _show(mean)
      if self._progress:
        self._progress.update(
          self._bar,
          completed=self._step,
          speed=f'{speed:.1f} steps/s' if speed else '',
          losses=shown,
        )
      elif self._step == self._steps or time.monotonic() > self._next_line:
        left = (self._steps - self._step) / speed if speed else math.nan
        pace = f', {speed:.1f} steps/s, {left:.0f} s left' if speed else ''
        self._say(f'step {self._step}/{self._steps}{pace}: {shown}')
    if self._started is None:
      self._started, self._first = time.monotonic(), self._step
      self._paused = 0.0

  def measured(self, steps: list[tuple[int, Mapping[str, float]]]) -> None:
    """Logs what was measured of gradients, a line a step."""
    if self._parent.enabled:
      for step, values in steps:
        means = metric_keys.mean_of_steps([values])
        self._write(metric_keys.OBSERVED, means, step=step)

  def pause(self, reason: str) -> None:
    """Stops the clock until the next step; shows why."""
    self._pause_started = time.monotonic()
    if self._progress:
      self._progress.update(self._bar, speed=reason)

  def scored(self, step: int) -> set[str]:
    """The kinds of evaluation of a step that an earlier run has logged."""
    if not self._parent.enabled:
      return {SELECTION, REPORTED}  # the main process knows
    return {
      e['kind']
      for e in read_log(self._parent.workdir)
      if (e['stage'], e['step']) == (self._name, step)
    }

  def evaluation(
    self,
    step: int,
    metrics: Mapping[str, Mapping[str, float]],
    *,
    kind: str = SELECTION,
  ) -> None:
    """Logs the metrics of a split, SELECTION or REPORTED, and ends a pause."""
    self._resume_clock()
    self._step = step
    if self._parent.enabled:
      self._write(
        kind,
        {f'{t}/{m}': x for t, ms in metrics.items() for m, x in ms.items()},
      )

  def _resume_clock(self):
    if self._pause_started is not None:
      self._paused += time.monotonic() - self._pause_started
      self._pause_started = None

  def _steps_per_second(self):
    if self._started is None or self._step == self._first:
      return None
    seconds = time.monotonic() - self._started - self._paused
    return (self._step - self._first) / max(seconds, 1e-9)

  def _write(self, kind, values, *, step=None):
    step = self._step if step is None else step
    line = {
      'stage': self._name,
      'kind': kind,
      'step': step,
      'epoch': step / self._steps_per_epoch,
      'time': time.time(),
      **{name: _or_none(x) for name, x in values.items()},
    }
    with _writing(self._parent.workdir):
      self._log.write(json.dumps(line).encode() + b'\n')
    for name, x in values.items():
      if math.isfinite(x):
        self._tensorboard.add_scalar(f'{kind}/{name}', x, step)

  def _say(self, text):
    self._next_line = time.monotonic() + _PLAIN_SECONDS
    self._parent.print(f'[{self._name}] {text}')


def read_log(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl; [] when there is none.

  Lines that cannot be read are left out: the last one may be half written.

  Raises:
    InputError: the file cannot be read.
  """
  return [entry for _, entry in _lines(workdir / _LOG) if entry]


def _lines(path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """(raw line, parsed) of a log; {} for what is no line of a log."""
  if not path.exists():
    return
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(
      expected='the log of a run',
      found=f'{error}',
      where=f'{path}',
      do='make it a readable file, or remove it',
    ) from error
  for raw in content.splitlines():
    try:
      entry = json.loads(raw)
    except (ValueError, RecursionError):
      entry = None
    yield raw, entry if _is_line(entry) else {}


def _is_line(entry) -> bool:
  return isinstance(entry, dict) and all(
    isinstance(entry.get(key), kind) for key, kind in _KEYS.items()
  )


def _forget_after(path, stage, step):
  """Takes out what an earlier run logged beyond its last checkpoint."""
  lines = list(_lines(path))
  if lines and not lines[-1][1]:
    del lines[-1]  # half written; others are not ours to judge
  kept = [
    raw
    for raw, entry in lines
    if not entry or entry['stage'] != stage or entry['step'] <= step
  ]
  write_bytes_atomically(path, b''.join(raw + b'\n' for raw in kept))


@contextlib.contextmanager
def _writing(workdir) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{workdir}',
      do='make room, or the folder writable; the run continues from its last '
      'checkpoint',
    ) from error


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


def _or_none(x):
  return x if math.isfinite(x) else None  # JSON has no NaN


def _make_progress(console):
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
