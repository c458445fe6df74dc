"""Small files of a run, written whole or not at all."""

from collections.abc import Iterator
import contextlib
import io
import os
import socket
from typing import TYPE_CHECKING, TextIO

from mtl_kd_jax.runtime import buckets

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path


def write_atomically(path: 'Path', text: str) -> None:
  """Writes a whole text file or nothing; see `write_bytes_atomically`."""
  write_bytes_atomically(path, text.encode('utf-8'))


def write_bytes_atomically(path: 'Path', content: bytes) -> None:
  """Writes a whole file or nothing, whenever the process is killed.

  Several processes may write the same file: one of them wins. In a bucket, an
  object appears when it is whole, without being renamed.

  Raises:
    OSError: it cannot be written.
  """
  if buckets.is_bucket(path):
    buckets.write(path, content)
    return
  writer = f'{socket.gethostname()}.{os.getpid()}'
  temporary = path.with_name(f'{path.name}.{writer}.tmp')
  try:
    temporary.write_bytes(content)
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def appended(path: 'Path') -> Iterator[TextIO]:
  """A text file to add to; in a bucket, it is written at the end.

  Raises:
    OSError: it cannot be read or written.
  """
  if not buckets.is_bucket(path):
    with open(path, 'a', encoding='utf-8') as file:
      yield file
    return
  with io.StringIO() as file:
    file.write((buckets.read(path) or b'').decode('utf-8'))
    try:
      yield file
    finally:
      buckets.write(path, file.getvalue().encode('utf-8'))
