"""Benchmarks reading a folder of one's own: five maps and a table.

    python benchmarks/folder.py
    python benchmarks/folder.py --frames=64 --size=128,256 --steps=20

Writes frames of 256x512 pixels with classes, depth, edges, normals, flow and a
row in a table each, and prints how long it takes to open the folder, how many
samples/s are read and augmented (zoomed, mirrored), and what each map takes.
Then the distilled step of configs/compare/quickstart.py, with the paper's
method, runs as often, on numbers that stay the same, while batches of the
folder are read beside it: the share of the time that is spent waiting for them,
and what reading costs the step.
"""

from collections.abc import Iterator
import pathlib
import statistics
import sys
import tempfile
import time

from absl import app, flags, logging
import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax import datasets, methods
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiments import quickstart
from mtl_kd_jax.datasets import loader
from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.runtime.platform import set_up

_FRAMES = flags.DEFINE_integer('frames', 96, 'Frames to write.')
_SIZE = flags.DEFINE_list('size', ['256', '512'], 'Height and width.')
_BATCH = flags.DEFINE_integer('batch_size', 8, 'Samples in a step.')
_STEPS = flags.DEFINE_integer('steps', 40, 'Steps to time; 0 for none.')
_WORKERS = flags.DEFINE_list('num_workers', ['0', '2'], 'Processes that read.')

_SCALES = (1.0, 1.2, 1.5)
_MAPS = {
  'semantic': {
    'kind': 'classes',
    'classes': tuple(f'class_{i}' for i in range(13)),
    'files': '{split}/semantic/{frame}.png',
  },
  'depth': {
    'kind': 'depth',
    'unit': 'm',
    'scale': 0.001,
    'files': '{split}/depth/{frame}.png',
  },
  'edges': {'kind': 'binary', 'files': '{split}/edges/{frame}.png'},
  'normals': {'kind': 'normals', 'files': '{split}/normals/{frame}.png'},
  'flow': {'kind': 'vectors', 'files': '{split}/flow/{frame}.npy'},
}
_OF_ROWS = {
  'weather': {'kind': 'image_classes', 'classes': ('sun', 'rain', 'fog')}
}


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  set_up(multihost=False)
  console = Console(width=100, highlight=False)
  size = tuple(map(int, _SIZE.value))
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    _write(root, size)
    _report_reading(console, root, size)
    if _STEPS.value:
      _report_training(console, root)


# ---- Reading -----------------------------------------------------------------


def _write(root: pathlib.Path, size: tuple[int, int]) -> None:
  """Frames that are as smooth as photographs, and so as large when stored."""
  rows = ['frame,split,weather']
  for split, count in (('train', _FRAMES.value), ('val', 1)):
    for name in ('photo', *_MAPS):
      (root / split / name).mkdir(parents=True)
    for i in range(count):
      rng = np.random.default_rng(i)
      rows.append(f'{split}{i:06d},{split},{("sun", "rain", "fog")[i % 3]}')
      frame = f'{split}{i:06d}'

      def smooth(low, high, channels, rng=rng):
        coarse = rng.uniform(0, 255, (8, 16, channels)).astype(np.uint8)
        layers = [
          np.asarray(Image.fromarray(coarse[..., c]).resize(size[::-1], 3))
          for c in range(channels)
        ]
        return low + np.stack(layers, -1) / 255.0 * (high - low)

      noisy = smooth(0, 235, 3) + rng.uniform(0, 20, (*size, 3))
      ids = smooth(0, 12.99, 1)[..., 0].astype(np.uint8)
      normals = smooth(-1, 1, 3) + np.array([0, 0, 1.5])
      normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
      maps = {
        'semantic': ids,
        'depth': smooth(800, 9000, 1)[..., 0].astype(np.uint16),
        'edges': (np.diff(ids, axis=1, append=0) != 0).astype(np.uint8),
        'normals': np.round((normals + 1) * 127.5).astype(np.uint8),
      }
      photo = Image.fromarray(noisy.astype(np.uint8))
      photo.save(root / split / 'photo' / f'{frame}.jpg', quality=90)
      for name, array in maps.items():
        Image.fromarray(array).save(root / split / name / f'{frame}.png')
      flow = smooth(-8, 8, 2).astype(np.float32)
      np.save(root / split / 'flow' / f'{frame}.npy', flow)
  (root / 'labels.csv').write_text('\n'.join(rows))


