"""Tells damaged files from a machine that cannot read them at the moment."""

from collections.abc import Iterator
import errno
import os
import pathlib

_ERRNOS = frozenset(
  (
    errno.EACCES,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
  )
)
_BLOCK = 2**24  # bytes


def is_of_machine(error: BaseException) -> bool:
  """Whether memory, permission or connection failed, and not the file read.

  Libraries wrap such errors in their own, so the causes count too.
  """
  return any(map(_is_of_machine, _chain(error)))


def read_all(directory: pathlib.Path) -> None:
  """Reads all files of a folder, whatever they contain.

  Libraries may hide why they could not read a file. This finds out.

  Raises:
    OSError: the machine cannot read the folder or one of its files.
  """

  def fail(error):
    raise error

  for folder, _, names in os.walk(directory, onerror=fail):
    for name in names:
      with open(os.path.join(folder, name), 'rb') as file:
        while file.read(_BLOCK):
          pass


def _is_of_machine(error) -> bool:
  if isinstance(error, OSError):
    return error.errno in _ERRNOS
  # XLA and tensorstore begin their messages with the name of a status.
  exhausted = str(error).startswith('RESOURCE_EXHAUSTED')
  return exhausted or isinstance(error, MemoryError)


def _chain(error) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__
