"""Times this project beside PyTorch at the same work, on the CPU.

    pip install -e '.[torch]'
    python benchmarks/versus_torch.py                     # all cases
    python benchmarks/versus_torch.py --cases=segnet_96x128_step --rounds=9

The work: the forward pass of the multi-task network (evaluation mode), and the
full distilled step (a student of three tasks, three frozen single-task
teachers, both Adams), batch 2, two threads. PyTorch's implementation is
tests/fixtures/torch_twin.py, which tests/interop/test_parity.py shows to
compute the same; it runs with its default memory layout and with channels_last
('nhwc'); the faster is 'best'.

Every library and layout runs in a process of its own, so that each has its own
peak of memory. They take turns, one piece of work at a time, so that a machine
whose speed drifts treats all alike. Printed are medians, and the seconds of
the first piece of work with JAX, in which it is compiled. Where memory does not
suffice for three processes, --layouts='torch nhwc' leaves one out.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from rich.console import Console
from rich.table import Table

_ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / 'tests')]

# Backbone, head and taps; 'deeplab' is that of configs/nyuv2.py.
NETWORKS = {
  'segnet': ('segnet', 'dense', ('bottleneck', 'decoder')),
  'mtan': ('mtan', 'dense', ('bottleneck', 'decoder')),
  'deeplab': ('resnet50', 'aspp', ('layer4', 'decoder')),
}
SIZES = ('96x128', '288x384')
WORK = ('forward', 'step')
CASES = [f'{n}_{s}_{w}' for n in NETWORKS for s in SIZES for w in WORK]
LAYOUTS = ['torch', 'torch nhwc']
CHANNELS = {'semantic': 13, 'depth': 1, 'normals': 3}
BATCH = 2
THREADS = 2
_WARM_UP = 2

_CASES = flags.DEFINE_list('cases', CASES, 'Which cases.')
_LAYOUTS = flags.DEFINE_list(
  'layouts', LAYOUTS, "PyTorch's; both take turns with JAX."
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed pieces of work of each.')
_WIDTH = flags.DEFINE_float('width', 1.0, 'Of the networks.')
_BATCH_NORM = flags.DEFINE_enum(
  'batch_norm', 'running', ['running', 'batch'], 'Mode of the teachers.'
)
_WORKER = flags.DEFINE_string('worker', None, 'Internal: what a child runs.')


def main(argv):
  del argv
  if _WORKER.value:
    return work(*json.loads(_WORKER.value))
  console = Console(highlight=False, width=120)
  folder = tempfile.TemporaryDirectory()
  shapes = pathlib.Path(folder.name) / 'shapes.json'
  write_shapes(shapes)
  table = Table(show_edge=False)
  table.add_column('case', no_wrap=True)
  for column in (
    *(f'{r}\nms' for r in rivals()),
    'jax /\nbest',
    'first\njax s',
    *(f'{r}\nMiB' for r in rivals()),
    'jax /\nbest',
  ):
    table.add_column(column, justify='right', no_wrap=True)
  for case in _CASES.value:
    try:
      table.add_row(case, *measure(case, shapes, console))
    except RuntimeError as error:
      console.print(f'{case}: {error}')
  console.print(table)


def rivals():
  return ('jax', *_LAYOUTS.value)


def measure(case, shapes, console):
  """Runs one case in all rivals by turns; returns the cells of its row."""
  workers = {rival: start(case, rival, shapes) for rival in rivals()}
  seconds = {rival: [] for rival in rivals()}
  try:
    for _ in range(_WARM_UP + _ROUNDS.value):
      for rival, worker in workers.items():
        seconds[rival].append(float(ask(worker, 'work')))
    memory = {r: float(ask(w, 'memory')) for r, w in workers.items()}
  finally:
    for worker in workers.values():
      worker.kill()
      worker.wait()
  timed = {r: s[_WARM_UP:] for r, s in seconds.items()}
  median = {r: statistics.median(s) for r, s in timed.items()}
  best = min(_LAYOUTS.value, key=median.get)
  ratio = statistics.median(
    a / b for a, b in zip(timed['jax'], timed[best], strict=True)
  )
  console.print(
    f'{case}: '
    + ', '.join(
      f'{r} {1e3 * min(s):.0f}..{1e3 * median[r]:.0f}..{1e3 * max(s):.0f} ms'
      for r, s in timed.items()
    )
    + f'; {", ".join(f"{x:.0f}" for x in memory.values())} MiB',
    soft_wrap=True,
  )
  return (
    *(f'{1e3 * x:.0f}' for x in median.values()),
    f'{ratio:.2f}',
    f'{seconds["jax"][0]:.0f}',
    *(f'{x:.0f}' for x in memory.values()),
    f'{memory["jax"] / min(memory[r] for r in _LAYOUTS.value):.2f}',
  )


def start(case, rival, shapes):
  arguments = [
    sys.executable,
    __file__,
    f'--worker={json.dumps([case, rival, str(shapes)])}',
    f'--width={_WIDTH.value}',
    f'--batch_norm={_BATCH_NORM.value}',
  ]
  return subprocess.Popen(
    arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )


def ask(worker, what):
  with contextlib.suppress(BrokenPipeError):  # it has ended
    worker.stdin.write(what + '\n')
    worker.stdin.flush()
  while answer := worker.stdout.readline():
    if answer.startswith('answer '):
      return answer.split()[1]
  raise RuntimeError(
    f'a process ended with {worker.wait()} (-9: memory?); its output is above'
  )


# ---- A worker ----------------------------------------------------------------


def work(case, rival, shapes):
  """Does the work once per line of the input, and prints the seconds."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  network, size, kind = case.split('_')
  size = tuple(map(int, size.split('x')))
  if rival == 'jax':
    run = make_jax(network, size, kind)
  else:
    channels_last = rival.endswith('nhwc')
    names = json.loads(pathlib.Path(shapes).read_text())
    run = make_torch(network, size, kind, names, channels_last=channels_last)
  for line in sys.stdin:
    if line.strip() == 'memory':
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
      print('answer', peak, flush=True)
      continue
    begun = time.perf_counter()
    run()
    print('answer', time.perf_counter() - begun, flush=True)


