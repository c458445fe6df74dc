"""The C library keeps freed memory; hosts that are not known are explained."""

import importlib.util
import os
import platform
import socket
import subprocess
import sys

from fixtures.launching import run_python, start_python
from fixtures.paths import REPOSITORY
import jax
from jax._src import distributed
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import coordinator, peers
from mtl_kd_jax.runtime import platform as ours

PROGRAM = """
import resource
import numpy as np
from mtl_kd_jax.runtime.memory import keep_freed_memory, release_freed_memory
def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1])  # pages
if {keep}:
  assert keep_freed_memory()
for _ in range(20):
  np.ones(2**24, np.uint8)  # 16 MiB, 4096 pages, touched and freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
kept = resident()
release_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='the setting is of glibc'
)
def test_freed_memory_is_not_fetched_again():
  def measure(keep):
    program = PROGRAM.format(keep=keep)
    printed = subprocess.check_output(
      [sys.executable, '-c', program], cwd=REPOSITORY, text=True
    )
    return map(int, printed.split())

  faults, released = measure(keep=True)
  others, _ = measure(keep=False)
  assert faults < others / 5
  assert released > 2**26 / 4096 / 2  # until it is told to


@pytest.fixture
def kept_programs():
  """() -> where programs are kept, which nobody has said before."""
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update('jax_compilation_cache_dir', None)
  yield lambda: jax.config.jax_compilation_cache_dir
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_at_home_or_where_somebody_says(
  kept_programs, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  ours.keep_programs()
  assert kept_programs() == str(tmp_path / '.cache/mtl_kd_jax/xla')
  jax.config.update('jax_compilation_cache_dir', '/elsewhere')
  ours.keep_programs()
  assert kept_programs() == '/elsewhere'


@pytest.mark.parametrize('given', [None, '/shared'])
@pytest.mark.parametrize('backend', ['gpu', 'cpu'])
def test_gpus_of_several_hosts_keep_programs_in_a_shared_folder_or_nowhere(
  backend, given, kept_programs, tmp_path, monkeypatch
):
  """Some would read a program, and others wait for them to choose kernels."""
  monkeypatch.setenv('HOME', str(tmp_path))
  jax.config.update('jax_compilation_cache_dir', given)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  ours.keep_programs()
  at_home = str(tmp_path / '.cache/mtl_kd_jax/xla')
  expected = given or (at_home if backend == 'cpu' else None)
  assert kept_programs() == expected


def test_without_a_home_no_programs_are_kept(kept_programs, monkeypatch):
  """As in a container whose user has no name."""
  pwd = pytest.importorskip('pwd')
  monkeypatch.delenv('HOME', raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)  # a KeyError
  ours.keep_programs()
  assert kept_programs() is None


STEPS = """
import resource
import jax, jax.numpy as jnp
from mtl_kd_jax.runtime.platform import set_up_memory
from mtl_kd_jax.runtime.program import Program
set_up_memory()
program = Program(jax.jit(lambda x, y, z: jnp.abs(x @ y) @ z))  # of 100 MiB
x, y, z = jnp.ones((5000, 2)), jnp.ones((2, 5000)), jnp.ones((5000, 2))
if {ahead}:
  program.compile(x, y, z)
for steps in (10, 20):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(steps):
    last = program(x, y, z)  # the next call does not wait for it
  last.block_until_ready()
  print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='the setting is of glibc'
)
@pytest.mark.parametrize('ahead', [False, True])
def test_a_step_has_the_memory_of_the_step_before(ahead):
  printed = subprocess.check_output(
    [sys.executable, '-c', STEPS.format(ahead=ahead)],
    cwd=REPOSITORY,
    text=True,
  )
  pages = 5000 * 5000 * 4 / os.sysconf('SC_PAGE_SIZE')
  first, later = (int(faults) / pages for faults in printed.split())
  # It moves a few times, until it has found its place.
  assert first > 0.9 and later < 5


