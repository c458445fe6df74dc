"""Times every balancer inside the project's training step, beside `uniform`.

    python benchmarks/balancing.py                       # all methods, 3 tasks
    python benchmarks/balancing.py --tasks=2,5,10 --methods=uniform,mgda,famo
    python benchmarks/balancing.py --tasks=10 --levels=  # gradients: solvers

The step is `train_step` with a small SegNet and K synthetic tasks: semantic
segmentation, depth and normals by turns. Gradient balancers run on
'parameters' (exact) and on 'features'; those that split the batch step on one
part of it, and look at the others. The steps of a method take turns with
`uniform`, in an order drawn anew in every round, so that a machine whose speed
drifts is fair to both; what is printed are medians over the rounds of the ratio
to `uniform` of the same round. Most of the time goes into compiling.

Times are given twice: CPU time of the process (user and system, all threads),
which hardly sees what else runs on the machine, and wall time, which does.
Memory is the compiled program's temporary memory. 'solver' is `update` alone,
compiled, on K gradients of K entries each, where nothing but the rule costs:
the mean over problems drawn at random.
"""

import dataclasses
import functools
import pathlib
import random
import resource
import statistics
import sys
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax.balancing import (
  BALANCERS,
  GRADIENT_BALANCERS,
  GradientBalancer,
  make_balancer,
)
from mtl_kd_jax.labels import Label
from mtl_kd_jax.models.network import make_network
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.runtime.platform import keep_freed_memory
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.loss_terms import LEVELS
from mtl_kd_jax.training.optim import make_adam
from mtl_kd_jax.training.state import BACKBONE, combined_params, init_state
from mtl_kd_jax.training.step import train_step

LABELS = {
  'semantic': Label('class', classes=tuple(map(str, range(13)))),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}
_ALL = [*BALANCERS, *GRADIENT_BALANCERS]
_COLUMNS = (
  'method',
  'level',
  'CPU time',
  'quartiles',
  'wall',
  'FLOPs',
  'memory',
  'state MiB',
  'solver ms',
  '% of uniform',
)
_LINE = '{:15} {:10} {:>8} {:>10} {:>6} {:>6} {:>6} {:>9} {:>9} {:>12}'
_PROBLEMS = 32  # a call of a solver takes so many
_WARM_UP = 2

_METHODS = flags.DEFINE_list('methods', _ALL, 'Names of balancers.')
_TASKS = flags.DEFINE_list('tasks', ['3'], 'Numbers of tasks.')
_LEVELS = flags.DEFINE_list(
  'levels',
  list(LEVELS),
  'Of gradient balancers; none times only their solvers.',
)
_SIZE = flags.DEFINE_string('size', '96x128', 'Height x width of the images.')
_WIDTH = flags.DEFINE_float('width', 0.25, 'Of the network.')
_BATCH = flags.DEFINE_integer('batch', 6, 'Images in a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Timed steps of each kind.')


def main(argv):
  del argv
  keep_freed_memory()
  jax.config.update('jax_enable_compilation_cache', False)
  console = Console(highlight=False, soft_wrap=True)
  device = jax.devices()[0]
  console.print(
    f'segnet x {_WIDTH.value}, {_SIZE.value}, batch {_BATCH.value}, '
    f'{jax.device_count()} {device.platform} device(s), jax {jax.__version__}, '
    f'median of {_ROUNDS.value} rounds'
  )
  for k in map(int, _TASKS.value):
    measure(k, console)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  peak *= 1 if sys.platform == 'darwin' else 1024  # bytes or KiB
  console.print(f'peak memory of the process: {peak / 2**20:.0f} MiB')


def measure(k, console):
  """Times all methods with K tasks, and prints a line for each."""
  problem = make_problem(k)
  base = make_step(problem, make_balancer('uniform'), 'parameters')
  passes = make_passes(problem)
  take_turns([base, *passes])
  report_problem(k, base, *passes, console)
  for name in _METHODS.value:
    options = {'weights': dict.fromkeys(problem.tasks, 1.0)}
    balancer = make_balancer(name, **(options if name == 'fixed' else {}))
    solver = make_solver(balancer, problem.tasks)
    steps = {
      level: make_step(problem, balancer, level)
      for level in levels_of(balancer)
    }
    take_turns([base, solver, *steps.values()])
    report_method(name, base, solver, steps, console)


