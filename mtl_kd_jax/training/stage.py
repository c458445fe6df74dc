"""One training stage: a network, what it descends on, how, and for how long.

Teachers, baselines and the distilled network differ in what stands here; the
loop that runs a stage is one for all (loop.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.runtime.program import Program
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.adaptation import BASELINE, Adaptation
from mtl_kd_jax.training.choosing import Contest, contests, part_of
from mtl_kd_jax.training.combined import check_grad_wrt
from mtl_kd_jax.training.computation import PLAIN, Computation
from mtl_kd_jax.training.conflict import measure_conflict
from mtl_kd_jax.training.evaluation import Evaluation, Metrics, evaluate
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm, check_terms
from mtl_kd_jax.training.recalibration import recalibrate
from mtl_kd_jax.training.state import AVERAGED, NETWORK, TrainState, init_state
from mtl_kd_jax.training.step import eval_step, train_step
from mtl_kd_jax.training.teacher_cache import TeacherCache, arrays_read

Batches = Iterator[Mapping[str, np.ndarray]]

# The row of the networks of single tasks, which gains are relative to.
SINGLE_TASK = 'single-task'


def single_task_name(task: str) -> str:
  """The name of the stage whose network is the single-task one of a task."""
  return f'teacher_{task}'


def row_of(name: str, tasks: Sequence[str]) -> str:
  """The row of the result table of a network, where nothing else is said.

  Its name, but for single-task networks, which share a row.

  Args:
    name: of its stage.
    tasks: that it predicts.
  """
  alone = len(tasks) == 1 and name == single_task_name(*tasks)
  return SINGLE_TASK if alone else name


def _placed(tree: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    tree,
    shardings,
  )


@dataclasses.dataclass(frozen=True)
class StageData:
  """Where a stage's batches come from; this process's share of them.

  Attributes:
    image_size: (height, width) in pixels.
    batch: the shapes of a batch's arrays, [b/processes ...].
    steps_per_epoch: optimizer steps in an epoch.
    train: (steps taken) -> iterator over the remaining training batches.
    eval: () -> iterator over the split that is reported.
    select: the same over the split that checkpoints are chosen on; None where
      it is the one that is reported.
  """

  image_size: tuple[int, int]
  batch: Mapping[str, jax.ShapeDtypeStruct]
  steps_per_epoch: int
  train: Callable[[int], Batches]
  eval: Callable[[], Batches]
  select: Callable[[], Batches] | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
  """What is trained, for how long, on what.

  Attributes:
    name: e.g. 'teacher_depth'; names its checkpoints and its curves.
    network: the network.
    tasks: the tasks it is trained on and scored by.
    terms: all that it descends on.
    tx: optimizer of the network.
    data: its batches.
    epochs: its length.
    parallel: places arrays and compiles.
    balancer: weighs the objectives, or combines their gradients.
    grad_wrt: of the gradients that are combined; see `train_step`.
    teachers: name -> frozen network.
    inputs: teacher -> the stage whose network it is.
    extras: name -> network with an optimizer of its own, trained along.
    rival: the network of the input `BASELINE`, which teaches in place of the
      teachers that it is better than (choosing.py); None for none.
    cache: keeps the outputs of the teachers; None to compute them in every
      step.
    adapt: sets factors on the weights of terms from scores.
    computation: in which precision, and in how many micro-batches.
    ema: decay of the moving average of the network's variables, which is then
      what is scored and kept; 0 for none.
    pretrained: variables to begin with, see `init_state`.
    seed: of the run.
    row: of the result table; its name where ''. Networks of single tasks may
      share one.
    trained_in: the folder of another run that has trained it; it is then only
      read.
    description: how it was made, in plain values, for the record.
  """

  name: str
  network: Network
  tasks: Mapping[str, Task]
  terms: Sequence[LossTerm]
  tx: optax.GradientTransformation
  data: StageData
  epochs: int
  parallel: Parallel
  balancer: Balancer | GradientBalancer = dataclasses.field(
    default_factory=lambda: balancing.make('uniform')
  )
  grad_wrt: str = 'parameters'
  teachers: Mapping[str, Teacher] = dataclasses.field(default_factory=dict)
  inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
  extras: Mapping[str, ExtraNetwork] = dataclasses.field(default_factory=dict)
  rival: Network | None = None
  cache: TeacherCache | None = None
  adapt: Adaptation | None = None
  computation: Computation = PLAIN
  ema: float = 0.0
  pretrained: Mapping[str, Any] | None = None
  seed: int = 0
  row: str = ''
  trained_in: pathlib.Path | None = None
  description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    check_terms(self.terms, tuple(self.network.channels))
    check_grad_wrt(self.balancer, self.grad_wrt)
    taken = {NETWORK, AVERAGED, *self.teachers}.intersection(self.extras)
    if taken:
      raise InputError(
        expected='extra networks with names of their own',
        found=f'{", ".join(sorted(taken))}, the name of the network or of a '
        'teacher',
        argument='extras',
        do='give it another name',
      )

  @property
  def total_steps(self) -> int:
    """Length of the stage in optimizer steps."""
    return self.epochs * self.data.steps_per_epoch

  def init(self) -> TrainState:
    """The state before the first step, on every device."""
    # Not under jit: every stage would compile its own program of random draws,
    # while single draws are compiled once for all stages.
    return self.parallel.place(self._init())

  def _init(self) -> TrainState:
    return init_state(
      jax.random.key(self.seed),
      network=self.network,
      image_size=self.data.image_size,
      tx=self.tx,
      extras=self.extras,
      init_balancer=balancer_init(self.balancer, self.terms),
      pretrained=self.pretrained,
      adapted=self.adapt.terms if self.adapt else (),
      averaged=bool(self.ema),
    )

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """Shapes and placement of the state; nothing is drawn or computed."""
    state = jax.eval_shape(self._init)
    return _placed(state, self.parallel.state_sharding(state))

  @property
  def abstract_checkpoint(self) -> TrainState:
    """The same of a state as it is read from checkpoints."""
    if jax.process_count() == 1:
      return self.abstract_state
    # Checksums are of whole arrays, all of which a process has to see.
    whole = self.parallel.replicated
    state = self.abstract_state
    return _placed(state, jax.tree.map(lambda _: whole, state))

  @functools.cached_property
  def teacher_arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
    """What terms read of the teachers, with a cache; see `arrays_read`."""
    return arrays_read(self, self.cache.missing) if self.cache else {}

  @property
  def abstract_result(self) -> dict[str, Any]:
    """Shapes and placement of the network's variables, as they teach."""
    whole = self.parallel.replicated
    result = self.abstract_state.result
    return _placed(result, jax.tree.map(lambda _: whole, result))

  def compilations(
    self, frozen: Mapping[str, Any], *, measures: bool
  ) -> Iterator[Callable[[], None]]:
    """Yields what compiles the programs of the training, in their order of use.

    Each may run in any thread, and does nothing if the program was called
    before.

    Args:
      frozen: teacher -> its variables, or their shapes.
      measures: whether `measure_conflict` is called.
    """
    state, batch = self.abstract_state, self._abstract_batch(trained=True)
    yield functools.partial(self.train_step.compile, state, frozen, batch)
    if measures:
      measure = self.measure_conflict.compile
      yield functools.partial(measure, state, frozen, batch)
    batch = self._abstract_batch(trained=False)
    yield functools.partial(self.eval_step.compile, state.result, batch)

  def _abstract_batch(self, *, trained: bool) -> dict[str, Any]:
    arrays = dict(self.data.batch)
    b = arrays['image'].shape[0]
    if trained and self.cache is not None:
      for name, x in self.teacher_arrays.items():
        arrays[name] = jax.ShapeDtypeStruct(
          (b, *x.shape[1:]), jnp.dtype(self.cache.dtype)
        )
    return self.parallel.abstract(arrays)

  @functools.cached_property
  def train_step(self) -> Program:
    """The compiled step, (state, frozen, batch) -> (state, measured)."""
    return self.parallel.compile_train_step(
      functools.partial(
        train_step,
        tx=self.tx,
        balancer=self.balancer,
        grad_wrt=self.grad_wrt,
        ema=self.ema,
        gather=self.parallel.gather,
        **self._step_options,
      ),
      self.abstract_state,
    )

  @functools.cached_property
  def measure_conflict(self) -> Program:
    """Compiled, (state, frozen, batch) -> norms and cosines of gradients."""
    return self.parallel.compile_measurement(
      functools.partial(measure_conflict, **self._step_options)
    )

  @functools.cached_property
  def eval_step(self) -> Program:
    """The compiled step, (variables, batch) -> (statistics, predictions)."""
    return self._compile_eval_step(self.network, self.tasks)

  def _compile_eval_step(self, network, tasks) -> Program:
    return self.parallel.compile_eval_step(
      functools.partial(
        eval_step,
        network=network,
        tasks=tasks,
        axis_name=self.parallel.axis_name,
      )
    )

  def batches(self, frozen: Mapping[str, Any], start: int) -> Batches:
    """The remaining training batches, with what is cached of the teachers.

    Args:
      frozen: teacher -> its variables.
      start: steps taken.

    Raises:
      InputError: the cache cannot be used.
    """
    if self.cache is None:
      return self.data.train(start)
    return self.cache.batches(self, frozen, start)

  def evaluate(
    self, variables: Any, *, select: bool = False, keep: int = 0
  ) -> Evaluation:
    """Scores the network.

    Args:
      variables: of the network.
      select: on the split that checkpoints are chosen on, instead of the one
        that is reported.
      keep: how many samples and predictions to keep.
    """
    return evaluate(
      self.eval_step,
      variables,
      self._batches(select=select),
      self.tasks,
      parallel=self.parallel,
      keep=keep,
    )

  def choose_teachers(
    self,
    frozen: Mapping[str, Any],
    known: Mapping[str, Metrics] = MappingProxyType({}),
  ) -> tuple[dict[str, Any], dict[str, Metrics], dict[str, Contest]]:
    """Lets the rival teach the tasks in which it is better than the teacher.

    Args:
      frozen: teacher -> its variables, and those of the input `BASELINE`.
      known: the same -> its metrics on the split that checkpoints are chosen
        on, as far as they are known already.

    Returns:
      Teacher -> the variables of the better network; the same -> its metrics;
      and what was compared. Without a rival, what was given.
    """
    frozen, known = dict(frozen), dict(known)
    if self.rival is None:
      return frozen, known, {}
    shared = self.score_frozen(
      self.rival, frozen[BASELINE], known.get(BASELINE)
    )
    teachers = self.score_teachers(frozen, known)
    known |= {BASELINE: shared, **teachers}
    compared = contests(shared, teachers, self.tasks)
    for task, contest in compared.items():
      if contest.baseline_wins:
        frozen[task] = part_of(frozen[BASELINE], frozen[task])
        known[task] = {task: shared[task]}
    return frozen, known, compared

  def score_teachers(
    self,
    frozen: Mapping[str, Any],
    known: Mapping[str, Metrics] = MappingProxyType({}),
  ) -> dict[str, Metrics]:
    """Scores the teachers on the split that checkpoints are chosen on.

    Args:
      frozen: teacher -> its variables.
      known: teacher -> its metrics; what is there is not computed again.

    Returns:
      Teacher -> its metrics.
    """
    return {
      name: self.score_frozen(teacher.network, frozen[name], known.get(name))
      for name, teacher in self.teachers.items()
    }

  def score_frozen(
    self, network: Network, variables: Any, known: Metrics | None = None
  ) -> Metrics:
    """Scores another network on the split that checkpoints are chosen on.

    Args:
      network: of some of the tasks.
      variables: of the network.
      known: its metrics, if it was scored before; nothing is computed then.
    """
    if known is not None:
      return known
    tasks = {t: self.tasks[t] for t in network.channels}
    return evaluate(
      self._compile_eval_step(network, tasks),
      variables,
      self._batches(select=True),
      tasks,
      parallel=self.parallel,
    ).metrics

  def _batches(self, *, select: bool) -> Batches:
    chosen_on = self.data.select or self.data.eval
    return chosen_on() if select else self.data.eval()

  def recalibrate(self, variables: Any, num_batches: int) -> dict[str, Any]:
    """The variables with statistics of the first batches; on the host."""
    return recalibrate(
      self.network,
      variables,
      self.data.train(0),
      parallel=self.parallel,
      num_batches=num_batches,
      seed=self.seed,
    )

  def forget_programs(self) -> None:
    """Drops the compiled programs; they are compiled again if they are used."""
    for name in ('train_step', 'measure_conflict', 'eval_step'):
      program = vars(self).pop(name, None)
      if program is not None:
        program.drop()

  @property
  def _step_options(self) -> dict[str, Any]:
    return {
      'network': self.network,
      'terms': self.terms,
      'seed': self.seed,
      'teachers': self.teachers,
      'extras': self.extras,
      'axis_name': self.parallel.axis_name,
      'computation': self.computation,
    }
