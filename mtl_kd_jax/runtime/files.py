"""Small files of a run, written whole or not at all."""

import os
import pathlib


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes a whole file or nothing, whenever the process is killed."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)
