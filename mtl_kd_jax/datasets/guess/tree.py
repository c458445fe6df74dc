"""The files in a folder, as parts of their paths."""

from collections.abc import Sequence
import os
import pathlib
import re

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError

Parts = tuple[str, ...]

_MOST_FILES = 2_000_000


def list_files(root: pathlib.Path) -> tuple[list[Parts], list[str]]:
  """The files in a folder, in order; hidden ones are left out.

  Links to folders are followed, as by the data set; each folder once.

  Returns:
    The parts of their paths; and what was left out, in sentences.

  Raises:
    InputError: there are too many.
  """
  found: list[Parts] = []
  notes: list[str] = []
  seen: set[tuple[int, int]] = set()
  skipped: dict[str, list[str]] = {}

  def cannot_list(error: OSError) -> None:
    name = paths.as_text(os.path.relpath(error.filename or root, root))
    notes.append(f'{name}/: cannot be listed ({error.strerror})')

  for folder, inner, names in os.walk(
    root, followlinks=True, onerror=cannot_list
  ):
    parts = pathlib.Path(folder).relative_to(root).parts
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
      inner.clear()
      notes.append(
        f'{paths.as_text("/".join(parts))}/: not used (by a link, the same '
        'folder as another one)'
      )
      continue
    seen.add((status.st_dev, status.st_ino))
    inner[:] = sorted(name for name in inner if name[0] != '.')
    for name in sorted(name for name in names if name[0] != '.'):
      path = (*parts, name)
      if reason := _why_unusable('/'.join(path)):
        skipped.setdefault(reason, []).append(paths.as_text('/'.join(path)))
      else:
        found.append(path)
    if len(found) > _MOST_FILES:
      raise InputError(
        expected=f'a folder of up to {_MOST_FILES} files',
        found='more',
        where=paths.as_text(root),
        argument='init',
        do='name a folder in it; or write the config by hand '
        '(docs/data/folder.md)',
      )
  notes += [
    f'{paths.some(names)}: {len(names)} files, not used ({reason})'
    for reason, names in skipped.items()
  ]
  return found, notes


def _why_unusable(path: str) -> str:
  """Why no config could name a file; '' if one can."""
  try:
    path.encode('utf-8')
  except UnicodeEncodeError:
    return 'their names are not UTF-8'
  return 'braces in their names' if re.search('[{}]', path) else ''


def by_folder(files: Sequence[Parts], place_of) -> dict[tuple[str, str], list]:
  """Files by their place, as `place_of` writes the folder, and their ending."""
  found: dict[tuple[str, str], list[Parts]] = {}
  for parts in files:
    folder = ''.join(f'{part}/' for part in parts[:-1])
    ending = os.path.splitext(parts[-1])[1]
    found.setdefault((place_of(folder), ending), []).append(parts)
  return found
