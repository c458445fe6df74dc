"""How JAX and the C library are set up, before anything is computed."""

import ctypes
import gc
import os
import pathlib
import platform
import re

import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import clusters, coordinator, peers

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_up(*, multihost: bool | None) -> None:
  """Sets JAX up for a job: compilation cache, hosts and memory.

  Args:
    multihost: whether to join the other hosts; None for whether `clusters`
      finds some. JAX finds them itself on Cloud TPU slices and under Slurm or
      Open MPI; elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
      JAX_PROCESS_ID say where they are. Where they have not all come after 50
      s, or JAX_INITIALIZATION_TIMEOUT seconds, or one is gone later, this
      process ends: see `peers`.

  Raises:
    InputError: the other hosts are not known, or a port is in use.
  """
  # Compiled programs are kept between runs, here or where JAX is told to.
  home = os.path.expanduser('~')  # stays ~ in a container without users
  if home != '~' and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = pathlib.Path(home, '.cache/mtl_kd_jax/xla')
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  add_threads()
  if multihost is None:
    multihost = clusters.has_other_hosts()
  if multihost and not jax.distributed.is_initialized():
    _join_hosts()
  if jax.default_backend() == 'cpu':
    keep_freed_memory()


def keep_freed_memory() -> bool:
  """Tells glibc not to give freed memory back to the system.

  XLA's CPU backend allocates the whole scratch space of a step anew, and by
  default glibc fetches it from the system every time: tens of thousands of page
  faults, a fifth of a small step. Call it before anything is computed. Peak
  memory grows by about a tenth. On a GPU or TPU the scratch space is not the
  C library's, and nothing is gained.

  Returns:
    Whether it took effect; False where the C library is not glibc.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  settings = (
    (_M_MMAP_MAX, 0),
    (_M_TRIM_THRESHOLD, -1),  # never; the largest int is but 2 GiB
    # Several arenas would each keep their own.
    (_M_ARENA_MAX, 1),
  )
  return all(mallopt(name, value) for name, value in settings)


def release_freed_memory() -> None:
  """Gives freed memory back to the system, also after `keep_freed_memory`.

  Call it after a stage: compiling its programs leaves unused memory between
  what is still in use. Does nothing where the C library is not glibc.
  """
  gc.collect()  # cycles of references hold programs
  if platform.libc_ver()[0] == 'glibc':
    ctypes.CDLL(None).malloc_trim(0)


def available_memory() -> int | None:
  """Bytes that this process can still use; None where it cannot be told."""
  found = []
  try:
    text = pathlib.Path('/proc/meminfo').read_text()
    (kilobytes,) = re.findall(r'^MemAvailable:\s+(\d+) kB', text, re.MULTILINE)
    found.append(int(kilobytes) * 1024)
  except (OSError, ValueError):
    pass  # not Linux
  try:  # the limit of a container
    group = pathlib.Path('/sys/fs/cgroup')
    limit = int((group / 'memory.max').read_text())
    used = int((group / 'memory.current').read_text())
    text = (group / 'memory.stat').read_text()
    # Of files that were read; the system takes it back where it is needed.
    (kept,) = re.findall(r'^inactive_file (\d+)', text, re.MULTILINE)
    found.append(limit - used + int(kept))
  except (OSError, ValueError):
    pass  # there is none
  return max(0, min(found)) if found else None


def add_threads() -> None:
  """Gives several CPU devices of one process more threads than XLA does.

  Each of its all-reduces keeps a thread until all devices have joined it, and
  one device may be in several. With a thread for each device, as XLA has by
  default, some may so wait for a device that gets none, forever (jax 0.10).
  Call it before anything is computed.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  found = re.findall(r'--xla_force_host_platform_device_count=(\d+)', flags)
  devices = int(found[-1]) if found else jax.config.jax_num_cpu_devices
  if devices > 1:
    os.environ.setdefault('NPROC', str(8 * devices))  # XLA's own variable


def _join_hosts() -> None:
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  try:
    if address is not None and ':' not in address:
      raise ValueError(f'JAX_COORDINATOR_ADDRESS={address}, without a port')
    # JAX itself reads the coordinator's address from its variable, not these.
    seconds = _integer('JAX_INITIALIZATION_TIMEOUT') or peers.JOIN_TIMEOUT
    with coordinator.in_own_process(), peers.joining(seconds):
      jax.distributed.initialize(
        num_processes=_integer('JAX_NUM_PROCESSES'),
        process_id=_integer('JAX_PROCESS_ID'),
        # JAX aborts, so its patience has to be longer.
        initialization_timeout=seconds + 60,
        # Processes of which none has failed have waited for each other.
        shutdown_timeout_seconds=30,
      )
    peers.watch()
  except InputError:
    raise  # which is a ValueError
  except ValueError as error:
    raise InputError(
      expected='hosts that JAX finds itself (on a TPU pod, under Slurm or Open '
      'MPI), or variables that name them',
      found=f'{error}',
      argument='multihost',
      do='set JAX_COORDINATOR_ADDRESS=HOST:PORT of the first process, '
      'JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) for each process; or '
      'set multihost to False, for a single host',
    ) from error


def _integer(variable):
  value = os.environ.get(variable)
  try:
    return None if value is None else int(value)
  except ValueError as error:
    raise ValueError(f'{variable}={value}, no whole number') from error
