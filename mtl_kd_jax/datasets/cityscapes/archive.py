"""Reads files from a zip archive, or from the folder that it unpacks to.

Nothing is unpacked to disk. Reading is thread-safe.
"""

import pathlib
from typing import Protocol
import zipfile

from mtl_kd_jax.errors import InputError


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
  if path.is_file():
    return _Zip(path)
  return _Tree(folder, tree) if (folder / tree).is_dir() else None


class _Zip:
  """A zip archive."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    try:
      self._zip = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
      raise InputError(
        expected='a complete zip archive',
        found=f'{path.stat().st_size:,} bytes; {error}',
        where=f'{path}',
        do='download it again: it is probably truncated',
      ) from error

  def names(self) -> list[str]:
    return [name for name in self._zip.namelist() if not name.endswith('/')]

  def read(self, name: str) -> bytes:
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
    return f'{name} in {self._path}'


class _Tree:
  """A folder."""

  def __init__(self, parent: pathlib.Path, tree: str):
    self._parent, self._tree = parent, tree

  def names(self) -> list[str]:
    files = (self._parent / self._tree).rglob('*')
    return [
      path.relative_to(self._parent).as_posix()
      for path in files
      if path.is_file()
    ]

  def read(self, name: str) -> bytes:
    try:
      return (self._parent / name).read_bytes()
    except OSError as error:
      raise InputError(
        expected='a file that can be read',
        found=f'{type(error).__name__}: {error}',
        where=self.where(name),
        do='unpack the archive again',
      ) from error

  def where(self, name: str) -> str:
    return f'{self._parent / name}'
