"""Copies of what is in a bucket, for what has to be a file of this machine.

`local` keeps its copies, in ~/.cache/mtl_kd_jax/buckets or the folder of the
environment variable MTL_KD_JAX_CACHE: data are read in every epoch, and by many
threads. What has not changed in the bucket is not copied again.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any
import weakref
import zlib

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

_THREADS = 16
_INDEX = '.index'


def local(
  path: 'Path',
  *,
  argument: str,
  progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
  """A file or folder to read: itself, or a copy of what is in a bucket.

  The copy of nothing is a path at which there is nothing.

  Args:
    path: the file or folder; need not exist.
    argument: names it in errors.
    progress: called with (bytes copied, bytes to copy).

  Raises:
    InputError: the bucket cannot be read, or the disk is too small.
  """
  if not buckets.is_bucket(path):
    return path
  target = copy_of(path)
  digest = hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16]
  index = _folder() / _INDEX / f'{digest}.json'
  try:
    index.parent.mkdir(parents=True, exist_ok=True)
    with _locked(index.with_suffix('.lock')):
      _update(path, target, index, argument, progress)
  except OSError as error:
    raise InputError(
      expected='a bucket that can be copied to this machine',
      found=f'{error}',
      where=f'{path}, to {target}',
      argument=argument,
      do='make room, or name another folder in MTL_KD_JAX_CACHE; the same '
      'command continues',
    ) from error
  return target


def copy_of(path: 'Path') -> pathlib.Path:
  """Where `local` keeps its copy of what is in a bucket."""
  return _folder() / os.fspath(path).replace('://', '/')


def name_of(path: str | os.PathLike) -> str:
  """The path that a copy of `local` is one of; any other one as it is."""
  text, folder = os.fspath(path), f'{_folder()}{os.sep}'
  if not text.startswith(folder):
    return text
  scheme, _, rest = text.removeprefix(folder).partition(os.sep)
  return f'{scheme}://{rest}' if scheme in buckets.SCHEMES else text


@contextlib.contextmanager
def fetched(path: 'Path') -> Iterator[pathlib.Path]:
  """A folder, or a copy of it for as long as this is entered.

  Raises:
    OSError: the bucket cannot be read.
  """
  if not buckets.is_bucket(path):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix='mtl_kd_jax-') as temporary:
    target = pathlib.Path(temporary, path.name)
    target.mkdir()
    _download(path, target, [*buckets.objects(path)], lambda name: None)
    yield target


def temporary_folder(owner: Any) -> pathlib.Path:
  """A new folder of this machine, which is removed with its owner."""
  folder = tempfile.mkdtemp(prefix='mtl_kd_jax-')
  weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
  return pathlib.Path(folder)


def upload(folder: pathlib.Path, path: 'Path', *, last: str = '') -> None:
  """Copies the files of a folder to a bucket.

  Args:
    folder: of this machine.
    path: the folder in the bucket.
    last: the file whose presence says that all others are there.

  Raises:
    OSError: one cannot be written.
  """
  names = [
    file.relative_to(folder).as_posix()
    for file in sorted(folder.rglob('*'))
    if file.is_file()
  ]
  with buckets.as_os_errors(path), futures.ThreadPoolExecutor(_THREADS) as pool:
    files = buckets.filesystem(path)
    put = lambda name: files.put_file(f'{folder / name}', f'{path}/{name}')  # noqa: E731
    list(pool.map(put, [name for name in names if name != last]))
    if last in names:
      put(last)


def _folder() -> pathlib.Path:
  named = os.environ.get('MTL_KD_JAX_CACHE')
  home = os.path.expanduser('~')  # stays ~ in a container without users
  if named or home == '~':
    return pathlib.Path(named or tempfile.gettempdir(), 'buckets')
  return pathlib.Path(home, '.cache/mtl_kd_jax/buckets')


@contextlib.contextmanager
def _locked(path) -> Iterator[None]:
  """Waits for other processes that copy the same."""
  with open(path, 'w') as lock:
    if fcntl is not None:
      with contextlib.suppress(OSError):  # there are none: work is done twice
        fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _update(path, target, index, argument, progress) -> None:
  """Makes the copy what is in the bucket now."""
  try:
    known = {k: buckets.Object(*v) for k, v in json.loads(index.read_text())}
  except (OSError, TypeError, ValueError):
    known = {}
  there = buckets.objects(path)
  for name in known.keys() - there.keys():
    (target / name).unlink(missing_ok=True)
  old = {n: x for n, x in known.items() if x == there.get(n)}
  old = {n: x for n, x in old.items() if _size(target / n) == x.size}
  new = [name for name in there if name not in old]
  total, done = sum(there[name].size for name in new), 0
  target.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(target.parent).free
  if total > 0.95 * free:
    raise InputError(
      expected=f'{total / 1e9:.1f} GB of space for a copy of {path}',
      found=f'{free / 1e9:.1f} GB',
      where=f'{target}',
      argument=argument,
      do='make room, or name a folder on another disk in MTL_KD_JAX_CACHE',
    )

  def note(name):
    nonlocal done
    stamp = zlib.crc32(there[name].version.encode())
    os.utime(target / name, (stamp, stamp))  # the same on all machines
    old[name] = there[name]
    done += there[name].size
    if progress is not None:
      progress(done, total)

  try:
    _download(path, target, new, note)
  finally:
    if new or old.keys() != known.keys():
      index.write_text(json.dumps([*old.items()]))


def _size(path) -> int:
  try:
    return path.stat().st_size
  except OSError:
    return -1


def _download(path, target, names, note) -> None:
  """Copies objects, of which each appears when it is whole."""
  with buckets.as_os_errors(path), futures.ThreadPoolExecutor(_THREADS) as pool:
    files = buckets.filesystem(path)

    def get(name):
      to = target / name if name else target
      to.parent.mkdir(parents=True, exist_ok=True)
      unfinished = to.with_name(f'.{to.name}.{os.getpid()}.tmp')
      files.get_file(f'{path}/{name}' if name else f'{path}', f'{unfinished}')
      os.replace(unfinished, to)
      return name

    running = [pool.submit(get, name) for name in names]
    try:
      for each in futures.as_completed(running):
        note(each.result())
    finally:
      for each in running:
        each.cancel()
