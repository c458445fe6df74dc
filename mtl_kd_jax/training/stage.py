"""One training stage, from its last checkpoint to its last step.

The one training loop: teachers, baselines and the distilled network differ in
what they are given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import signal
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.errors import NotFiniteError
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_writer import REPORTED, SELECTION, StageReport
from mtl_kd_jax.runtime.parallel import Parallel, any_process
from mtl_kd_jax.runtime.preemption import Stopped, StopSignals
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.conflict import observe_step
from mtl_kd_jax.training.evaluation import Evaluation, Metrics, evaluate
from mtl_kd_jax.training.state import TrainState, init_state
from mtl_kd_jax.training.step import eval_step, train_step


@dataclasses.dataclass(frozen=True)
class Stage:
  """What is trained, for how long, on what.

  Attributes:
    name: e.g. 'teacher_depth'; names its checkpoints and its curves.
    network: the network.
    tasks: the tasks it is trained on and scored by.
    balancer: weighs the task losses, or combines their gradients.
    tx: the optimizer.
    distillation: how teachers are asked, if there are any.
    pretrained: variables of the backbone to begin with, if there are any.
    image_size: (height, width) in pixels.
    seed: of the run.
    epochs: length of the stage.
    steps_per_epoch: optimizer steps in one.
    parallel: places arrays and compiles.
    train_batches: (first step) -> iterator over the remaining batches.
    eval_batches: () -> iterator over the split that is reported.
    select_batches: the same over the split that checkpoints are chosen on, if
      that is another one.
    level: of the gradients that are combined; see `train_step`.
    mode: how alignment losses enter the balancing (objectives.py).
  """

  name: str
  network: nn.Module
  tasks: Mapping[str, Task]
  balancer: Balancer | GradientBalancer
  tx: optax.GradientTransformation
  distillation: Distillation | None
  pretrained: Mapping[str, Any] | None
  image_size: tuple[int, int]
  seed: int
  epochs: int
  steps_per_epoch: int
  parallel: Parallel
  train_batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]
  eval_batches: Callable[[], Iterator[Mapping[str, np.ndarray]]]
  select_batches: Callable[[], Iterator[Mapping[str, np.ndarray]]] | None = None
  level: str = 'parameters'
  mode: str = 'outside'

  @property
  def total_steps(self) -> int:
    """Length of the stage in optimizer steps."""
    return self.epochs * self.steps_per_epoch

  def init(self) -> TrainState:
    """The state before the first step, on every device."""
    # Not under jit: every stage would compile its own program of random draws,
    # while single draws are compiled once for all stages.
    return self.parallel.replicate(
      init_state(
        jax.random.key(self.seed),
        network=self.network,
        image_size=self.image_size,
        balancer=self.balancer,
        tx=self.tx,
        distillation=self.distillation,
        mode=self.mode,
        pretrained=self.pretrained,
      )
    )

  def like(self) -> TrainState:
    """Shapes and placement of the state, with nothing drawn or computed."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.parallel.whole
      ),
      jax.eval_shape(self.init),
    )

  @functools.cached_property
  def train_step(self) -> Callable:
    """The compiled step, (state, teachers, batch) -> (state, losses)."""
    return self.parallel.compile_train_step(
      functools.partial(
        train_step,
        network=self.network,
        tasks=self.tasks,
        balancer=self.balancer,
        tx=self.tx,
        seed=self.seed,
        distillation=self.distillation,
        level=self.level,
        mode=self.mode,
        axis_name=self.parallel.axis_name,
      )
    )

  @functools.cached_property
  def observe_step(self) -> Callable:
    """The compiled look, (state, teachers, batch) -> norms and cosines."""
    return self.parallel.compile_observe_step(
      functools.partial(
        observe_step,
        network=self.network,
        tasks=self.tasks,
        distillation=self.distillation,
        axis_name=self.parallel.axis_name,
      )
    )

  @functools.cached_property
  def eval_step(self) -> Callable:
    """The compiled step, (variables, batch) -> (statistics, predictions)."""
    return self.parallel.compile_eval_step(
      functools.partial(
        eval_step,
        network=self.network,
        tasks=self.tasks,
        axis_name=self.parallel.axis_name,
      )
    )

  def evaluate(
    self, variables: Any, *, select: bool = False, keep: int = 0
  ) -> Evaluation:
    """Scores the network.

    Args:
      variables: of the network.
      select: on the split that checkpoints are chosen on, instead of the one
        that is reported.
      keep: how many predictions to keep, of the first samples.
    """
    chosen_on = self.select_batches or self.eval_batches
    return evaluate(
      self.eval_step,
      variables,
      chosen_on() if select else self.eval_batches(),
      self.tasks,
      parallel=self.parallel,
      keep=keep,
    )


@dataclasses.dataclass(frozen=True)
class Rhythm:
  """What happens how often, in steps of the stage; 0 for never.

  Attributes:
    report: log losses.
    checkpoint: save (two periods, in steps).
    evaluate: score the split that checkpoints are chosen on.
    average: the steps after which the split that is reported is scored, for
      the mean over the last epochs.
    observe: measure the gradients of the tasks, where there are several.
  """

  report: int
  checkpoint: tuple[int, int]
  evaluate: int
  average: range = range(0)
  observe: int = 0