def levels_of(balancer):
  """The levels at which a method is timed; losses alone have but one."""
  if not isinstance(balancer, GradientBalancer):
    return ('parameters',)
  if not balancer.on_features:
    return tuple(x for x in _LEVELS.value if x != 'features')
  return tuple(_LEVELS.value)


def take_turns(runs):
  """Runs all in every round, in an order drawn anew; forgets older rounds."""
  for run in runs:
    run.forget()
  order = random.Random(0)
  for _ in range(_WARM_UP + _ROUNDS.value):
    for run in order.sample(runs, len(runs)):
      run.step()


class Run:
  """Something compiled ahead of time, with its state and timings."""

  def __init__(self, compiled, state, *inputs):
    self._compiled, self._state, self._inputs = compiled, state, inputs
    self.forget()
    memory = compiled.memory_analysis()
    self.temporary_bytes = getattr(memory, 'temp_size_in_bytes', 0)
    cost = compiled.cost_analysis() or {}
    self.flops = (cost[0] if isinstance(cost, list) else cost).get('flops', 0)
    self.state_bytes = sum(
      x.nbytes for x in jax.tree.leaves(getattr(state, 'balancer_state', ()))
    )

  def step(self) -> None:
    """Runs it to its end, and remembers the seconds."""
    cpu, begun = _cpu_seconds(), time.perf_counter()
    self._state, rest = self._compiled(self._state, *self._inputs)
    jax.block_until_ready((self._state, rest))
    self._wall.append(time.perf_counter() - begun)
    self._cpu.append(_cpu_seconds() - cpu)

  def forget(self) -> None:
    """Forgets all timings."""
    self._cpu, self._wall = [], []

  @property
  def cpu(self) -> np.ndarray:
    """CPU seconds of all rounds but the first few."""
    return np.array(self._cpu[_WARM_UP:])

  @property
  def wall(self) -> np.ndarray:
    """Seconds of all rounds but the first few."""
    return np.array(self._wall[_WARM_UP:])


def _cpu_seconds():
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


# ---- What is timed -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Problem:
  """What all kinds of step of K tasks share.

  Attributes:
    tasks: name -> task.
    network: the network.
    tx: the optimizer.
    parallel: compiles the step as a run does.
    state: to begin with, of `uniform`.
    batch: on the devices.
  """

  tasks: dict
  network: object
  tx: object
  parallel: object
  state: object
  batch: dict


def make_problem(k) -> Problem:
  size = tuple(map(int, _SIZE.value.split('x')))
  kinds = list(make_tasks(LABELS, LABELS, dataset='synthetic').values())
  tasks = {}
  for i in range(k):
    kind = kinds[i % len(kinds)]
    name = f'{kind.name}_{i}'
    tasks[name] = dataclasses.replace(kind, name=name)
  network = make_network(
    backbone='segnet',
    head='dense',
    width=_WIDTH.value,
    output_stride=8,
    channels={name: task.channels for name, task in tasks.items()},
    image_size=size,
  )
  tx = make_adam(1e-4, weight_decay=0)
  state = init_state(
    jax.random.key(0),
    network=network,
    image_size=size,
    balancer=make_balancer('uniform'),
    tx=tx,
  )
  parallel = make_parallel('jit', batch_size=_BATCH.value)
  batch = parallel.shard(make_batch(tasks, size))
  return Problem(tasks, network, tx, parallel, state, batch)


def make_batch(tasks, size):
  """Random images and labels, [b h w c], of every task its own."""
  rng = np.random.default_rng(0)
  shape = (_BATCH.value, *size)
  batch = {'image': rng.random((*shape, 3), np.float32)}
  for name in tasks:
    kind = name.split('_')[0]
    if kind == 'semantic':
      batch[name] = rng.integers(0, 13, shape).astype(np.int32)
    elif kind == 'depth':
      batch[name] = 5 * rng.random((*shape, 1), np.float32) + 0.1
    else:
      x = rng.normal(size=(*shape, 3)).astype(np.float32)
      batch[name] = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return batch


def make_step(problem, balancer, level) -> Run:
  """The training step of a run, with a state of its own to give up."""
  params = combined_params(problem.state.params, balancer)
  names = tuple(problem.tasks)
  state = jax.tree.map(jnp.copy, problem.state).replace(
    balancer_state=balancer.init(names, dict.fromkeys(names, params))
  )
  state = problem.parallel.replicate(state)
  step = problem.parallel.compile_train_step(
    functools.partial(
      train_step,
      network=problem.network,
      tasks=problem.tasks,
      balancer=balancer,
      tx=problem.tx,
      seed=0,
      level=level,
    )
  )
  compiled = step.lower(state, {}, problem.batch).compile()
  return Run(compiled, state, {}, problem.batch)


