"""Benchmarks preparing and reading Cityscapes, and the wait for data.

    python benchmarks/data.py                # 1000 frames, 4 GB of disk
    python benchmarks/data.py --frames=200 --steps=10

Writes archives in the official layout, with frames of 1024x2048 whose files are
about as large as the real ones, prepares them at 128x256, and prints frames/s
of preparing and of reading the result in random order. For comparison, it also
times reading the archives and decoding their PNG files alone. Then it trains
the distilled network of configs/cityscapes.py for some steps, and prints the
fraction of the time that is spent waiting for data. On Linux, files are removed
from the page cache before they are read.
"""

from concurrent import futures
import io
import os
import pathlib
import sys
import tempfile
import time
import zipfile

from absl import app, flags, logging
import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax import methods
from mtl_kd_jax.config import get_config
from mtl_kd_jax.config.build import build
from mtl_kd_jax.datasets.cityscapes import dataset as cityscapes
from mtl_kd_jax.methods.distill import DISTILLED
from mtl_kd_jax.runtime.platform import set_up

_FRAMES = flags.DEFINE_integer('frames', 1000, 'Frames to prepare.')
_FOLDER = flags.DEFINE_string('folder', None, 'A folder on the disk to time.')
_STEPS = flags.DEFINE_integer(
  'steps', 10, 'Training steps to time; 0 for none.'
)
_WIDTH = flags.DEFINE_float('width', 0.25, 'Width of the network to train.')
_WORKERS = flags.DEFINE_integer('num_workers', 2, 'config.data.num_workers.')

_SIZE = (1024, 2048)
_DIFFERENT = 8  # number of different frames; the others repeat them
_SUFFIXES = {
  'leftImg8bit': 'leftImg8bit.png',
  'gtFine': 'gtFine_labelIds.png',
  'disparity': 'disparity.png',
}


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  set_up(multihost=False)
  jax.config.update('jax_enable_compilation_cache', False)
  console = Console(highlight=False)
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    folder = pathlib.Path(folder)
    contents = [_draw_frame(seed) for seed in range(_DIFFERENT)]
    archives = _write_archives(folder, contents)
    _report_data(console, folder, archives, contents)
    if _STEPS.value:
      _report_training(console, folder)


# --- The archives ------------------------------------------------------------


def _draw_frame(seed):
  """Folder -> PNG file of smooth regions and noise, as large as real files."""
  rng = np.random.default_rng(seed)

  def smooth(cells, low, high):
    image = Image.fromarray(rng.uniform(low, high, cells).astype(np.float32))
    return np.asarray(image.resize(_SIZE[::-1], Image.Resampling.BICUBIC))

  gray = smooth((32, 64), 20, 230)[..., None]
  tint = np.stack([smooth((4, 8), -20, 20) for _ in range(3)], -1)
  noise = rng.normal(0, 1, (*_SIZE, 1)) + rng.normal(0, 0.4, (*_SIZE, 3))
  image = np.clip(gray + tint + noise, 0, 255).astype(np.uint8)
  ids = np.clip(smooth((8, 16), 0, 40), 1, 33).astype(np.uint8)
  raw = 1 + 256 * np.clip(smooth((8, 16), 0, 100), 0.5, 126)
  raw = np.round(raw / 16) * 16 + 1  # matched to a sixteenth of a pixel
  raw[smooth((32, 64), 0, 1) > 0.75] = 0
  arrays = (image, ids, raw.astype(np.uint16))
  return {name: _png(x) for name, x in zip(_SUFFIXES, arrays, strict=True)}


def _png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'png')
  return file.getvalue()


def _write_archives(folder, contents):
  paths = []
  for name, suffix in _SUFFIXES.items():
    paths.append(folder / f'{name}_trainvaltest.zip')
    with zipfile.ZipFile(paths[-1], 'w', zipfile.ZIP_STORED) as archive:
      for i in range(_FRAMES.value):
        split = 'val' if i % 10 == 9 else 'train'
        file = f'{name}/{split}/ulm/ulm_{i:06}_000019_{suffix}'
        archive.writestr(file, contents[i % _DIFFERENT][name])
  return paths


def _drop_cached(paths):
  for path in paths:
    if path.is_file() and hasattr(os, 'posix_fadvise'):
      with open(path, 'rb') as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- Preparing and reading back ----------------------------------------------


