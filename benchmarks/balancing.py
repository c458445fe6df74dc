"""Times every balancer inside the project's training step, beside `uniform`.

    python benchmarks/balancing.py                       # all methods, 3 tasks
    python benchmarks/balancing.py --tasks=2,5,10 --methods=uniform,mgda,famo
    python benchmarks/balancing.py --tasks=10 --levels=  # gradients: solvers

The step is `train_step` with a small SegNet and K synthetic tasks: semantic
segmentation, depth and normals by turns (balancing_problem.py). Gradient
balancers run on gradients with respect to 'parameters' (exact) and to
'features'; those that split the batch step on one part of it, and also compute
the gradients of the others. The steps of a method take turns with `uniform`, in
an order drawn anew in every round, so that a machine whose speed drifts treats
both alike. Printed are medians over the rounds of the ratio to `uniform` in the
same round. Most of the time goes into compiling.

Times are given twice: CPU time of the process (user and system, all threads),
which hardly depends on what else runs on the machine, and wall time, which
does. Memory is the compiled program's temporary memory. 'solver' is `update`
alone, compiled, on K gradients of K entries each, so that only the rule itself
takes time: the mean over problems drawn at random.
"""

import pathlib
import random
import resource
import statistics
import sys
import time

from absl import app, flags
import jax
import numpy as np
from rich.console import Console

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from balancing_problem import (
  PROBLEMS,
  make_passes,
  make_problem,
  make_solver,
  make_step,
)

from mtl_kd_jax.balancing import (
  BALANCERS,
  GRADIENT_BALANCERS,
  GradientBalancer,
  make_balancer,
)
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.training.combined import GRAD_WRT

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
_WARM_UP = 2

_METHODS = flags.DEFINE_list('methods', _ALL, 'Names of balancers.')
_TASKS = flags.DEFINE_list('tasks', ['3'], 'Numbers of tasks.')
_LEVELS = flags.DEFINE_list(
  'levels',
  list(GRAD_WRT),
  'What gradients are with respect to; none times only the solvers.',
)
_SIZE = flags.DEFINE_string('size', '96x128', 'Height x width of the images.')
_WIDTH = flags.DEFINE_float('width', 0.25, 'Of the network.')
_BATCH = flags.DEFINE_integer('batch', 6, 'Images in a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Timed steps of each kind.')


def main(argv):
  del argv
  set_up(multihost=False)
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
  """Times all methods with K tasks, and prints the lines of each."""
  problem = make_problem(
    k,
    size=tuple(map(int, _SIZE.value.split('x'))),
    width=_WIDTH.value,
    batch_size=_BATCH.value,
  )
  base = Run(*make_step(problem, make_balancer('uniform'), 'parameters'))
  passes = [Run(*work) for work in make_passes(problem)]
  take_turns([base, *passes])
  report_problem(k, base, *passes, console)
  for name in _METHODS.value:
    options = {'weights': dict.fromkeys(problem.tasks, 1.0)}
    balancer = make_balancer(name, **(options if name == 'fixed' else {}))
    solver = Run(*make_solver(balancer, list(problem.tasks)))
    steps = {
      level: Run(*make_step(problem, balancer, level))
      for level in levels_of(balancer)
    }
    take_turns([base, solver, *steps.values()])
    report_method(name, base, solver, steps, console)


def levels_of(balancer):
  """What the gradients of a method are with respect to, one after another."""
  if not isinstance(balancer, GradientBalancer):
    return ('parameters',)
  if not balancer.on_features:
    return tuple(x for x in _LEVELS.value if x != 'features')
  return tuple(_LEVELS.value)


def take_turns(runs):
  """Forgets earlier timings; then runs all in every round, in random order."""
  for run in runs:
    run.forget()
  order = random.Random(0)
  for _ in range(_WARM_UP + _ROUNDS.value):
    for run in order.sample(runs, len(runs)):
      run.step()


class Run:
  """Something compiled ahead of time, with its state and timings."""

  def __init__(self, compiled, state, inputs):
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
    """Runs once, and records the seconds."""
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


# ---- Printing ----------------------------------------------------------------


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
  spent = statistics.median(solver.cpu) / PROBLEMS
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
