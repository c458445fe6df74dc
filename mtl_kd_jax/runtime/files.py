"""Small files of a run, written whole or not at all."""

import os
import pathlib
import socket


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes a whole text file or nothing; see `write_bytes_atomically`."""
  write_bytes_atomically(path, text.encode('utf-8'))


def write_bytes_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes a whole file or nothing, whenever the process is killed.

  Several processes may write the same file: one of them wins.
  """
  writer = f'{socket.gethostname()}.{os.getpid()}'
  temporary = path.with_name(f'{path.name}.{writer}.tmp')
  try:
    temporary.write_bytes(content)
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
