"""What each process of a run prints, in <workdir>/logs/process_<i>.txt.

For runs of several processes: schedulers show one of them, or all at once.
"""

from collections.abc import Iterator
import contextlib
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import jax

from mtl_kd_jax.runtime import buckets

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

_SECONDS = 15.0  # between two uploads to a bucket
_LEAVE = 5.0  # seconds for the last one

_open: '_Log | None' = None  # of this process


@contextlib.contextmanager
def host_log(workdir: 'Path') -> Iterator[None]:
  """Copies what is printed to the log of this process, where there are several.

  A log that cannot be written is no reason to end.
  """
  global _open
  if jax.process_count() == 1:
    yield
    return
  log = _Log(workdir / 'logs' / f'process_{jax.process_index()}.txt')
  with (
    contextlib.redirect_stdout(_Copied(sys.stdout, log)),
    contextlib.redirect_stderr(_Copied(sys.stderr, log)),
  ):
    _open = log
    try:
      yield
    except BaseException as error:
      log.write(f'{type(error).__name__}: {error}\n')
      raise
    finally:
      _open = None
      log.close()


def flush() -> None:
  """Writes what is left, before a process ends without cleaning up."""
  if _open is not None:
    # The way to a bucket may be what is gone.
    closing = threading.Thread(target=_open.close, daemon=True)
    # At the end of the interpreter, Python 3.12 starts no thread.
    with contextlib.suppress(RuntimeError):
      closing.start()
      closing.join(_LEAVE)


class _Copied:
  """A stream, copied to a log."""

  def __init__(self, stream: Any, log: '_Log'):
    self._stream, self._log = stream, log

  def write(self, text: str) -> int:
    self._log.write(text)
    return self._stream.write(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


class _Log:
  """A file that grows; in a bucket, it is written anew now and then."""

  def __init__(self, path: 'Path'):
    self._path, self._file, self._content = path, None, None
    self._lock, self._ended = threading.Lock(), threading.Event()
    with contextlib.suppress(OSError):
      if buckets.is_bucket(path):
        self._content = (buckets.read(path) or b'').decode()
        threading.Thread(target=self._upload_often, daemon=True).start()
      else:
        buckets.make_folder(path.parent)
        self._file = open(path, 'a', encoding='utf-8', buffering=1)
    self.write(
      f'{time.strftime("%Y-%m-%d %H:%M:%S")}: process {jax.process_index()} of '
      f'{jax.process_count()} on {socket.gethostname()}, '
      f'{jax.local_device_count()} of {jax.device_count()} devices\n'
    )

  def write(self, text: str) -> None:
    with self._lock, contextlib.suppress(OSError, ValueError):
      if self._file is not None:
        self._file.write(text)
      elif self._content is not None:
        self._content += text

  def close(self) -> None:
    self._ended.set()
    self._upload()
    with self._lock, contextlib.suppress(OSError):
      if self._file is not None:
        self._file.close()

  def _upload_often(self) -> None:
    while not self._ended.wait(_SECONDS):
      self._upload()

  def _upload(self) -> None:
    with contextlib.suppress(OSError):
      if self._content is not None:
        buckets.write(self._path, self._content.encode())
