"""One run at a time in a workdir.

The file <workdir>/.lock says who writes there. Its owner holds an advisory lock
on it (flock), which the system releases when the process ends, in whatever way.
Not every network file system or bucket shows that lock to other hosts: the
owner also counts up a number in the file, and who finds the record of another
host looks whether the number moves before taking over.

What this cannot do, and warns of where it finds out: without locks, or where
they are not shared, two hosts that start within the same seconds may both
begin. The record is then that of one of them, and the other ends at its next
count, 5 s later. So does an owner that was suspended (a paused container) for
longer than others wait, and lost the folder.

Reading a run, and evaluating it, needs no lock: both may be done while it
trains. What an evaluation writes are whole files of its own.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from typing import Any
import warnings

from mtl_kd_jax.errors import InputError

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

EXIT_CODE = 5  # of an owner that has lost the folder

_FILE = '.lock'
_BEAT = 5.0  # seconds between two counts
_PATIENCE = 20.0  # seconds that an owner on another host may take to count
_SIZE = 512  # bytes of a record: one write replaces the last one


class InUse(InputError):
  """Another run is in a workdir."""


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
    record = _make_record()
    written = _write_first(file, record, path)
    _held[key] = thread
    beating = threading.Event()
    beats = threading.Thread(
      target=_beat, args=(file, record, path, written, beating), daemon=True
    )
    beats.start()
    try:
      yield
    finally:
      beating.set()
      beats.join()
      del _held[key]
      with contextlib.suppress(OSError):  # the record stands still from now on
        if _is_of(_read(path), record):
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
  missing = 'this system has none'
  if fcntl is not None:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      missing = ''
    except BlockingIOError as error:
      raise _in_use(path, _describe(_read(path))) from error
    except OSError as error:
      missing = f'{error}'  # the count has to do
  if missing:
    _warn(
      f'{path.parent} cannot be locked ({missing}). Two runs that start there '
      'within the same seconds may both begin; one of them ends soon after'
    )
  owner = _read(path)
  if owner and (missing or owner['kernel'] != _kernel()):
    _warn(
      f'{path.parent} was last used by {_describe(owner)}; looking for '
      f'{_PATIENCE:.0f} s whether that still runs'
    )
    if _counts(path, owner):
      raise _in_use(path, _describe(owner))


def _counts(path, owner) -> bool:
  end = time.monotonic() + _PATIENCE
  while time.monotonic() < end:
    time.sleep(min(1.0, _PATIENCE / 10))
    now = _read(path)
    if now and now != owner:
      return True
    if _is_empty(path):
      return False  # ended, just now
  return False


def _make_record() -> dict[str, Any]:
  return {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'kernel': _kernel(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    'id': secrets.token_hex(8),
    'count': 0,
  }


def _write_first(file, record, path) -> bool:
  try:
    _write(file, record)
    return True
  except OSError as error:
    _warn(
      f'{path} cannot be written ({error}). Runs on hosts that do not see its '
      'lock do not see either that this one is here'
    )
    return False


def _beat(file, record, path, written, ended) -> None:
  while not ended.wait(_BEAT):
    with contextlib.suppress(OSError):  # the next one may succeed
      if written:
        found = _read(path)
        if not _is_of(found, record) and (found or _is_empty(path)):
          _end_without(path, found)
          return
      record['count'] += 1
      _write(file, record)
      written = True


def _end_without(path, owner) -> None:
  """Ends this process at once: whatever it wrote would be another run's."""
  error = InputError(
    expected='to be the only run in this folder, as when this one started',
    found=f'{_describe(owner)}. Both have started in the same seconds, or this '
    f'one stood still for over {_PATIENCE:.0f} s and was taken for dead',
    where=f'{path.parent}',
    argument='workdir',
    do='let the other one end; the same command continues it',
  )
  print(f'error: {error}', file=sys.stderr, flush=True)
  os._exit(EXIT_CODE)


def _write(file, record) -> None:
  os.pwrite(file, json.dumps(record).encode().ljust(_SIZE), 0)
  os.fsync(file)


def _read(path) -> dict[str, Any]:
  """Who owns the file; {} for nobody, or what cannot be read."""
  try:
    # Opened anew: network file systems show what others wrote then.
    record = json.loads(path.read_bytes())
    return record if isinstance(record, dict) and 'kernel' in record else {}
  except (OSError, ValueError):
    return {}


def _is_empty(path) -> bool:
  try:
    return path.stat().st_size == 0
  except OSError:
    return False


def _is_of(found, record) -> bool:
  """Whether two records are of one owner."""
  return bool(found) and {**found, 'count': 0} == {**record, 'count': 0}


def _warn(message) -> None:
  warnings.warn(message, stacklevel=5)


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


def _in_use(path, owner) -> InUse:
  return InUse(
    expected='a workdir that no other run is using',
    found=owner,
    where=f'{path.parent}',
    argument='workdir',
    do='wait until it ends, stop it, or choose another folder',
  )
