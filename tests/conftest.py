"""Shared by all tests: four fake devices, strictness, and tiny data."""

import functools
import gc
import os
import types

from fixtures.paths import SHARED_DATA
from fixtures.samples import LABELS, RandomSource
from fixtures.xla_flags import AS_TEXT as FAST

# Before jax is imported anywhere. Where other work takes the processors, four
# devices on two of them may have to wait for each other for longer than the 40
# seconds after which XLA kills the process.
os.environ['XLA_FLAGS'] = ' '.join(
  (
    os.environ.get('XLA_FLAGS', ''),
    FAST,
    '--xla_force_host_platform_device_count=4',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
    '--xla_cpu_collective_timeout_seconds=600',
  )
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# As `runtime.platform.add_threads`: without, a test now and then waits forever.
os.environ.setdefault('NPROC', '32')
# Or the path of the folder of compiled programs would be a part of their keys.
os.environ['JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES'] = 'none'

from absl import flags
from fixtures import compilation_cache, flax_shapes
from fixtures.bucket import bucket  # noqa: F401 (a fixture)
from fixtures.layers import make_shallow
import jax
import pytest

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.runtime import memory

# After a stage, what it leaves is young. Among all that tests have made, a
# search for it takes as long as the stage.
memory.gc = types.SimpleNamespace(collect=functools.partial(gc.collect, 1))

flax_shapes.remember()
flags.FLAGS.mark_as_parsed()  # grain's worker processes insist on it
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Programs of one device run where they are called. In the pool of XLA's threads
# they may wait for those of four devices, which wait there for each other.
jax.config.update('jax_cpu_enable_async_dispatch', False)
# Programs are compiled once for all tests, processes and, most of them, runs.
# The workers of xdist inherit the folder.
_cache = None
if 'PYTEST_XDIST_WORKER' not in os.environ:
  _cache = compilation_cache.start()
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache.name
jax.config.update(
  'jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR']
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


# Those whose tests take longest, of which each has child processes or trains.
LONG = (
  'test_launch_hosts.py',
  'test_launch.py',
  'test_notebooks.py',
  'test_longer.py',
  'test_readme.py',
)


def pytest_collection_modifyitems(items):
  """Long tests first: at the end, other processes would wait for them."""
  items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish():
  # Tracing makes many objects that live, and collecting is then in vain: it
  # took a tenth of the time.
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


def pytest_unconfigure():
  if _cache is not None:
    compilation_cache.keep(_cache.name)
    _cache.cleanup()


@pytest.fixture(scope='session')
def toy_dataset():
  """12 training and 6 evaluation samples of 16x16 pixels, all tasks."""
  size = (16, 16)
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
def shallow(monkeypatch):
  """Networks of few layers, see `make_shallow`."""
  make_shallow(monkeypatch)


@pytest.fixture
def shared_data():
  """The folder of real frames; the test is skipped where there is none."""
  if not SHARED_DATA.is_dir():
    pytest.skip('no real frames here')
  return SHARED_DATA