def _report_data(console, folder, archives, contents):
  frames, cores = _FRAMES.value, len(os.sched_getaffinity(0))
  size = sum(path.stat().st_size for path in archives)
  _drop_cached(archives)
  disk = _time(lambda: [_read_through(p) for p in archives], frames)

  some = [contents[i % _DIFFERENT] for i in range(4 * _DIFFERENT)]
  one = _time(lambda: [_decode(frame) for frame in some], len(some))
  with futures.ThreadPoolExecutor(cores) as pool:
    all_cores = _time(lambda: list(pool.map(_decode, some)), len(some))

  _drop_cached(archives)
  prepare = _time(lambda: _open(folder), frames)
  prepared = [p for p in (folder / 'prepared').rglob('*') if p.is_file()]
  kept = sum(path.stat().st_size for path in prepared)
  dataset = _open(folder)
  _drop_cached(prepared)
  back = _time(lambda: _read_back(dataset), frames)
  _drop_cached(prepared)
  raw_back = _time(lambda: [_read_through(p) for p in prepared], frames)

  console.print(
    f'{frames} frames of 1024x2048, {size / frames / 1e6:.2f} MB each in the '
    f'archives; {kept / frames / 1e3:.0f} kB each as prepared at 128x256; '
    f'{cores} cores'
  )
  table = Table(show_edge=False)
  table.add_column('')
  table.add_column('frames/s', justify='right')
  table.add_column('CPU ms/frame', justify='right')
  for title, (speed, work) in (
    ('archives: disk alone', disk),
    ('archives: decoding PNG alone, one thread', one),
    (f'archives: decoding PNG alone, {cores} threads', all_cores),
    ('prepare: read, decode, resize, write', prepare),
    ('prepared: disk alone', raw_back),
    ('prepared: samples in random order, one thread', back),
  ):
    table.add_row(title, f'{speed:.1f}', f'{work:.2f}')
  console.print(table)
  console.print(
    f'preparing takes {prepare[1] / all_cores[1]:.2f} times the CPU time of '
    'decoding alone'
  )


def _time(function, frames):
  """Frames/s, and milliseconds of CPU time for a frame.

  The latter hardly depends on the load of the machine.
  """
  start, worked = time.perf_counter(), time.process_time()
  function()
  seconds, worked = time.perf_counter() - start, time.process_time() - worked
  return frames / seconds, 1e3 * worked / frames


def _read_through(path):
  with open(path, 'rb', buffering=0) as file:
    while file.read(1 << 22):
      pass


def _decode(frame):
  for content in frame.values():
    Image.open(io.BytesIO(content)).load()


def _open(folder):
  return cityscapes.make(
    image_size=(128, 256),
    manual_dir=str(folder),
    data_dir=str(folder / 'prepared'),
    progress=lambda done, total: None,
  )


def _read_back(dataset):
  for split in dataset.sources:
    source = dataset.source(split)
    for index in np.random.default_rng(0).permutation(len(source)):
      source[index]


# --- Training ----------------------------------------------------------------


def _report_training(console, folder):
  config = get_config('cityscapes')
  config.data.manual_dir = str(folder)
  config.data.data_dir = str(folder / 'prepared')
  config.data.num_workers = _WORKERS.value
  config.model.width = _WIDTH.value
  plan = methods.plan(build(config))
  stage = plan[DISTILLED]
  frozen = {
    teacher: plan[name].init().variables
    for teacher, name in stage.inputs.items()
  }
  state = stage.init()
  batches = stage.data.train(0)
  waits, works = [], []
  for _ in range(_STEPS.value + 2):  # the first compiles and fills buffers
    start = time.perf_counter()
    batch = stage.parallel.shard(next(batches))
    got = time.perf_counter()
    state, losses = stage.train_step(state, frozen, batch)
    jax.block_until_ready((state, losses))
    waits.append(got - start)
    works.append(time.perf_counter() - got)
  waits, works = waits[2:], works[2:]
  share = sum(waits) / (sum(waits) + sum(works))
  console.print(
    f'training at 128x256: SegNet x {config.model.width}, batch '
    f'{config.batch_size}, {config.data.num_workers} workers, '
    f'{len(waits)} distilled steps: step {1e3 * np.median(works):.0f} ms, '
    f'waiting for data {1e3 * np.median(waits):.1f} ms (longest '
    f'{1e3 * max(waits):.0f}), {100 * share:.2f} % of the time'
  )


if __name__ == '__main__':
  app.run(main)
