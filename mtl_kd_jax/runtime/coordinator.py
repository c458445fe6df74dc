"""JAX's coordination service in a process of its own.

All processes of a run hold a connection to it. JAX starts it inside process 0:
when that dies, JAX aborts all others within a second, with a stack trace in
C++. In a process of its own the service outlives process 0 until the others
have noticed and said so (peers.py).
"""

from collections.abc import Iterator
import contextlib
import json
import os
import socket
import subprocess
import sys
import types

# JAX has no public interface to its coordination service.
from jax._src import distributed

from mtl_kd_jax.errors import InputError

_LINGER = 55.0  # seconds without process 0; others need less to notice

# It must not end by signals to a whole process group: process 0 may be about
# to save. /proc/net/tcp lists connections with ports in hexadecimal; state 01
# is an established one.
_PROGRAM = """
import json, os, signal, sys, time
from jaxlib import _jax

for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
  if hasattr(signal, name):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
args, options, linger = json.loads(sys.argv[1])
service = _jax.get_distributed_runtime_service(*args, **options)
print('ready', flush=True)

def is_connected():
  port = f':{int(args[0].rpartition(":")[2]):04X}'
  lines = []
  for name in ('/proc/net/tcp', '/proc/net/tcp6'):
    if os.path.exists(name):
      with open(name) as file:
        lines += [line.split() for line in file]
  if not lines:
    return True
  return any(line[1].endswith(port) and line[3] == '01' for line in lines)

if sys.stdin.readline():
  service.shutdown()
else:  # process 0 is gone
  nothing = os.open(os.devnull, os.O_WRONLY)
  for output in (1, 2):
    os.dup2(nothing, output)  # whoever reads these need not wait
  end = time.monotonic() + linger
  while time.monotonic() < end and is_connected():
    time.sleep(0.5)
os._exit(0)
"""


@contextlib.contextmanager
def in_own_process() -> Iterator[None]:
  """While entered, `jax.distributed.initialize` starts the service this way.

  Where that cannot be done, JAX starts it inside process 0, as it does anyway.

  Raises:
    InputError: the port of the service is in use.
  """
  library = getattr(distributed, '_jax', None)
  start_here = getattr(library, 'get_distributed_runtime_service', None)
  if start_here is None:
    yield
    return

  def start(address, *args, **options):
    _check_free(address)
    service = _Service([address, *args], options)
    return service if service.ready else start_here(address, *args, **options)

  # The module itself belongs to all users of JAX in this process.
  distributed._jax = types.SimpleNamespace(
    **vars(library) | {'get_distributed_runtime_service': start}
  )
  try:
    yield
  finally:
    distributed._jax = library


class _Service:
  """A process with the service, as far as JAX uses the service's object.

  Attributes:
    ready: whether the service has started.
  """

  def __init__(self, args, options):
    self.ready = False
    with contextlib.suppress(OSError, TypeError, ValueError):
      self._process = subprocess.Popen(
        [sys.executable, '-c', _PROGRAM, json.dumps([args, options, _LINGER])],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
      )
      self.ready = self._process.stdout.readline() == 'ready\n'

  def shutdown(self) -> None:
    """Ends it. Without this call, it lingers when this process ends."""
    with contextlib.suppress(OSError):  # it has ended already
      self._process.communicate('end\n')


def _check_free(address) -> None:
  """Two services share a port without an error, and mix up two runs."""
  host, _, port = address.rpartition(':')
  try:
    # Only a listener without SO_REUSEPORT notices another one.
    host = '' if host in ('[::]', '0.0.0.0') else host.strip('[]')
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    socket.create_server((host, int(port)), family=family).close()
  except OSError as error:
    raise InputError(
      expected=f'a port that is free for process 0: {port}',
      found=f'{error.strerror or error}',
      argument='multihost',
      do='choose another port in JAX_COORDINATOR_ADDRESS; or, where it is that '
      'of a run that was killed, wait a minute until its processes have ended',
    ) from error
