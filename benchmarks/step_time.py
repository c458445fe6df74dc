"""Times the training steps of a config and says where the time goes.

    python benchmarks/step_time.py --config=configs/quickstart.py
    python benchmarks/step_time.py --config=configs/common.py  # full width
    python benchmarks/step_time.py --config=... --config.teacher.cache=memory

With a cache of the teachers, a step that reads them there takes turns, too.
Prints compile time, median step time and images/s of a single-task, a
multi-task and a distilled step, the time that the teachers take in the last
one, the time of measuring the gradients of its tasks, the time spent waiting
for data, and peak memory. The kinds of step take turns, so that a machine whose
speed drifts treats all of them alike. Nothing is read from or written to the
compilation cache.
"""

import pathlib
import resource
import statistics
import sys
import time

from absl import app, flags, logging
import jax
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax import methods
from mtl_kd_jax.config.build import build
from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.methods.multi_task import UNIFORM
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.training.stage import single_task_name
from mtl_kd_jax.training.step import teacher_outputs

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
_STEPS = flags.DEFINE_integer('steps', 15, 'Timed steps of each kind.')
flags.mark_flag_as_required('config')

_WARM_UP = 2


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  set_up(multihost=False)
  jax.config.update('jax_enable_compilation_cache', False)
  config = _CONFIG.value
  config.method, config.baseline = 'distill', True
  cached = build(config) if config.teacher.cache != 'none' else None
  config = config.copy_and_resolve_references()
  config.teacher.cache = 'none'
  experiment = build(config)
  parallel, plan = experiment.parallel, methods.plan(experiment)
  student = plan[DISTILLED]
  frozen = {
    teacher: plan[name].init().variables
    for teacher, name in student.inputs.items()
  }
  first = next(iter(experiment.tasks))
  stages = {
    f'single-task ({first})': (plan[single_task_name(first)], {}),
    'multi-task': (plan[UNIFORM], {}),
    'distilled': (student, frozen),
  }
  batch = parallel.shard(next(student.data.train(0)))
  runs = {
    name: Run(stage.train_step, stage.init(), of_teachers, batch)
    for name, (stage, of_teachers) in stages.items()
  }
  if cached is not None:
    stage = methods.plan(cached)[DISTILLED]
    kept = parallel.shard(next(stage.batches(frozen, 0)))
    runs['distilled, cached'] = Run(
      stage.train_step, stage.init(), frozen, kept
    )
  alone = _parts_alone(student, runs['distilled'], frozen, batch)
  seconds = {name: [] for name in alone}
  for _ in range(_WARM_UP + _STEPS.value):
    for name, run in runs.items():
      run.step(kept if name == 'distilled, cached' else batch)
    for name, call in alone.items():
      begun = time.perf_counter()
      jax.block_until_ready(call())
      seconds[name].append(time.perf_counter() - begun)

  medians = {n: statistics.median(x[_WARM_UP:]) for n, x in seconds.items()}
  waits, step_seconds = _with_data(runs['distilled'], student, parallel)
  _report(experiment, runs, medians, waits, step_seconds)


class Run:
  """One kind of step, compiled ahead of time, with its state and timings."""

  def __init__(self, step, state, frozen, batch):
    begun = time.perf_counter()
    self._step = step.function.lower(state, frozen, batch).compile()
    self.compile_seconds = time.perf_counter() - begun
    self._state, self._frozen = state, frozen
    self._seconds = []
    memory = self._step.memory_analysis()
    self.temporary_bytes = getattr(memory, 'temp_size_in_bytes', 0)

  def step(self, batch) -> float:
    """Takes a step; returns the seconds, which it also records."""
    begun = time.perf_counter()
    self._state, losses = self._step(self._state, self._frozen, batch)
    jax.block_until_ready((self._state, losses))
    self._seconds.append(time.perf_counter() - begun)
    return self._seconds[-1]

  @property
  def state(self):
    """After the last step; the next step donates its buffers."""
    return self._state

  @property
  def median_seconds(self) -> float:
    """Of all steps but the first few."""
    return statistics.median(self._seconds[_WARM_UP:])


def _parts_alone(stage, run, frozen, batch):
  """Calls by name: the teachers' forward pass, and measuring gradients."""

  @jax.jit
  def teach(frozen, image):
    outputs = teacher_outputs(
      stage.teachers, frozen, image, computation=stage.computation
    )
    # The compiler leaves the heads out, as it does in the step.
    return {name: output.features for name, output in outputs.items()}

  image = batch['image']
  if stage.parallel.mode == 'pmap':
    image = image[0]  # one device's part
  measure = stage.measure_conflict.function.lower(
    run.state, frozen, batch
  ).compile()
  return {
    'teachers': lambda: teach(frozen, image),
    'observing': lambda: measure(run.state, frozen, batch),
  }


def _with_data(run, stage, parallel):
  """Seconds of waiting for new batches, and of working on them."""
  batches = stage.data.train(0)
  waits, seconds = [], []
  for _ in range(min(_STEPS.value, stage.total_steps)):
    begun = time.perf_counter()
    batch = parallel.shard(next(batches))
    waits.append(time.perf_counter() - begun)
    seconds.append(run.step(batch))
  return waits[1:], seconds[1:]  # the first wait starts the loader


def _report(experiment, runs, alone, waits, step_seconds):
  config = experiment.config
  size = 'x'.join(map(str, experiment.dataset.image_size))
  device = jax.devices()[0]
  console = Console(highlight=False)
  console.print(
    f'{config.name}: {config.model.backbone} x {config.model.width}, {size}, '
    f'batch {config.batch_size}, {jax.device_count()} {device.platform} '
    f'device(s), jax {jax.__version__}, median of {_STEPS.value} steps'
  )
  table = Table(show_edge=False)
  for column in ('step', 'compile s', 'step ms', 'images/s', 'temporary MiB'):
    table.add_column(column, justify='left' if column == 'step' else 'right')
  for name, run in runs.items():
    seconds = run.median_seconds
    table.add_row(
      name,
      f'{run.compile_seconds:.1f}',
      f'{1e3 * seconds:.0f}',
      f'{config.batch_size / seconds:.1f}',
      f'{run.temporary_bytes / 2**20:.0f}',
    )
  console.print(table)
  distilled = runs['distilled'].median_seconds
  multi_task = runs['multi-task'].median_seconds
  teachers, observing = alone['teachers'], alone['observing']
  every = config.balancing.observe_every
  share = 100 * observing / (every * distilled) if every else 0
  console.print(
    f'distilled / multi-task: {distilled / multi_task:.2f}\n'
    f'teachers alone (forward): {1e3 * teachers:.0f} ms, '
    f'{100 * teachers / distilled:.0f} % of the distilled step\n'
    f'observing gradients: {1e3 * observing:.0f} ms every {every} steps, '
    f'{share:.1f} % of the time\n'
    f'waiting for data: {1e3 * statistics.median(waits):.1f} ms a step, '
    f'{100 * sum(waits) / (sum(waits) + sum(step_seconds)):.1f} % of the time\n'
    f'peak memory: {_peak_memory(device)}'
  )


def _peak_memory(device) -> str:
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  host *= 1 if sys.platform == 'darwin' else 1024  # bytes or KiB
  text = f'{host / 2**20:.0f} MiB of the process, all steps together'
  stats = device.memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    text += f'; {stats["peak_bytes_in_use"] / 2**20:.0f} MiB of the device'
  return text


if __name__ == '__main__':
  app.run(main)