def make_batch(size):
  """Random images and labels, [b h w c]; a tenth of the pixels unlabeled."""
  import numpy as np

  rng = np.random.default_rng(0)
  shape = (BATCH, *size)
  batch = {
    'image': rng.random((*shape, 3), np.float32),
    'semantic': rng.integers(-1, 13, shape).astype(np.int32),
    'depth': rng.random((*shape, 1), np.float32) * 5,
    'normals': rng.normal(size=(*shape, 3)).astype(np.float32),
  }
  batch['normals'] /= np.linalg.norm(batch['normals'], axis=-1, keepdims=True)
  missing = rng.random(shape) < 0.1
  batch['depth'][missing] = batch['normals'][missing] = 0
  return batch


def set_up_jax(network, size):
  """The distilled stage as launch.py sets it up: (stage, frozen, batch)."""
  import jax

  from mtl_kd_jax import methods
  from mtl_kd_jax.config import get_config
  from mtl_kd_jax.config.build import build, open_dataset
  from mtl_kd_jax.methods.distill import DISTILLED
  from mtl_kd_jax.runtime.platform import set_up

  set_up(multihost=False)
  jax.config.update('jax_enable_compilation_cache', False)
  config = get_config()
  config.data.name = 'nyuv2'
  config.batch_size = BATCH
  backbone, head, taps = NETWORKS[network]
  config.model.backbone, config.model.head = backbone, head
  config.distill.taps = taps
  config.model.width = _WIDTH.value
  config.teacher.batch_norm = _BATCH_NORM.value
  dataset = open_dataset(config, data=False)
  dataset = dataclasses.replace(dataset, image_size=size)
  plan = methods.plan(build(config, data=False, dataset=dataset))
  stage = plan[DISTILLED]
  # As each is needed: the forward pass runs without teachers.
  frozen = {
    teacher: lambda name=name: plan[name].init().variables
    for teacher, name in stage.inputs.items()
  }
  return stage, frozen, stage.parallel.shard(make_batch(size))