COMPILES = """
import pathlib
import numpy as np
from mtl_kd_jax.runtime.memory import keep_freed_memory
from mtl_kd_jax.runtime.program import Program

def used():
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1])

class Function:
  def lower(self):
    arrays = [np.ones(2**17) for _ in range(100)]  # of 1 MiB
    print(used())
    self.after = np.ones(2**17)  # or all of it were the end of the heap
    return self
  def compile(self):
    print(used())

keep_freed_memory()
Program(Function()).compile()
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='the setting is of glibc'
)
def test_what_tracing_needed_is_given_back_before_xla_compiles():
  printed = subprocess.check_output(
    [sys.executable, '-c', COMPILES], cwd=REPOSITORY, text=True
  )
  tracing, compiling = map(int, printed.split())
  assert (tracing - compiling) * os.sysconf('SC_PAGE_SIZE') > 90 * 2**20


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


LOOPS = """
import jax
from mtl_kd_jax.runtime.platform import set_up
set_up(multihost=False)
jax.config.update('jax_enable_compilation_cache', False)
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize('wanted', ['', 'xla_cpu_disable_slp_vectorizer=true'])
@pytest.mark.parametrize('in_file', [False, True])
def test_loops_are_not_unrolled_unless_xla_is_told_something_else(
  wanted, in_file, tmp_path
):
  flags = f'--xla_dump_to={tmp_path}'
  if wanted:
    flags += f' --xla_backend_extra_options={wanted}'
  if in_file:
    (tmp_path / 'flags').write_text(flags)
    flags = str(tmp_path / 'flags')
  process = start_python('-c', LOOPS, XLA_FLAGS=flags)
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == 0, stdout + stderr
  (told,) = tmp_path.glob('*lambda*.debug_options')
  told = told.read_text()
  assert ('slp_vectorizer' in told) == bool(wanted)
  assert ('unrolling' in told) == (not wanted and not in_file)


def test_a_trainer_disables_loop_unrolling(monkeypatch, tmp_path):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  # The workdir is read after that.
  with pytest.raises(InputError, match='workdir'):
    mtl.Trainer(None, workdir=3, epochs=1)
  assert os.environ['XLA_FLAGS'] == (
    '--xla_cpu_enable_fast_math=false '
    '--xla_backend_extra_options=xla_cpu_disable_loop_unrolling=true'
  )


def test_flags_stay_where_a_tpu_may_not_know_them(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setattr(importlib.util, 'find_spec', {'libtpu': True}.get)
  ours.disable_loop_unrolling()
  assert os.environ['XLA_FLAGS'] == ''


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
    if name.startswith(('KUBERNETES_', 'SLURM_', 'OMPI_', 'JAX_COORD')):
      monkeypatch.delenv(name)


ALONE = """
import os
from mtl_kd_jax.runtime.platform import set_up
os.environ['JAX_INITIALIZATION_TIMEOUT'] = '1'
set_up(multihost=True)
"""


def test_processes_that_do_not_come_are_named(no_cluster):
  with socket.create_server(('127.0.0.1', 0)) as free:
    address = f'127.0.0.1:{free.getsockname()[1]}'
  environment = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': '3'}
  for process, found in ((2, 'does not answer'), (0, 'answers')):
    alone = start_python(
      '-c', ALONE, **environment, JAX_PROCESS_ID=f'{process}'
    )
    _, stderr = alone.communicate(timeout=60)
    assert alone.returncode == peers.EXIT_CODE, stderr
    assert stderr.startswith('error: expected all 3 processes of the run\n')
    assert f'process 0 {found} at {address}' in stderr
    assert f'where:  process {process}' in stderr
    assert 'JAX_INITIALIZATION_TIMEOUT' in stderr.splitlines()[-1]  # no dump


def test_a_port_in_use_is_refused():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    with (
      pytest.raises(InputError, match='in use') as error,
      coordinator.in_own_process(),
    ):
      distributed._jax.get_distributed_runtime_service(f'[::]:{port}', 2)
  assert str(port) in error.value.expected


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