def _open(root: pathlib.Path, maps) -> datasets.Dataset:
  return datasets.make(
    'folder',
    data_dir=root,
    image='{split}/photo/{frame}.jpg',
    rows='labels.csv',
    maps=maps,
  )


def _batches(dataset: datasets.Dataset, steps: int, workers: int) -> Iterator:
  epochs = -(-steps * _BATCH.value // _FRAMES.value) + 1
  tasks = dataset.tasks()
  return loader.train_batches(
    dataset,
    dataset.source('train'),
    batch_size=_BATCH.value,
    epochs=epochs,
    start_step=0,
    seed=0,
    scales=_SCALES,
    flip=True,
    num_workers=workers,
    rules={n: t.augmentation for n, t in tasks.items() if t.augmentation},
  )


def _report_reading(console, root, size) -> None:
  start = time.perf_counter()
  _open(root, _MAPS | _OF_ROWS)
  opened = time.perf_counter() - start
  table = Table(
    'read', 'samples/s', title=f'{size[0]}x{size[1]}, {_FRAMES.value} frames'
  )
  kinds = {'the image alone': {}} | {n: {n: x} for n, x in _MAPS.items()}
  kinds['five maps and a row'] = _MAPS | _OF_ROWS
  for name, maps in kinds.items():
    dataset = _open(root, maps or _OF_ROWS)
    batches = _batches(dataset, 2 * _FRAMES.value // _BATCH.value, 0)
    next(batches)  # fills the buffers
    start, count = time.perf_counter(), 0
    for batch in batches:
      count += len(batch['image'])
    table.add_row(name, f'{count / (time.perf_counter() - start):.0f}')
  console.print(f'opened in {opened:.2f} s')
  console.print(table)


# ---- Beside a training step --------------------------------------------------


def _report_training(console, root) -> None:
  step = _distilled_step()
  table = Table(
    'num_workers',
    'step alone',
    'step beside reading',
    'waiting',
    'share of the time',
    title=f'{_STEPS.value} distilled steps, batches of '
    f'{_BATCH.value} with five maps',
  )
  dataset = _open(root, _MAPS | _OF_ROWS)
  for workers in map(int, _WORKERS.value):
    alone = [_timed(step) for _ in range(_STEPS.value)]
    batches = _batches(dataset, _STEPS.value + 4, workers)
    waits, works = [], []
    for _ in range(_STEPS.value + 4):  # the first ones fill buffers
      waits.append(_timed(lambda batches=batches: next(batches)))
      works.append(_timed(step))
    waits, works = waits[4:], works[4:]
    share = sum(waits) / (sum(waits) + sum(works))
    table.add_row(
      str(workers),
      *(f'{1e3 * statistics.median(x):.1f} ms' for x in (alone, works, waits)),
      f'{share:.1%}',
    )
  console.print(table)


def _distilled_step():
  config = quickstart.papers_method()
  config.data.scenes.num_train, config.data.scenes.num_val = 8, 8
  config.data.val_fraction = 0.0
  plan = methods.plan(build(config))
  stage = plan[DISTILLED]
  frozen = {
    teacher: plan[name].init().variables
    for teacher, name in stage.inputs.items()
  }
  state = [stage.init()]
  batch = stage.parallel.shard(next(stage.data.train(0)))

  def step():
    state[0], losses = stage.train_step(state[0], frozen, batch)
    jax.block_until_ready((state[0], losses))

  for _ in range(3):
    step()
  return step


def _timed(function) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


if __name__ == '__main__':
  app.run(main)
