"""The one training loop: a stage, from its last checkpoint to its last step."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import signal
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.errors import NotFiniteError
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_log import REPORTED, SELECTION
from mtl_kd_jax.runtime.metric_writer import StageWriter
from mtl_kd_jax.runtime.parallel import any_process
from mtl_kd_jax.runtime.preemption import Preemption, Stopped
from mtl_kd_jax.training.adaptation import BASELINE
from mtl_kd_jax.training.evaluation import Metrics
from mtl_kd_jax.training.stage import Stage
from mtl_kd_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Intervals:
  """What happens how often, in steps of the stage; 0 for never.

  Attributes:
    report: log losses.
    checkpoint: save (two periods, in steps).
    evaluate: score the split that checkpoints are chosen on.
    average: the steps after which the split that is reported is scored, for
      the mean over the last epochs.
    measure: measure the gradients of the tasks, where there are several.
  """

  report: int
  checkpoint: tuple[int, int]
  evaluate: int
  average: range = range(0)
  measure: int = 0


def run_stage(
  stage: Stage,
  frozen: Mapping[str, Any],
  *,
  checkpoints: Checkpoints,
  open_writer: Callable[[int], StageWriter],
  intervals: Intervals,
  score: Callable[[Metrics], float],
  known: Mapping[str, Metrics] = MappingProxyType({}),
) -> TrainState:
  """Trains until the last step, or continues where an earlier run ended.

  Args:
    stage: what to train.
    frozen: teacher -> its variables; {} without teachers.
    checkpoints: the stage's folder. A finished stage is only read.
    open_writer: (first step) -> where progress is shown and logged.
    intervals: what happens how often.
    score: metrics -> number whose highest value marks the best checkpoint.
    known: teacher -> its metrics on the split that checkpoints are chosen on,
      as far as they are known already.

  Returns:
    The state after the last step.

  Raises:
    NotFiniteError: a loss or the gradient became NaN or infinite. What was
      computed since the last checkpoint, if there is one, is not saved.
    Stopped: a signal asked for it; the state is saved.
  """
  # --- Where an earlier run ended ---------------------------------------------
  state = checkpoints.restore_last(stage.abstract_checkpoint)
  state = stage.init() if state is None else stage.parallel.place(state)
  start = step = int(state.step)
  writer = open_writer(start)
  # A run may go on for longer than it once ended.
  finished = checkpoints.finished and start >= stage.total_steps
  # What an earlier run, killed after saving, has not scored.
  missed = [
    kind
    for kind in (_scores_due(stage, intervals, start) if start else ())
    if any_process(kind not in writer.scored(start))
  ]
  if finished and not missed:
    return state
  # --- Step by step -----------------------------------------------------------
  with Preemption() as preemption, writer:
    if stage.rival is not None:
      writer.pause('choosing the teachers')
    # The same again where a run continues: scores do not change.
    frozen, known, compared = stage.choose_teachers(frozen, known)
    writer.teachers(compared)
    scores = _Scores(
      stage, frozen, known, writer, checkpoints, score, intervals.evaluate
    )
    state = scores.take(state, missed) if start else scores.begin(state)
    if stage.cache is not None and not finished:
      writer.pause('computing the outputs of the teachers')
    batches = iter(()) if finished else stage.batches(frozen, start)
    unchecked, measured, stops = [], [], False
    for step in range(start + 1, stage.total_steps + 1):
      batch = stage.parallel.shard(next(batches))
      if len(stage.tasks) > 1 and _due(step, intervals.measure):
        seen = stage.measure_conflict(state, frozen, batch)
        measured.append((step, seen))
      state, losses = stage.train_step(state, frozen, batch)
      unchecked.append((step, losses))

      last = step == stage.total_steps
      saves = last or any(_due(step, n) for n in intervals.checkpoint)
      reports = saves or _due(step, intervals.report) or step == start + 1
      stops = preemption.requested(sync=reports)
      if reports or stops:
        saved = checkpoints.latest_step
        writer.train(_checked(stage.name, unchecked, saved))
        writer.measured(_checked(stage.name, measured, saved))
        unchecked, measured = [], []
      due = _scores_due(stage, intervals, step)
      if scores.change_state:  # it is part of what is saved
        state, due = scores.take(state, due), []
      if saves or stops:
        whole = stage.parallel.saveable(state)
        checkpoints.save(step, whole, finished=last)
      # After saving: who is killed while it evaluates has lost nothing.
      state = scores.take(state, due)
      if stops:
        break
    # Asked again: the signal may have come during the last evaluation.
    stops = stops or preemption.requested(sync=True)
  checkpoints.wait()
  if stops:
    raise Stopped(
      f'stopped in stage {stage.name} after step {step} of '
      f'{stage.total_steps}; the state is saved',
      preemption.signum or signal.SIGTERM,
    )
  return state


class _Scores:
  """Scores states on the splits that are due, and keeps the best."""

  def __init__(
    self,
    stage: Stage,
    frozen: Mapping[str, Any],
    known: Mapping[str, Metrics],
    writer: StageWriter,
    checkpoints: Checkpoints,
    score: Callable[[Metrics], float],
    period: int,
  ):
    self._stage, self._frozen, self._known = stage, frozen, known
    self._period = period
    self._writer = writer
    self._checkpoints, self._score = checkpoints, score
    self._follows = stage.adapt is not None and stage.adapt.baseline is None
    self.change_state = stage.balancer.on_metrics is not None or self._follows

  def begin(self, state: TrainState) -> TrainState:
    """The state before the first step, with what follows from a baseline."""
    adapt = self._stage.adapt
    if adapt is None or adapt.baseline is None:
      return state
    self._writer.pause('scoring the baseline and the teachers')
    metrics = self._stage.score_frozen(
      adapt.baseline, self._frozen[BASELINE], self._known.get(BASELINE)
    )
    return self._with_factors(state, metrics)

  def take(self, state: TrainState, kinds: Sequence[str]) -> TrainState:
    """Scores a state; returns it with what follows from the metrics."""
    if not kinds:
      return state
    stage = self._stage
    self._writer.pause('evaluating')
    step, metrics = int(state.step), {}
    for kind in kinds:
      if metrics and stage.data.select is None:  # one split for both
        metrics[kind] = metrics[SELECTION]
        continue
      select = kind == SELECTION
      metrics[kind] = stage.evaluate(state.result, select=select).metrics
    if SELECTION in kinds:
      # The last step is always scored. A run that is trained for longer goes on
      # as one would that was from the beginning.
      if _due(step, self._period):
        state = self._follow(state, metrics[SELECTION])
      self._checkpoints.save_if_best(
        step,
        stage.parallel.saveable(state),
        self._score(metrics[SELECTION]),
      )
      # What is in the log is not done again by a run that continues.
      self._checkpoints.wait()
    for kind in kinds:
      self._writer.evaluation(step, metrics[kind], kind=kind)
    return state

  def _follow(self, state: TrainState, metrics: Metrics) -> TrainState:
    """The state with what the balancer, and lambda, make of the metrics."""
    stage, follows = self._stage, {}
    if stage.balancer.on_metrics is not None:
      follows['balancer_state'] = stage.balancer.on_metrics(
        metrics, state.balancer_state
      )
    state = state.replace(**stage.parallel.place(follows))
    return self._with_factors(state, metrics) if self._follows else state

  def _with_factors(self, state: TrainState, metrics: Metrics) -> TrainState:
    factors = self._stage.adapt.factors(metrics, self._teachers)
    factors = {name: np.float32(x) for name, x in factors.items()}
    return state.replace(factors=self._stage.parallel.replicate(factors))

  @functools.cached_property
  def _teachers(self) -> dict[str, Metrics]:
    return self._stage.score_teachers(self._frozen, self._known)


def _scores_due(stage: Stage, intervals: Intervals, step: int) -> list[str]:
  """What is scored after a step: SELECTION, REPORTED, both or nothing."""
  last = step == stage.total_steps
  due = {
    SELECTION: last or _due(step, intervals.evaluate),
    REPORTED: step in intervals.average,
  }
  return [kind for kind, is_due in due.items() if is_due]


def _due(step: int, period: int) -> bool:
  return period > 0 and step % period == 0


def _checked(
  stage: str, steps, saved: int | None
) -> list[tuple[int, dict[str, float]]]:
  """Fetches the losses of some steps and stops at the first bad one."""
  fetched = [
    (step, {name: float(x) for name, x in values.items()})
    for step, values in jax.device_get(steps)
  ]
  for step, losses in fetched:
    bad = [name for name, x in losses.items() if not np.isfinite(x)]
    # The sum and the gradient only follow: name the term that broke.
    totals = (metric_keys.TOTAL, metric_keys.GRADIENT_NORM)
    if culprits := [n for n in bad if n not in totals] or bad:
      raise NotFiniteError(
        f'{", ".join(f"{n} = {losses[n]}" for n in culprits)} in stage '
        f'{stage}, step {step}: training has stopped\n'
        f'  {_what_is_saved(saved)} A lower learning rate (of the network or, '
        'for an alignment, of the adaptors) usually helps; with the same '
        'settings it will happen again.'
      )
  return fetched


def _what_is_saved(step: int | None) -> str:
  if step is None:
    return 'Nothing of this stage was saved before.'
  return f'The checkpoint of step {step} is intact.'
