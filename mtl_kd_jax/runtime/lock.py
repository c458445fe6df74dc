"""One run at a time in a workdir.

The file <workdir>/.lock says who writes there. Its owner holds an advisory lock
on it (flock), which the system releases when the process ends, in whatever way.
Not every network file system or bucket shows that lock to other hosts: the
owner also counts up a number in the file, and who finds the record of another
host looks whether the number moves before taking over.

What this cannot do: where locks are not shared, two hosts that start within the
same seconds may both begin.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any
import warnings

from mtl_kd_jax.errors import InputError

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

_FILE = '.lock'
_BEAT = 5.0  # seconds between two counts
_PATIENCE = 20.0  # seconds that an owner on another host may take to count
_SIZE = 512  # bytes of a record: one write replaces it

_held: dict[str, int] = {}  # path -> thread, of this process


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a workdir; the same thread may enter it again.

  Args:
    workdir: made when it does not exist.

  Raises:
    InputError: another run is in it, or it cannot be written to.
  """
  path = pathlib.Path(workdir) / _FILE
  key = os.path.realpath(path)
  thread = threading.get_ident()
  if _held.get(key) == thread:
    yield
    return
  if key in _held:
    raise _in_use(path, 'another thread of this process')
  file = _open(path)
  try:
    _take(file, path)
    _held[key] = thread
    beating = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, beating), daemon=True)
    beats.start()
    try:
      yield
    finally:
      beating.set()
      beats.join()
      del _held[key]
      os.ftruncate(file, 0)  # nobody's
  finally:
    os.close(file)


def _open(path) -> int:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'{path.parent}',
      argument='workdir',
      do='choose another',
    ) from error


def _take(file, path) -> None:
  """Becomes the owner, or says who is."""
  shared = False
  if fcntl is not None:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shared = True
    except BlockingIOError as error:
      raise _in_use(path, _describe(_read(file))) from error
    except OSError:
      pass  # a file system without locks: the count has to do
  owner = _read(file)
  if owner and not (shared and owner['kernel'] == _kernel()):
    warnings.warn(
      f'{path.parent} was last used by {_describe(owner)}; looking for '
      f'{_PATIENCE:.0f} s whether that still runs',
      stacklevel=4,
    )
    if _counts(file, owner):
      raise _in_use(path, _describe(owner))


def _counts(file, owner) -> bool:
  end = time.monotonic() + _PATIENCE
  while time.monotonic() < end:
    time.sleep(min(1.0, _PATIENCE / 10))
    now = _read(file)
    if not now:
      return False  # ended, just now
    if now != owner:
      return True
  return False


def _beat(file, ended) -> None:
  record = {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'kernel': _kernel(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    'count': 0,
  }
  while True:
    with contextlib.suppress(OSError):  # the next one may succeed
      os.pwrite(file, json.dumps(record).encode().ljust(_SIZE), 0)
      os.fsync(file)
    if ended.wait(_BEAT):
      return
    record['count'] += 1


def _read(file) -> dict[str, Any]:
  """Who owns the file; {} for nobody, or what cannot be read."""
  try:
    record = json.loads(os.pread(file, _SIZE, 0))
    return record if isinstance(record, dict) and 'kernel' in record else {}
  except (OSError, ValueError):
    return {}


def _kernel() -> str:
  """What is the same for all processes that see each other's locks."""
  try:
    path = pathlib.Path('/proc/sys/kernel/random/boot_id')
    return path.read_text().strip()
  except OSError:
    return socket.gethostname()


def _describe(owner) -> str:
  if not owner:
    return 'another process'
  return (
    f'process {owner["pid"]} on {owner["host"]}, since {owner["since"]} there'
  )


def _in_use(path, owner) -> InputError:
  return InputError(
    expected='a workdir that no other run is using',
    found=owner,
    where=f'{path.parent}',
    argument='workdir',
    do='wait until it ends, stop it, or choose another folder',
  )
