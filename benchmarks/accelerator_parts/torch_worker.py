"""PyTorch's side of benchmarks/accelerator.py: the same distilled step.

    python torch_worker.py '{"size": [288, 384], "batch_norm": "running", ...}'

The step is tests/fixtures/torch_twin.py, which the tests show to compute the
same. JAX is not imported.
"""

import contextlib
import gc
import json
import math
import os
import pathlib
import sys
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'tests'))

from fixtures import torch_twin as twin
import numpy as np
import torch

from accelerator_parts.workers import LATE, describe, serve

NETWORKS = {
  'segnet': twin.segnet,
  'mtan': twin.mtan,
  'deeplab': twin.resnet50_deeplab,
}


class TorchWorker:
  """Holds what is prepared: steps with their states, by name."""

  def __init__(self, *, size, batch_norm):
    self._size, self._batch_norm = tuple(size), batch_norm
    self._cuda = torch.cuda.is_available()
    self._device = torch.device('cuda' if self._cuda else 'cpu')
    # The twin takes one thread, for tests that run beside others.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True  # the fastest kernel of all
    self._runs, self._precision = {}, {}

  def about(self):
    """Versions and device."""
    return {
      'torch': torch.__version__,
      'device': torch.cuda.get_device_name() if self._cuda else 'cpu',
      'cuda': torch.version.cuda,
      'cudnn': torch.backends.cudnn.version(),
    }

  def prepare(self, cells, seconds, shapes, batches):
    """Makes the steps of cells, and takes two; facts of each, or its error.

    Args:
      cells: of plan.py.
      seconds: after which no other is begun.
      shapes: network -> 'student' and tasks -> entry -> shape.
      batches: batch size -> a file .npz.
    """
    until = time.perf_counter() + seconds
    facts = {}
    for cell in cells:
      name = cell['name']
      if time.perf_counter() > until:
        facts[name] = {'error': LATE}
        continue
      before = torch.cuda.memory_allocated() if self._cuda else 0
      try:
        batch = self._batch(batches[str(cell['batch'])], cell['layout'])
        run = self._make(cell, shapes[cell['network']], batch)
        _allow_tf32(cell['precision'] != 'float32')
        compile_s = self._run(run, 1)
        # The first one has tried kernels with as much memory as there is.
        if self._cuda:
          torch.cuda.reset_peak_memory_stats()
        compile_s -= self._run(run, 1)
        facts[name] = {
          'compile_s': max(compile_s, 0),
          'memory': self._peak(before),
        }
        self._runs[name], self._precision[name] = run, cell['precision']
      except Exception as error:
        facts[name] = {'error': describe(error)}
      # Not in `except`: the error still holds what did not fit.
      run = batch = None
      self._release()
    return facts

  def _make(self, cell, shapes, batch):
    """One step, as a function without arguments."""
    form = _form(cell['layout'])

    def placed(weights):
      return {
        name: x.to(self._device, **(form if x.ndim == 4 else {}))
        for name, x in weights.items()
      }

    student = placed(twin.random_weights(_tuples(shapes['student']), 0))
    teachers = {
      task: placed(twin.random_weights(_tuples(shapes[task]), i))
      for i, task in enumerate(twin.TASKS)
    }
    network = NETWORKS[cell['network']]
    step = twin.DistilledStep(
      network,
      student,
      teachers,
      self._adaptors(network, student, form),
      learning_rate=1e-4,
      adaptor_learning_rate=1e-1,
      weight_decay=0,
      batch_norm=self._batch_norm,
      fused=self._cuda or None,
    )
    losses = step.losses
    if cell['compiled']:
      losses = torch.compile(losses)
    half = cell['precision'] == 'bfloat16'

    def autocast_losses(batch):
      context = contextlib.nullcontext()
      if half:
        context = torch.autocast(self._device.type, torch.bfloat16)
      with context:
        return losses(batch)

    step.losses = autocast_losses
    return lambda: step.step(batch)

  def _adaptors(self, network, student, form):
    """Kernels by task and tap, with as many outputs as inputs."""
    image = torch.zeros(1, 3, 64, 64, device=self._device)
    with torch.no_grad():
      _, features = network(student, image, False)
    return {
      task: {
        tap: (torch.randn(c := x.shape[1], c, 1, 1) / c**0.5).to(
          self._device, **form
        )
        for tap, x in taps.items()
      }
      for task, taps in features.items()
    }

  def _batch(self, path, layout):
    """Images and labels on the device; classes are no maps of channels."""
    batch = {}
    with np.load(path) as arrays:
      for name, x in arrays.items():
        if x.ndim == 4:
          x = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
          batch[name] = x.to(self._device, **_form(layout))
        else:
          batch[name] = torch.from_numpy(x).long().to(self._device)
    return batch

  def turn(self, name, seconds):
    """Seconds of a step, over about so many seconds of them."""
    _allow_tf32(self._precision[name] != 'float32')
    run = self._runs[name]
    once = self._run(run, 1)  # what the other library has left in caches
    once = min(once, self._run(run, 1))
    count = max(2, math.ceil(seconds / once))
    taken = self._run(run, count) / count
    if self._cuda:
      torch.cuda.empty_cache()  # the other library may need it
    return {'seconds': taken, 'steps': count}

  def _run(self, run, count):
    self._wait()
    begun = time.perf_counter()
    for _ in range(count):
      run()
    self._wait()
    return time.perf_counter() - begun

  def drop(self):
    """Forgets all that is prepared."""
    self._runs.clear()
    torch._dynamo.reset()
    self._release()
    return {}

  def _release(self):
    gc.collect()
    if self._cuda:
      torch.cuda.empty_cache()

  def _wait(self):
    if self._cuda:
      torch.cuda.synchronize()

  def _peak(self, before):
    """Bytes that were allocated at once for what came after."""
    return torch.cuda.max_memory_allocated() - before if self._cuda else None


def _form(layout):
  nhwc = layout == 'nhwc'
  return {'memory_format': torch.channels_last} if nhwc else {}


def _tuples(shapes):
  return {name: tuple(shape) for name, shape in shapes.items()}


def _allow_tf32(allowed):
  """For products, where PyTorch does not by default, and convolutions."""
  with warnings.catch_warnings():
    # There is a newer interface. torch.compile still reads this one, and
    # refuses a mixture of both.
    warnings.simplefilter('ignore')
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


if __name__ == '__main__':
  worker = TorchWorker(**json.loads(sys.argv[1]))
  names = ('about', 'prepare', 'turn', 'drop')
  serve({name: getattr(worker, name) for name in names})
