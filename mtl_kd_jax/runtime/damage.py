"""Tells damaged files from sound ones that cannot be read at the moment.

A folder carries the CRC-32 of its files, so that neither the error that a
library raises nor its version decides whether something is damaged.
"""

from collections.abc import Iterator
import errno
import json
import os
import pathlib
from typing import TYPE_CHECKING
import zlib

from mtl_kd_jax.runtime import buckets

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

CHECKSUMS = 'checksums.json'
_BLOCK = 2**24  # bytes

# What the system says of a path that is no longer the file that it was. All
# other errors are those of memory, permission, disk or network.
_OF_FILES = frozenset(
  (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, None)
)
# XLA and tensorstore begin their messages with the name of a status.
_OF_MACHINE = (
  'ABORTED',
  'CANCELLED',
  'DEADLINE_EXCEEDED',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'UNAUTHENTICATED',
  'UNAVAILABLE',
)


def is_of_machine(error: BaseException) -> bool:
  """Whether memory, permission or connection failed, and not the file read.

  Libraries wrap such errors in their own, so the causes count too.
  """
  return any(map(_is_of_machine, _chain(error)))


def write_checksums(directory: pathlib.Path) -> None:
  """Writes down the CRC-32 of all files in the subfolders of a folder.

  The files of the folder itself are left out: orbax changes them later.

  Raises:
    OSError: a file cannot be read, or the checksums cannot be written.
  """
  files = _checksums(directory)
  content = {'files': files, 'checksum': _checksum_of(files)}
  (directory / CHECKSUMS).write_text(json.dumps(content))


def has_checksums(directory: 'Path') -> bool:
  """Whether `write_checksums` has written something, damaged or not."""
  return (directory / CHECKSUMS).exists()


def find_damage(directory: 'Path') -> str | None:
  """Compares the files of a folder with their checksums.

  Returns:
    One line that names what differs; None where nothing does. Also None for a
    folder without checksums, whose files are read all the same: a library may
    have hidden why it could not read one.

  Raises:
    OSError: the machine cannot read the folder or one of its files.
  """
  expected, found = _read_checksums(directory), _checksums(directory)
  if expected is None:
    broken = has_checksums(directory)
    return f'{CHECKSUMS} is not as it was written' if broken else None
  for name in sorted(expected):
    if name not in found:
      return f'{name} is missing'
    if found[name] != expected[name]:
      return f'{name} is not as it was written'
  return None


def is_changed(directory: 'Path', name: str) -> bool:
  """Whether one file, given by its path in the folder, is known to differ."""
  expected = _read_checksums(directory) or {}
  return name in expected and (
    _checksum_of_file(directory / name) != expected[name]
  )


def _checksums(directory) -> dict[str, int]:
  """Path -> CRC-32 of all files in subfolders."""

  def fail(error):
    if _is_of_machine(error):
      raise error

  checksums = {}

  def add(name):
    if (checksum := _checksum_of_file(directory / name)) is not None:
      checksums[name] = checksum

  if buckets.is_bucket(directory):
    for name in buckets.objects(directory):
      if '/' in name:
        add(name)
    return checksums
  for folder, _, names in os.walk(directory, onerror=fail):
    if pathlib.Path(folder) == directory:
      continue
    for name in sorted(names):
      add(pathlib.Path(folder, name).relative_to(directory).as_posix())
  return checksums


def _checksum_of_file(path) -> int | None:
  """The CRC-32; None where there is no such file."""
  if buckets.is_bucket(path):
    content = buckets.read(path)
    return None if content is None else zlib.crc32(content)
  checksum = 0
  try:
    with open(path, 'rb') as file:
      while block := file.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
  except OSError as error:
    if _is_of_machine(error):
      raise
    return None
  return checksum


def _read_checksums(directory) -> dict[str, int] | None:
  """What was written down; None for nothing, and where it is damaged."""
  try:
    content = json.loads((directory / CHECKSUMS).read_bytes())
    files = content['files']
    return files if content['checksum'] == _checksum_of(files) else None
  except OSError as error:
    if _is_of_machine(error):
      raise
    return None
  except (ValueError, KeyError, TypeError, RecursionError):
    return None


def _checksum_of(files) -> int:
  return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _is_of_machine(error) -> bool:
  if isinstance(error, MemoryError | TimeoutError | ConnectionError):
    return True
  if isinstance(error, OSError):
    return error.errno not in _OF_FILES
  return str(error).startswith(_OF_MACHINE)


def _chain(error) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__