def make_passes(problem) -> tuple[Run, Run]:
  """The backbone's forward pass, and that with one backward pass."""
  backbone, stats = problem.network.backbone, problem.state.batch_stats

  def features(params, image):
    found, _ = backbone.apply(
      {'params': params, 'batch_stats': stats[BACKBONE]},
      image,
      tasks=tuple(problem.tasks),
      train=True,
      mutable=['batch_stats'],
    )
    return found

  def forward(params, image):
    return params, features(params, image)

  def backward(params, image):
    found, pull = jax.vjp(lambda p: features(p, image), params)
    return params, (found, pull(found))

  params = jax.tree.map(jnp.copy, problem.state.params[BACKBONE])
  image, options = problem.batch['image'], problem.parallel.compiler_options
  runs = []
  for f in (forward, backward):
    compiled = jax.jit(f, compiler_options=options).lower(params, image)
    runs.append(Run(compiled.compile(), params, image))
  return tuple(runs)


def make_solver(balancer, names) -> Run:
  """`update` on many random problems of K gradients of K entries each."""
  k, key = len(names), jax.random.key(1)
  names = sorted(names)
  # With something in common, and lengths that differ about tenfold.
  draws = jax.random.normal(key, (_PROBLEMS, k, k + 1))
  scale = jnp.exp(jax.random.normal(jax.random.fold_in(key, 1), (k, 1)))
  rows = scale * (draws[:, :, :k] + draws[:, :, k:])
  losses = dict(zip(names, jnp.linspace(0.5, 2, k), strict=True))
  gradients = isinstance(balancer, GradientBalancer)

  def solve(state, rows):
    def one(state, row):
      if not gradients:
        near = {t: x * (1 + row[0, 0] ** 2) for t, x in losses.items()}
        weights, state = balancer.update(near, state, key)
        return state, weights
      given = dict(zip(names, row, strict=True))
      # The other parts of the batch: the same gradients, by turns.
      combined, state = balancer.update(
        losses,
        given,
        state,
        key,
        probe=lambda part, shift: dict(
          zip(names, jnp.roll(row, part, axis=1), strict=True)
        ),
      )
      return state, combined

    return jax.lax.scan(one, state, rows)

  shapes = dict.fromkeys(names, jnp.zeros(k)) if gradients else None
  state = balancer.init(names, shapes)
  return Run(jax.jit(solve).lower(state, rows).compile(), state, rows)


# ---- What is said of it ------------------------------------------------------


def report_problem(k, base, forward, backward, console):
  """Prints what `uniform` costs, and the heading of the table."""
  share = ratio(backward.cpu - forward.cpu, base.cpu)
  console.print(
    f'\n{k} tasks: uniform {1e3 * statistics.median(base.cpu):.0f} ms of CPU '
    f'time, {1e3 * statistics.median(base.wall):.0f} ms; temporary memory '
    f'{base.temporary_bytes / 2**20:.0f} MiB. The backward pass of the '
    f'backbone is {100 * share:.0f} % of it: {k} of them, with all else once, '
    f'make {1 + (k - 1) * share:.2f}. All but the solver relative to uniform.\n'
  )
  console.print(_LINE.format(*_COLUMNS))


def report_method(name, base, solver, steps, console):
  """Prints the lines of one method."""
  spent = statistics.median(solver.cpu) / _PROBLEMS
  solved = (
    f'{1e3 * spent:.3f}',
    f'{100 * spent / statistics.median(base.cpu):.2f}',
  )
  for level, run in steps.items():
    low, high = np.quantile(run.cpu / base.cpu, (0.25, 0.75))
    console.print(
      _LINE.format(
        name,
        level,
        f'{ratio(run.cpu, base.cpu):.3f}',
        f'{low:.2f}..{high:.2f}',
        f'{ratio(run.wall, base.wall):.3f}',
        f'{run.flops / base.flops:.3f}' if base.flops else '',
        f'{run.temporary_bytes / max(base.temporary_bytes, 1):.2f}',
        f'{run.state_bytes / 2**20:.1f}',
        *solved,
      )
    )
  if not steps:
    console.print(_LINE.format(name, *[''] * 7, *solved))


def ratio(a, b) -> float:
  """The median of the ratios of all rounds."""
  return statistics.median(a / b)


if __name__ == '__main__':
  app.run(main)
