"""Reads files from a zip archive, or from the folder that it unpacks to.

Nothing is unpacked to disk. Reading is thread-safe.
"""

import pathlib
from typing import Protocol
import zipfile

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError

# Of a file: the official ones have a few million.
_MAX_BYTES = 2**28


class Archive(Protocol):
  """Files, by their paths in the archive with slashes."""

  def names(self) -> list[str]:
    """The paths of all files."""

  def read(self, name: str) -> bytes:
    """The content of a file; raises InputError if it cannot be read."""

  def where(self, name: str) -> str:
    """The location of a file, for messages."""


def find_archive(
  folder: pathlib.Path, zip_name: str, tree: str
) -> Archive | None:
  """Opens `<folder>/<zip_name>`, else `<folder>/<tree>/`, else returns None.

  Args:
    folder: contains one of them.
    zip_name: name of the zip archive. All paths in it begin with `tree`.
    tree: name of the folder that it unpacks to.

  Raises:
    InputError: the zip archive exists but cannot be read.
  """
  path = folder / zip_name
  if not paths.why_no_file(path):
    return _Zip(path)
  is_folder = not paths.why_no_folder(folder / tree)
  return _Tree(folder, tree) if is_folder else None


class _Zip:
  """A zip archive."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    try:
      self._zip = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many types
      denied = isinstance(error, OSError)
      raise InputError(
        expected='a complete zip archive',
        found=f'{path.stat().st_size:,} bytes; {error}',
        where=paths.as_text(path),
        do='allow this user to read it'
        if denied
        else 'download it again: it is probably truncated',
      ) from error

  def names(self) -> list[str]:
    return [name for name in self._zip.namelist() if not name.endswith('/')]

  def read(self, name: str) -> bytes:
    size = self._zip.getinfo(name).file_size
    if size > _MAX_BYTES:
      raise InputError(
        expected=f'a file of at most {_MAX_BYTES:,} bytes',
        found=f'{size:,} bytes once it is unpacked',
        where=self.where(name),
        do=f'download {self._path.name} again: no official file is so large',
      )
    try:
      return self._zip.read(name)
    except Exception as error:  # zipfile and zlib raise many types
      raise InputError(
        expected='a file that can be unpacked',
        found=f'{type(error).__name__}: {error}',
        where=self.where(name),
        do=f'download {self._path.name} again: it is damaged',
      ) from error

  def where(self, name: str) -> str:
    return f'{name} in {paths.as_text(self._path)}'


class _Tree:
  """A folder."""

  def __init__(self, parent: pathlib.Path, tree: str):
    self._parent, self._tree = parent, tree

  def names(self) -> list[str]:
    # As deep as files are. Unlike `**`, it follows links, e.g. to a city on
    # another disk, and cannot end up in a circle.
    files = (self._parent / self._tree).glob('*/*/*')
    return [
      path.relative_to(self._parent).as_posix()
      for path in files
      if not paths.why_no_file(path)
    ]

  def read(self, name: str) -> bytes:
    try:
      if (self._parent / name).stat().st_size > _MAX_BYTES:
        raise OSError(f'more than {_MAX_BYTES:,} bytes')
      return (self._parent / name).read_bytes()
    except OSError as error:
      raise InputError(
        expected='a file that can be read',
        found=f'{type(error).__name__}: {error}',
        where=self.where(name),
        do='unpack the archive again',
      ) from error

  def where(self, name: str) -> str:
    return paths.as_text(self._parent / name)
