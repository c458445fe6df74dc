"""This project's side of benchmarks/accelerator.py.

python jax_worker.py '{"size": [288, 384], "width": 1.0, ...}'
"""

from concurrent.futures import ThreadPoolExecutor, wait
import gc
import json
import math
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'tests'))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from batches import make_batch
import costs
from fixtures.layers import make_shallow
import jax
import jax.numpy as jnp
import numpy as np
import steps

from accelerator_parts import numbers_vs_cpu
from accelerator_parts.plan import TEACHERS, TOGETHER
from accelerator_parts.workers import LATE, describe, serve
from mtl_kd_jax.interop.torch_names import torch_names
from mtl_kd_jax.runtime.parallel import Parallel, make_parallel
from mtl_kd_jax.training.computation import Computation

# -> how JAX multiplies float32, and in which dtype networks compute.
PRECISIONS = {
  'float32': ('highest', None),
  'tf32': ('tensorfloat32', None),
  'bfloat16': (None, jnp.bfloat16),
}


class JaxWorker:
  """Holds what is prepared: compiled steps with their states, by name."""

  def __init__(self, *, size, width, batch_norm, shallow):
    self._size, self._width = tuple(size), width
    self._batch_norm = batch_norm
    self._device = jax.devices()[0]
    self._runs = {}
    if shallow:
      make_shallow(_Patch())

  def about(self):
    """Device and versions."""
    stats = self._device.memory_stats() or {}
    return {
      'device': self._device.device_kind,
      'platform': self._device.platform,
      'memory': stats.get('bytes_limit', 0),
      'jax': jax.__version__,
      'processors': os.cpu_count(),
      'kinds': {name: steps.kinds_of(name) for name in steps.NETWORKS},
    }

  def numbers(self, part, networks, **options):
    """Numbers of this device against the CPU, see numbers_vs_cpu.py."""
    if 'size' in options:
      options['size'] = tuple(options['size'])
    return getattr(numbers_vs_cpu, part)(self._device, networks, **options)

  def shapes(self, network):
    """Of PyTorch's state dicts: 'student' and tasks -> entry -> shape."""
    tasks = tuple(steps.TASKS)
    return {
      name: self._torch_shapes(network, names)
      for name, names in {'student': tasks, **{t: (t,) for t in tasks}}.items()
    }

  def _torch_shapes(self, network, tasks):
    module = steps.make_network(network, tasks, width=self._width)
    variables = steps.shapes_of(module, self._size)
    by_path = {
      '/'.join(k.key for k in path): x.shape
      for path, x in jax.tree.leaves_with_path(variables)
    }
    single = network == 'mtan' and len(tasks) == 1
    names = torch_names(by_path, single=single)
    return {names[path]: _torch_shape(x) for path, x in by_path.items()}

  def prepare(self, cells, seconds):
    """Compiles the work of cells, as far as so many seconds go.

    Returns:
      Name of a cell -> facts, or its error.
    """
    until = time.perf_counter() + seconds
    facts, lowered, works = {}, {}, {}
    for cell in cells:
      name = cell['name']
      begun = time.perf_counter()
      if begun > until:
        facts[name] = {'error': LATE}
        continue
      try:
        works[name], lowered[name] = self._lower(cell)
        facts[name] = {
          'lower_s': time.perf_counter() - begun,
          'flops': costs.flops(lowered[name]),
        }
      except Exception as error:
        facts[name] = {'error': describe(error)}
    pool = ThreadPoolExecutor(TOGETHER)
    futures = {n: pool.submit(_compile, x) for n, x in lowered.items()}
    wait(futures.values(), timeout=max(until - time.perf_counter(), 0))
    pool.shutdown(wait=False, cancel_futures=True)
    for cell in cells:
      name = cell['name']
      if name not in futures:
        continue
      if not futures[name].done() or futures[name].cancelled():
        facts[name]['error'] = LATE
        continue
      try:
        compiled, seconds = futures[name].result()
        facts[name] |= {
          'compile_s': seconds,
          'compiled_together': min(TOGETHER, len(futures)),
          'bytes': costs.bytes_accessed(compiled),
          'memory': costs.memory(compiled),
        }
        self._runs[name] = self._start(cell, works[name], compiled, facts[name])
      except Exception as error:
        facts[name]['error'] = describe(error)
    return facts

  def _lower(self, cell):
    precision, dtype = PRECISIONS[cell['precision']]
    teachers = cell['kind'] == TEACHERS
    work = steps.make_work(
      cell['network'],
      'distilled' if teachers else cell['kind'],
      size=self._size,
      batch_size=cell['batch'],
      width=self._width,
      batch_norm=self._batch_norm,
      computation=Computation(dtype=dtype),
    )
    parallel = one_device(self._device)
    with jax.default_matmul_precision(precision):
      if teachers:
        call = jax.jit(work.teach, compiler_options=parallel.compiler_options)
        return work, call.lower(work.frozen, work.batch)
      step = parallel.compile_train_step(work.step)
      return work, step.function.lower(work.state, work.frozen, work.batch)

  def _start(self, cell, work, compiled, facts):
    limit = (self._device.memory_stats() or {}).get('bytes_limit', math.inf)
    if facts['memory'] > limit:
      raise MemoryError(f'RESOURCE_EXHAUSTED: {facts["memory"]:.0f} bytes')
    parallel = one_device(self._device)
    state, frozen = steps.draw_state(work)
    batch = make_batch(self._size, cell['batch'])
    state, frozen, batch = parallel.replicate((state, frozen, batch))
    if cell['kind'] == TEACHERS:
      return _Run(lambda _: (None, compiled(frozen, batch)), None)
    return _Run(lambda state: compiled(state, frozen, batch), state)

  def turn(self, name, seconds):
    """Seconds of a step, over about so many seconds of them."""
    return self._runs[name].turn(seconds)

  def drop(self):
    """Forgets all that is prepared."""
    self._runs.clear()
    gc.collect()
    return {}


class _Run:
  """A compiled step and its state."""

  def __init__(self, step, state):
    self._step, self._state, self._measured = step, state, None
    self._seconds = None

  def turn(self, seconds):
    self._run(1)  # what the other library has left in caches
    if self._seconds is None:
      self._seconds = self._run(1)
    count = max(2, math.ceil(seconds / self._seconds))
    self._seconds = self._run(count) / count
    return {'seconds': self._seconds, 'steps': count}

  def _run(self, count):
    begun = time.perf_counter()
    for _ in range(count):
      self._state, self._measured = self._step(self._state)
    jax.block_until_ready((self._state, self._measured))
    return time.perf_counter() - begun


class _Patch:
  """Changes attributes for good, where a test would use a `MonkeyPatch`."""

  setattr = staticmethod(setattr)


def one_device(device: jax.Device) -> Parallel:
  """A run's placement on one device, also where there are more."""
  parallel = make_parallel('jit', batch_size=len(jax.devices()))
  mesh = type(parallel.mesh)(np.array([device]), parallel.mesh.axis_names)
  return Parallel('jit', mesh)


def _compile(lowered):
  begun = time.perf_counter()
  compiled = lowered.compile()
  return compiled, time.perf_counter() - begun


def _torch_shape(shape):
  if len(shape) == 2:  # the product that a 1x1 convolution is
    shape = (1, 1, *shape)
  return [shape[i] for i in (3, 2, 0, 1)] if len(shape) == 4 else list(shape)


if __name__ == '__main__':
  worker = JaxWorker(**json.loads(sys.argv[1]))
  names = ('about', 'numbers', 'shapes', 'prepare', 'turn', 'drop')
  serve({name: getattr(worker, name) for name in names})
