"""What is shown and logged while a run trains.

    <workdir>/metrics.jsonl         one JSON object a line: losses and metrics

the same in trackers, such as TensorBoard, and a progress bar per stage, or
plain lines where there is no terminal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import math
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mtl_kd_jax.runtime import buckets, metric_keys
from mtl_kd_jax.runtime.metric_log import (
  REPORTED,
  SELECTION,
  MetricLog,
  read_log,
)
from mtl_kd_jax.runtime.preemption import Stopped
from mtl_kd_jax.runtime.stage_progress import StageProgress
from mtl_kd_jax.runtime.trackers.base import Description
from mtl_kd_jax.runtime.trackers.session import Trackers

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path


class MetricWriter:
  """Opens a `StageWriter` per stage; silent in all processes but one."""

  def __init__(
    self,
    workdir: 'Path',
    *,
    enabled: bool = True,
    console: Console | None = None,
    on_step: Callable[[str, int], None] | None = None,
    group: str = '',
  ):
    """Opens nothing yet.

    Args:
      workdir: where the logs go.
      enabled: False in all processes but the main one.
      console: where to print; None for the terminal.
      on_step: is called with a stage and the steps it has taken.
      group: what trackers show the run in; '' for none.
    """
    self.workdir = buckets.path_of(workdir)
    self.enabled = enabled
    self.console = console or Console(quiet=not enabled, highlight=False)
    self.on_step = on_step
    self.group = group
    self.trackers: Trackers | None = None

  def print(self, *parts: Any) -> None:
    """Prints above a progress bar, rich tables too."""
    self.console.print(*parts, markup=False, soft_wrap=True)

  def track(
    self, trackers: Sequence[str], *, name: str, config: Mapping[str, Any]
  ) -> None:
    """Logs to trackers too, until `close`.

    Args:
      trackers: see `check_trackers`.
      name: of the run.
      config: of the run, a nested dictionary.

    Raises:
      InputError: one cannot be opened.
    """
    if self.enabled and self.trackers is None:
      about = Description(self.workdir, name, config, self.group)
      self.trackers = Trackers(trackers, about, say=self.print)

  @contextlib.contextmanager
  def closed_on_error(self) -> Iterator[None]:
    """Tells trackers how the run ended where the block raises."""
    try:
      yield
    except BaseException as error:
      stopped = isinstance(error, Stopped | KeyboardInterrupt)
      self.close('stopped' if stopped else 'failed')
      raise

  def report(
    self,
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    files: Sequence['Path'] = (),
  ) -> None:
    """Gives trackers what a run has scored.

    Args:
      results: stage -> task -> metric -> value.
      files: tables and figures.
    """
    if self.trackers is not None:
      self.trackers.report(
        {
          f'{stage}/result/{task}/{metric}': value
          for stage, tasks in results.items()
          for task, metrics in tasks.items()
          for metric, value in metrics.items()
          if value is not None and math.isfinite(value)
        },
        files,
      )

  def close(self, status: str = 'finished') -> None:
    """Closes the trackers; see `Tracker.close`."""
    if self.trackers is not None:
      self.trackers.close(status)
      self.trackers = None

  def stage(
    self, name: str, *, start: int, steps: int, steps_per_epoch: int
  ) -> 'StageWriter':
    """Opens the log of a stage that continues after `start` of `steps`."""
    return StageWriter(
      self, name, start=start, steps=steps, steps_per_epoch=steps_per_epoch
    )


class StageWriter:
  """Progress, JSON lines and trackers of one stage; a context manager."""

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
    self._steps_per_epoch = steps_per_epoch
    self._progress = StageProgress(
      parent.console, name, start=start, steps=steps
    )

  def __enter__(self) -> 'StageWriter':
    """Opens the log.

    Raises:
      InputError: the workdir cannot be written to; also while lines are logged,
        and at the end.
    """
    if not self._parent.enabled:
      return self
    if self._parent.trackers is not None:
      self._parent.trackers.begin(self._name, self._start)
    self._log = MetricLog(self._parent.workdir, self._name, start=self._start)
    self._progress.start()
    return self

  def __exit__(self, *unused):
    if not self._parent.enabled:
      return
    self._progress.stop()
    self._log.close()
    if self._parent.trackers is not None:
      self._parent.trackers.end(self._name)

  def train(self, steps: list[tuple[int, Mapping[str, float]]]) -> None:
    """Shows and logs the losses of some steps.

    Args:
      steps: (step, values by name), in order, since the last call. One line is
        logged, with the mean over them (metric_keys.py).
    """
    self._step = steps[-1][0]
    if self._parent.on_step is not None:
      self._parent.on_step(self._name, self._step)
    if self._parent.enabled:
      mean = metric_keys.mean_of_steps([values for _, values in steps])
      self._write('train', mean)
      self._progress.show(self._step, mean)

  def measured(self, steps: list[tuple[int, Mapping[str, float]]]) -> None:
    """Logs what was measured of gradients, a line a step."""
    if self._parent.enabled:
      for step, values in steps:
        means = metric_keys.mean_of_steps([values])
        self._write(metric_keys.OBSERVED, means, step=step)

  def pause(self, reason: str) -> None:
    """Stops the clock until the next step; shows why."""
    if self._parent.enabled:
      self._progress.pause(reason)

  def teachers(self, compared: Mapping[str, Any]) -> None:
    """Shows and logs what teachers were chosen from, if they were.

    Args:
      compared: task -> its `Contest`.
    """
    if not compared or not self._parent.enabled:
      return
    said = [
      f'{task} {"the baseline" if c.baseline_wins else "its own network"} '
      f'({c.baseline:.4g} against {c.teacher:.4g})'
      for task, c in compared.items()
    ]
    self._progress.say(f'teachers: {", ".join(said)}')
    values = {}
    for task, contest in compared.items():
      values[metric_keys.key(metric_keys.TEACHER, task)] = contest.teacher
      values[metric_keys.key(metric_keys.BASELINE, task)] = contest.baseline
    self._write(metric_keys.CHOSEN, values)

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
    self._step = step
    if self._parent.enabled:
      self._progress.resume()
      self._write(
        kind,
        {f'{t}/{m}': x for t, ms in metrics.items() for m, x in ms.items()},
      )

  def _write(self, kind, values, *, step=None):
    step = self._step if step is None else step
    line = self._log.append(
      self._name,
      kind,
      values,
      step=step,
      epoch=step / self._steps_per_epoch,
    )
    if self._parent.trackers is not None:
      self._parent.trackers.log(line)
