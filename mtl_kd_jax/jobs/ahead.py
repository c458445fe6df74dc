"""Which programs are compiled beside the steps of a run, in a second thread."""

from collections.abc import Callable, Iterator, Mapping
import functools
import itertools
import pathlib
from typing import Any

import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.runtime import checkpointing
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.training.loop import Intervals
from mtl_kd_jax.training.stage import Stage

Compilations = Iterator[Callable[[], None]]


def compilations(
  stage: Stage,
  frozen: Mapping[str, Any],
  *,
  workdir: pathlib.Path,
  intervals: Intervals,
) -> Compilations:
  """What compiles the programs of a stage.

  Args:
    stage: the stage.
    frozen: teacher -> its variables, or their shapes.
    workdir: of the run.
    intervals: what happens how often.

  Yields:
    Functions for another thread, in the order in which the programs are used:
    the step first. None for a stage that was trained to its end, even if it is
    now to be trained for longer.
  """
  folder = workdirs.checkpoint_dir(workdir, stage.name)
  if stage.trained_in is not None or _is_trained(folder):
    return
  measures = 0 < intervals.measure <= stage.total_steps and len(stage.tasks) > 1
  yield from stage.compilations(frozen, measures=measures)


def planned_compilations(
  stage: Stage,
  following: Stage | None,
  plan: Plan,
  **options: Any,
) -> Compilations:
  """The same of a stage of a plan, and what the stage after it begins with.

  Args:
    stage: that is about to be trained.
    following: the stage after it; None for none.
    plan: all stages.
    **options: of `compilations`.

  Yields:
    As `compilations` does.
  """

  def of(stage):
    frozen = {t: plan[n].abstract_result for t, n in stage.inputs.items()}
    return compilations(stage, frozen, **options)

  yield from of(stage)
  if following is None:
    return
  # Only the next one: what is compiled beside steps leaves gaps in memory.
  for compile_step in itertools.islice(of(following), 1):
    if jax.default_backend() == 'cpu':
      # There, its many small programs would wait in XLA's threads for each
      # large one that is being compiled.
      yield functools.partial(_draw, following)
    yield compile_step


def _draw(stage: Stage) -> None:
  stage.init()  # it is not kept; the programs are


def _is_trained(folder) -> bool:
  try:
    return checkpointing.is_finished(folder)
  except (InputError, OSError):
    return False  # who reads it says what is wrong with it
