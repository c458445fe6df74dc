"""How JAX is set up, before anything is computed."""

import importlib.util
import os
import pathlib
import re

import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import clusters, coordinator, peers
from mtl_kd_jax.runtime.memory import keep_freed_memory

_EXTRA_OPTIONS = '--xla_backend_extra_options'


def set_up(*, multihost: bool | None) -> None:
  """Sets JAX up for a job: hosts, compiler, compilation cache and memory.

  Call it before anything is computed.

  Args:
    multihost: whether to join the other hosts; None for whether `clusters`
      finds some. JAX finds them itself on Cloud TPU slices and under Slurm or
      Open MPI; elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
      JAX_PROCESS_ID say where they are. Where they have not all come after
      300 s (50 s with that address, or JAX_INITIALIZATION_TIMEOUT seconds), or
      one is gone later, this process ends: see `peers`.

  Raises:
    InputError: the other hosts are not known, or have to be joined, or a port
      is in use.
  """
  add_threads()
  disable_loop_unrolling()
  if multihost is None:
    multihost = clusters.has_other_hosts()
  if multihost and not jax.distributed.is_initialized():
    _join_hosts()
  if not jax.distributed.is_initialized():
    _check_alone()
  keep_programs()
  set_up_memory()


def keep_programs() -> None:
  """Keeps compiled programs between runs, at home or where JAX is told to.

  Call it when the other hosts are there. GPUs of several hosts choose kernels
  together: each tries a share of them, and waits for what the others find; for
  good if one of them has read the program instead. JAX lets the first host
  alone write programs, and homes may be those of the hosts, so that nothing is
  kept there then.
  """
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  home = os.path.expanduser('~')  # stays ~ in a container without users
  if home == '~' or jax.config.jax_compilation_cache_dir:
    return
  # In this order: who asks for devices alone cannot join others later.
  joined = jax.distributed.is_initialized() and jax.process_count() > 1
  if not (joined and jax.default_backend() == 'gpu'):
    cache = pathlib.Path(home, '.cache/mtl_kd_jax/xla')
    jax.config.update('jax_compilation_cache_dir', str(cache))


def set_up_memory() -> None:
  """Lets a step on CPUs have the memory of the step before.

  XLA allocates the scratch space of a step anew. If one of its own threads ran
  the step, it would come from an arena of the C library that fetches what is
  larger than 64 MiB from the system every time, or the step could begin before
  that of the last one is freed, and take twice as much. So steps run in the
  thread that calls them. Call it before anything is computed.
  """
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  if jax.default_backend() == 'cpu':
    keep_freed_memory()


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


def disable_loop_unrolling() -> None:
  """Keeps LLVM from unrolling the loops of programs for CPUs.

  Steps are as fast, and LLVM takes a quarter of the time to compile them. XLA
  has this option for a whole process only, in XLA_FLAGS, which it reads when
  anything is computed for the first time. Flags that have other extra options,
  or name a file of flags, stay as they are. So do all where libtpu is
  installed: a TPU's compiler is a library of its own, and one that did not know
  the flag would end the process.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  names_a_file = flags.strip()[:1] not in ('', '-')
  if (
    _EXTRA_OPTIONS in flags
    or names_a_file
    or importlib.util.find_spec('libtpu')
  ):
    return
  flag = f'{_EXTRA_OPTIONS}=xla_cpu_disable_loop_unrolling=true'
  os.environ['XLA_FLAGS'] = f'{flags} {flag}'.lstrip()


def _join_hosts() -> None:
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  try:
    if address is not None and ':' not in address:
      raise ValueError(f'JAX_COORDINATOR_ADDRESS={address}, without a port')
    # JAX itself reads the coordinator's address from its variable, not these.
    seconds = _integer('JAX_INITIALIZATION_TIMEOUT') or (
      peers.JOIN_TIMEOUT if address else peers.JOIN_TIMEOUT_OF_SCHEDULERS
    )
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
    _see_all_devices()
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


def _check_alone() -> None:
  """Checks that this process need not wait for others, for good."""
  if clusters.is_part_of_tpu_slice():
    raise InputError(
      expected='True on all hosts of a TPU slice, which begin together',
      found='a job, or a setting, for a single host',
      argument='multihost',
      do='run the job on a machine of its own, or set JAX_PLATFORMS=cpu; '
      'libtpu takes the chips of this host alone with '
      'TPU_PROCESS_BOUNDS=1,1,1 and TPU_CHIPS_PER_PROCESS_BOUNDS',
    )


def _see_all_devices() -> None:
  """Gives a task all GPUs that are for it alone.

  Under Slurm and Open MPI, JAX takes for granted that each GPU of a node has a
  task, and all tasks see all of them: it gives a task the GPU of its own index.
  """
  if os.environ.get('JAX_LOCAL_DEVICE_IDS') or not clusters.has_what_it_sees():
    return
  for name in ('jax_cuda_visible_devices', 'jax_rocm_visible_devices'):
    jax.config.update(name, os.environ.get(name.upper(), 'all'))


def _integer(variable):
  value = os.environ.get(variable)
  try:
    return None if value is None else int(value)
  except ValueError as error:
    raise ValueError(f'{variable}={value}, no whole number') from error
