"""Shared by all tests: four fake devices, strictness, and tiny data."""

import os

# Before jax is imported anywhere. Tests compile for longer than they compute:
# LLVM's optimisations would take nearly half the time. Where other work takes
# the processors, four devices on two of them may have to wait for each other
# for longer than the 40 seconds after which XLA kills the process.
os.environ['XLA_FLAGS'] = ' '.join(
  (
    os.environ.get('XLA_FLAGS', ''),
    '--xla_backend_optimization_level=0',
    '--xla_force_host_platform_device_count=4',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
    '--xla_cpu_collective_timeout_seconds=600',
  )
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import pathlib
import tempfile

from absl import flags
import jax
import numpy as np
import pytest

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.labels import Label

flags.FLAGS.mark_as_parsed()  # grain's worker processes insist on it
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Programs that several tests compile, also in other processes, are compiled
# once in a run of the tests. (xdist's workers inherit the folder.)
if 'PYTEST_XDIST_WORKER' not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix='mtl_kd_jax_tests_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
jax.config.update(
  'jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR']
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)

REPOSITORY = pathlib.Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / 'shared' / 'data'

LABELS = {
  'semantic': Label('class', classes=('a', 'b', 'c', 'd')),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}


class RandomSource:
  """Samples drawn from their index, a tenth of the pixels unlabelled."""

  def __init__(self, length, size, seed=0):
    self._length, self._size, self._seed = length, size, seed

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    return random_sample(self._size, (self._seed, index))


def random_sample(size, seed):
  """One sample with all labels of `LABELS`, from a seed."""
  rng = np.random.default_rng(seed)
  normals = rng.normal(size=(*size, 3))
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  sample = {
    'image': rng.random((*size, 3)),
    'semantic': rng.integers(0, 4, size),
    'depth': rng.uniform(0.5, 5, (*size, 1)),
    'normals': normals,
  }
  dtypes = {'semantic': np.int32}
  for task, label in LABELS.items():
    missing = rng.random(size) < 0.1
    sample[task][missing] = label.missing(size)[0, 0]
  return {k: x.astype(dtypes.get(k, np.float32)) for k, x in sample.items()}


def random_batch(batch_size, size, seed=0):
  """A batch of `random_sample`s, arrays [b h w ...]."""
  samples = [random_sample(size, (seed, i)) for i in range(batch_size)]
  return {k: np.stack([s[k] for s in samples]) for k in samples[0]}


@pytest.fixture
def toy_dataset():
  """12 training and 6 evaluation samples of 32x32 pixels, all tasks."""
  size = (32, 32)
  return Dataset(
    name='toy',
    image_size=size,
    labels=LABELS,
    sources={
      'train': lambda: RandomSource(12, size, seed=0),
      'val': lambda: RandomSource(6, size, seed=1),
    },
  )


@pytest.fixture
def shared_data():
  """The folder of real frames; the test is skipped where there is none."""
  if not SHARED_DATA.is_dir():
    pytest.skip('no real frames here')
  return SHARED_DATA