def make_jax(network, size, kind):
  """The work, to be called."""
  import jax

  stage, frozen, batch = set_up_jax(network, size)
  parallel, state = stage.parallel, stage.init()
  if kind == 'forward':
    variables = jax.device_get(state.variables)
    variables = parallel.replicate(variables)
    del state

    def predict(variables, image):
      output = stage.network.apply(variables, image, train=False)
      return output.predictions

    forward = jax.jit(predict, compiler_options=parallel.compiler_options)
    return lambda: jax.block_until_ready(forward(variables, batch['image']))
  frozen = {teacher: make() for teacher, make in frozen.items()}
  holder = [state]
  del state

  def step():
    holder[0], losses = stage.train_step(holder[0], frozen, batch)
    jax.block_until_ready((holder[0], losses))

  return step


def make_torch(name, size, kind, shapes, *, channels_last):
  """The same with PyTorch."""
  from fixtures import torch_twin as twin
  import torch

  torch.set_num_threads(THREADS)
  form = {'memory_format': torch.channels_last} if channels_last else {}

  def placed(weights):
    return {
      entry: x.to(**form) if x.ndim == 4 else x for entry, x in weights.items()
    }

  taps = NETWORKS[name][2]
  network = {
    'segnet': twin.segnet,
    'mtan': twin.mtan,
    'deeplab': twin.resnet50_deeplab,
  }[name]
  every = ' '.join(CHANNELS)
  student = placed(twin.random_weights(shapes[f'{name} {every}'], 0))
  batch = {
    label: torch.from_numpy(x).movedim(-1, 1) if x.ndim == 4 else x
    for label, x in make_batch(size).items()
  }
  batch = {
    label: x.contiguous(**form)
    if label != 'semantic'
    else torch.from_numpy(x).long()
    for label, x in batch.items()
  }
  if kind == 'forward':

    @torch.no_grad()
    def forward():
      return network(student, batch['image'], False)

    return forward
  teachers = {
    task: placed(twin.random_weights(shapes[f'{name} {task}'], i))
    for i, task in enumerate(CHANNELS)
  }
  last = ('encoder_block.4.0', 'encoder_block.0.0')
  if name == 'deeplab':
    last = ('layer4.2.conv3', 'head_depth.conv.conv')
  channels = [len(student[f'{layer}.weight']) for layer in last]
  adaptors = {
    task: {
      tap: (torch.randn(c, c, 1, 1) / c**0.5).to(**form)
      for tap, c in zip(taps, channels, strict=True)
    }
    for task in CHANNELS
  }
  step = twin.DistilledStep(
    network,
    student,
    teachers,
    adaptors,
    learning_rate=1e-4,
    adaptor_learning_rate=1e-1,
    batch_norm=_BATCH_NORM.value,
  )
  return lambda: step.step(batch)


def write_shapes(path):
  """Writes the shapes of state dicts, for processes that do not load JAX."""
  from mtl_kd_jax.interop.import_torch import torch_shapes
  from mtl_kd_jax.models import make
  from mtl_kd_jax.models.network import abstract_init

  found = {}
  for name, (backbone, head, _) in NETWORKS.items():
    for tasks in (tuple(CHANNELS), *((task,) for task in CHANNELS)):
      channels = {task: CHANNELS[task] for task in tasks}
      network = make(backbone, channels, head=head, width=_WIDTH.value)
      _, like = abstract_init(network, (32, 32))
      single = backbone == 'mtan' and len(tasks) == 1
      found[f'{name} {" ".join(tasks)}'] = torch_shapes(like, single=single)
  path.write_text(json.dumps(found))


if __name__ == '__main__':
  app.run(main)
