"""The files of a checkpoint: what it says of itself, and whether it is whole.

    <kind>/<step>/state/...        arrays, as orbax writes them
    <kind>/<step>/info/metadata    JSON: checksum of the arrays; finished, score
    <kind>/<step>/checksums.json   of the files above, written with them

A checkpoint that cannot be read is damaged only if its files are not those
that were written. Otherwise a library or the machine is at fault.

In a bucket, where folders cannot be renamed, the last of these files says that
the others are there: a checkpoint without it is none.
"""

from collections.abc import Iterator
import contextlib
import json
from typing import TYPE_CHECKING, Any

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.damage import (
  CHECKSUMS,
  find_damage,
  has_checksums,
  is_changed,
  is_of_machine,
)

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

_INFO = 'info/metadata'


class DamagedError(Exception):
  """A checkpoint is not what was written."""


class ChecksumError(Exception):
  """Something that was read differs from its checksum."""


def newest(directory: 'Path') -> 'Path | None':
  """The checkpoint of the highest step in a folder, if there is one."""
  found = steps(directory)
  return directory / str(max(found)) if found else None


def steps(directory: 'Path') -> set[int]:
  """The steps of the checkpoints in a folder."""
  if buckets.is_bucket(directory):
    paths = [name.split('/') for name in buckets.objects(directory)]
    names = [path[0] for path in paths if path[1:] == [CHECKSUMS]]
  else:
    names = [p.name for p in directory.glob('*') if p.is_dir()]
  return {int(name) for name in names if name.isascii() and name.isdigit()}


def read_info(directory: 'Path') -> dict[str, Any]:
  """What was written down of a checkpoint's state.

  Raises:
    DamagedError, InputError, OSError: as `reading`.
  """
  with reading(directory):
    info = json.loads((directory / _INFO).read_bytes())
    if not isinstance(info, dict):
      raise ValueError(f'{_INFO} does not describe a checkpoint')
    if is_changed(directory, _INFO):
      raise ChecksumError(f'{_INFO} does not match its checksum')
    return info


@contextlib.contextmanager
def reading(directory: 'Path') -> Iterator[None]:
  """Finds out why the block cannot read a checkpoint.

  The block raises `ChecksumError` where what it has read is not what was
  written, `InputError` where it is not what is needed, and whatever libraries
  raise.

  Raises:
    DamagedError: the files are not those that were written. For a checkpoint
      of an earlier version, without checksums of its files: for a
      `ChecksumError`.
    InputError: of the block; or the checkpoint cannot be read, although it may
      be sound.
    OSError, MemoryError, jax.errors.JaxRuntimeError: the machine cannot read
      it.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    if is_of_machine(error):
      raise
    problem = find_damage(directory)
    listed = has_checksums(directory)
    if isinstance(error, ChecksumError) and not listed:
      problem = f'{error}'
    if problem:
      raise DamagedError(problem) from error
    raise _unreadable(directory, error, listed=listed) from error


def _unreadable(directory, error, *, listed) -> InputError:
  text = f'{type(error).__name__}: {error}'
  # Tensorstore repeats its errors in full.
  text = text.splitlines()[0].partition('. See full TensorStore details')[0]
  found, do = text[:200], 'use the versions of orbax and JAX that wrote it'
  if listed:
    found += '; but its files are as they were written'
  if not listed or isinstance(error, ChecksumError):
    do += (
      ', or move the folder away if it is damaged: training then falls back to '
      'an earlier checkpoint'
    )
  return InputError(
    expected='a checkpoint that the installed versions can read',
    found=found,
    where=f'{directory}',
    do=f'{do}; it is left as it is',
  )
