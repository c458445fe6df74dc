"""Small files of a run, written whole or not at all."""

import os
import pathlib
import socket


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes a whole file or nothing, whenever the process is killed.

  Several processes may write the same file: one of them wins.
  """
  writer = f'{socket.gethostname()}.{os.getpid()}'
  temporary = path.with_name(f'{path.name}.{writer}.tmp')
  try:
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
