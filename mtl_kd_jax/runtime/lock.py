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

In a bucket there are no locks. The record is an object that is made on the
condition that there is none, and removed at the end; the count tells whether
the owner of one that is left is alive. All of that takes twice as long there.

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
from typing import TYPE_CHECKING, Any
import warnings

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

EXIT_CODE = 5  # of an owner that has lost the folder

_FILE = '.lock'
_BEAT = 5.0  # seconds between two counts
_PATIENCE = 20.0  # seconds that an owner on another host may take to count
_SLOWER = 2  # in a bucket, where every write is paid for
_SIZE = 512  # bytes of a record: one write replaces the last one


class InUse(InputError):
  """Another run is in a workdir."""


_held: dict[str, int] = {}  # path -> thread, of this process


@contextlib.contextmanager
def exclusive(workdir: 'Path') -> Iterator[None]:
  """Keeps other runs out of a workdir; the same thread may enter it again.

  Args:
    workdir: made when it does not exist.

  Raises:
    InputError: another run is in it, or it cannot be written to.
  """
  path = buckets.path_of(workdir) / _FILE
  key = f'{path}' if buckets.is_bucket(path) else os.path.realpath(path)
  thread = threading.get_ident()
  if _held.get(key) == thread:
    yield
    return
  if key in _held:
    raise _in_use(path, 'another thread of this process')
  file = _open(path)
  try:
    record = _make_record()
    if file is None:
      _take_in_bucket(path, record)
    else:
      _take(file, path)
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
          _leave(file, path)
  finally:
    if file is not None:
      os.close(file)


def _open(path) -> int | None:
  """The file to lock; None in a bucket, which has to be writable."""
  if buckets.is_bucket(path):
    buckets.check_access(path.parent, argument='workdir', write=True)
    return None
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


def _take_in_bucket(path, record) -> None:
  """Becomes the owner, or says who is."""
  content = json.dumps(record).encode()
  with _reported(path):
    try:
      buckets.write(path, content, new=True)
      return
    except FileExistsError:
      owner = _read(path)
    if owner and not _is_gone(owner):
      _warn(
        f'{path.parent} is used by {_describe(owner)}, or was; looking for '
        f'{_patience(path):.0f} s whether that still runs'
      )
      if _counts(path, owner):
        raise _in_use(path, _describe(owner))
    buckets.remove(path)
    try:
      buckets.write(path, content, new=True)
    except FileExistsError as error:  # of another one that has waited
      raise _in_use(path, _describe(_read(path))) from error


@contextlib.contextmanager
def _reported(path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise InputError(
      expected='a bucket that can be written to',
      found=f'{error}',
      where=f'{path.parent}',
      argument='workdir',
      do='see whether it can be reached, and get permission for it',
    ) from error


def _is_gone(owner) -> bool:
  """Whether an owner is known to be a process of this system that has ended."""
  if owner.get('processes') != _processes() or not owner['processes']:
    return False
  return not os.path.exists(f'/proc/{owner["pid"]}')


def _leave(file, path) -> None:
  """Makes the folder nobody's."""
  if file is None:
    buckets.remove(path)
  else:
    os.ftruncate(file, 0)


def _patience(path) -> float:
  return _PATIENCE * (_SLOWER if buckets.is_bucket(path) else 1)


def _counts(path, owner) -> bool:
  end = time.monotonic() + _patience(path)
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
    'processes': _processes(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    'id': secrets.token_hex(8),
    'count': 0,
  }


def _write_first(file, record, path) -> bool:
  try:
    _write(file, record, path)
    return True
  except OSError as error:
    _warn(
      f'{path} cannot be written ({error}). Runs on hosts that do not see its '
      'lock do not see either that this one is here'
    )
    return False


def _beat(file, record, path, written, ended) -> None:
  while not ended.wait(_BEAT * (_SLOWER if file is None else 1)):
    with contextlib.suppress(OSError):  # the next one may succeed
      if written:
        found = _read(path)
        if not _is_of(found, record) and (found or _is_empty(path)):
          _end_without(path, found)
          return
      record['count'] += 1
      _write(file, record, path)
      written = True


def _end_without(path, owner) -> None:
  """Ends this process at once: whatever it wrote would be another run's."""
  error = InputError(
    expected='to be the only run in this folder, as when this one started',
    found=f'{_describe(owner)}. Both have started in the same seconds, or this '
    f'one stood still for over {_patience(path):.0f} s and was taken for dead',
    where=f'{path.parent}',
    argument='workdir',
    do='let the other one end; the same command continues it',
  )
  print(f'error: {error}', file=sys.stderr, flush=True)
  os._exit(EXIT_CODE)


def _write(file, record, path) -> None:
  content = json.dumps(record).encode()
  if file is None:
    buckets.write(path, content)
    return
  os.pwrite(file, content.ljust(_SIZE), 0)
  os.fsync(file)


def _read(path) -> dict[str, Any]:
  """Who owns the file; {} for nobody, or what cannot be read."""
  try:
    # Opened anew: network file systems show what others wrote then.
    in_bucket = buckets.is_bucket(path)
    content = buckets.read(path) if in_bucket else path.read_bytes()
    record = json.loads(content or b'')
    return record if isinstance(record, dict) and 'kernel' in record else {}
  except (OSError, ValueError):
    return {}


def _is_empty(path) -> bool:
  try:
    if buckets.is_bucket(path):
      return not buckets.read(path)
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


def _processes() -> str:
  """What is the same for all processes that have numbers of one system."""
  try:
    return _kernel() + os.readlink('/proc/self/ns/pid')
  except OSError:
    return ''


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