def run_stage(
  stage: Stage,
  teachers: Mapping[str, Any],
  *,
  checkpoints: Checkpoints,
  report: Callable[[int], StageReport],
  rhythm: Rhythm,
  score: Callable[[Metrics], float],
) -> TrainState:
  """Trains until the last step, or goes on where an earlier run ended.

  Args:
    stage: what to train.
    teachers: task -> frozen variables; {} for no distillation.
    checkpoints: the stage's folder. A finished stage is only read.
    report: (first step) -> where progress is shown and logged.
    rhythm: what happens how often.
    score: metrics -> number whose highest value marks the best checkpoint.

  Returns:
    The state after the last step.

  Raises:
    NotFiniteError: a loss or the gradient became NaN or infinite. Nothing
      computed since the last checkpoint is saved.
    Stopped: a signal asked for it; the state is saved.
  """
  state = checkpoints.restore_last(stage.like()) or stage.init()
  start = step = int(state.step)
  progress = report(start)
  finished = checkpoints.finished
  # What an earlier run, killed after saving, has not scored.
  missed = [
    kind
    for kind in (_scores_due(stage, rhythm, start) if start else ())
    if any_process(kind not in progress.scored(start))
  ]
  if finished and not missed:
    return state
  batches = stage.train_batches(start) if not finished else iter(())
  score_stage = functools.partial(
    _score, stage, progress=progress, checkpoints=checkpoints, score=score
  )
  with StopSignals() as stop, progress:
    score_stage(state, missed)
    unchecked, observed = [], []
    for step in range(start + 1, stage.total_steps + 1):
      batch = stage.parallel.shard(next(batches))
      if len(stage.tasks) > 1 and _due(step, rhythm.observe):
        seen = stage.observe_step(state, teachers, batch)
        observed.append((step, seen))
      state, losses = stage.train_step(state, teachers, batch)
      unchecked.append((step, losses))

      last = step == stage.total_steps
      saves = last or any(_due(step, n) for n in rhythm.checkpoint)
      reports = saves or _due(step, rhythm.report) or step == start + 1
      stops = stop.received is not None
      if jax.process_count() > 1:  # all hosts must leave at the same step
        stops = reports and any_process(stops)
      if reports or stops:
        progress.train(_checked(stage.name, unchecked))
        progress.observed(_checked(stage.name, observed))
        unchecked, observed = [], []
      if saves or stops:
        checkpoints.save(step, state, finished=last)
      # After saving: who is killed while it evaluates has lost nothing.
      score_stage(state, _scores_due(stage, rhythm, step))
      if stops:
        break
    # Asked again: the wish may have come during the last evaluation.
    stops = any_process(stop.received is not None)
  checkpoints.wait()
  if stops:
    raise Stopped(
      f'stopped in stage {stage.name} after step {step} of '
      f'{stage.total_steps}; the state is saved',
      stop.received or signal.SIGTERM,
    )
  return state


def _scores_due(stage: Stage, rhythm: Rhythm, step: int) -> list[str]:
  """What is scored after a step: SELECTION, REPORTED, both or nothing."""
  last = step == stage.total_steps
  due = {
    SELECTION: last or _due(step, rhythm.evaluate),
    REPORTED: step in rhythm.average,
  }
  return [kind for kind, is_due in due.items() if is_due]


def _score(
  stage: Stage,
  state: TrainState,
  kinds: Sequence[str],
  *,
  progress: StageReport,
  checkpoints: Checkpoints,
  score: Callable[[Metrics], float],
) -> None:
  """Scores a state on the splits that are due, and keeps it if it is best."""
  if not kinds:
    return
  progress.pause('evaluating')
  step, metrics = int(state.step), {}
  for kind in kinds:
    if metrics and stage.select_batches is None:  # one split for both
      metrics[kind] = metrics[SELECTION]
      continue
    select = kind == SELECTION
    metrics[kind] = stage.evaluate(state.variables, select=select).metrics
  if SELECTION in kinds:
    checkpoints.save_if_best(step, state, score(metrics[SELECTION]))
    # What is in the log is not done again by a run that goes on.
    checkpoints.wait()
  for kind in kinds:
    progress.evaluation(step, metrics[kind], kind=kind)


def _due(step: int, period: int) -> bool:
  return period > 0 and step % period == 0


def _checked(stage: str, steps) -> list[tuple[int, dict[str, float]]]:
  """Fetches the losses of some steps and stops at the first bad one."""
  fetched = [
    (step, {name: float(x) for name, x in values.items()})
    for step, values in jax.device_get(steps)
  ]
  for step, losses in fetched:
    bad = [name for name, x in losses.items() if not np.isfinite(x)]
    # The sum and the gradient only follow: name the term that broke.
    if culprits := [n for n in bad if '/' in n] or bad:
      raise NotFiniteError(
        f'{", ".join(f"{n} = {losses[n]}" for n in culprits)} in stage '
        f'{stage}, step {step}: training has stopped\n'
        '  The last checkpoint before it is intact. A lower '
        'config.optim.learning_rate (or config.distill.learning_rate, for an '
        'alignment) usually helps; with the same settings it will happen again.'
      )
  return fetched
