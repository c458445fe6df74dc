"""The C library keeps freed memory; hosts that are not known are explained."""

import os
import platform
import subprocess
import sys

from fixtures.launching import run_python
from fixtures.paths import REPOSITORY
import pytest

PROGRAM = """
import resource
import numpy as np
from mtl_kd_jax.runtime.platform import keep_freed_memory
if {keep}:
  assert keep_freed_memory()
for _ in range(20):
  np.ones(2**24, np.uint8)  # 16 MiB, 4096 pages, touched and freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='the setting is of glibc'
)
def test_freed_memory_is_not_fetched_again():
  def page_faults(keep):
    program = PROGRAM.format(keep=keep)
    return int(
      subprocess.check_output(
        [sys.executable, '-c', program], cwd=REPOSITORY, text=True
      )
    )

  assert page_faults(keep=True) < page_faults(keep=False) / 5


THREADS = """
import collections, os, pathlib
from mtl_kd_jax.runtime.platform import set_up
set_up(multihost=False)
tasks = pathlib.Path('/proc/self/task').glob('*/comm')
names = collections.Counter(path.read_text().strip() for path in tasks)
print(names['tf_XLAEigen'])
"""


@pytest.mark.skipif(
  not os.path.exists('/proc/self/task'), reason='threads are not seen'
)
@pytest.mark.parametrize('count', [1, 2])
def test_devices_that_share_a_processor_have_threads_to_wait_in(
  count, monkeypatch
):
  monkeypatch.delenv('NPROC')
  flag = f'--xla_force_host_platform_device_count={count}'
  monkeypatch.setenv('XLA_FLAGS', flag)
  seen = subprocess.check_output(
    [sys.executable, '-c', THREADS], cwd=REPOSITORY, text=True
  )
  assert (int(seen) >= 16) == (count > 1 or os.cpu_count() >= 16)


UNKNOWN_HOSTS = """
import os
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.platform import set_up

for variables in (
  {},
  {'COORDINATOR_ADDRESS': 'localhost:1234'},
  {'NUM_PROCESSES': 'two'},
  {'COORDINATOR_ADDRESS': 'localhost'},
  {
    'COORDINATOR_ADDRESS': 'localhost:1234',
    'NUM_PROCESSES': '2',
    'PROCESS_ID': '2',
  },
):
  for name in ('COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID'):
    os.environ.pop(f'JAX_{name}', None)
  os.environ.update({f'JAX_{k}': v for k, v in variables.items()})
  try:
    set_up(multihost=True)
  except InputError as error:
    assert 'JAX_COORDINATOR_ADDRESS=HOST:PORT' in error.do
    print(error.argument, '|', error.found)
"""


@pytest.fixture
def no_cluster(monkeypatch):
  """Nothing by which JAX would find other hosts."""
  for name in os.environ:
    if name.startswith(('KUBERNETES_', 'SLURM_', 'OMPI_')):
      monkeypatch.delenv(name)


def test_hosts_that_are_not_known_are_explained(no_cluster):
  code, stdout, stderr = run_python('-c', UNKNOWN_HOSTS)
  assert code == 0, stderr
  arguments, found = zip(
    *(line.split(' | ') for line in stdout.splitlines()), strict=True
  )
  assert set(arguments) == {'multihost'}
  expected = (
    'coordinator_address',
    'Number of processes',
    'JAX_NUM_PROCESSES=two',
    'JAX_COORDINATOR_ADDRESS=localhost, without a port',
    'process_id=2',
  )
  for text, part in zip(found, expected, strict=True):
    assert part in text
