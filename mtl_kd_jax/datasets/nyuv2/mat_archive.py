"""Reads single frames from a MATLAB v7.3 file, which is HDF5."""

import os
import pathlib
import threading

import h5py
import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError


class Archive:
  """A file whose fields have frames along their first axis.

  It is opened on first use, once in every process: open HDF5 files cannot be
  used after a fork, nor pickled. HDF5 serializes the reads of several threads.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._clear()

  def _clear(self):
    self._file, self._process = None, None
    self._opening = threading.Lock()

  def __getstate__(self):
    return self.path

  def __setstate__(self, path):
    self.path = path
    self._clear()

  def read(self, field: str, frame: int) -> np.ndarray:
    """One frame of a field; raises InputError if the file is damaged."""
    try:
      return self._dataset(field)[frame]
    except (OSError, RuntimeError, ValueError) as error:
      found = f'frame {frame + 1} of {field}: {error}'
      raise self.bad('an undamaged file', found) from error

  def shape(self, field: str) -> tuple[int, ...]:
    """The shape of a field; raises InputError if it does not exist."""
    return self._dataset(field).shape

  def count(self, field: str) -> int:
    """The number of entries of a field; 0 if it does not exist."""
    found = self._get(field)
    return found.size if isinstance(found, h5py.Dataset) else 0

  def check(self, field: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raises InputError unless the field has this shape and dtype.

    Args:
      field: its name.
      shape: the expected shape.
      dtype: prefix of the expected dtype: 'uint8', or 'uint' for any width.
    """
    dataset = self._dataset(field)
    if dataset.shape != shape or not dataset.dtype.name.startswith(dtype):
      raise self.bad(
        f'{field} of {dtype} {list(shape)}',
        f'{dataset.dtype} {list(dataset.shape)}',
      )

  def bad(self, expected: str, found: str, do: str = '') -> InputError:
    """Makes the error for an archive that cannot be used."""
    return InputError(
      expected=expected,
      found=found,
      where=paths.as_text(self.path),
      do=do or 'download the file again (docs/data.md says where)',
    )

  def _dataset(self, field) -> h5py.Dataset:
    found = self._get(field)
    if not isinstance(found, h5py.Dataset):
      names = 'the fields ' + (', '.join(self._open()) or '(none)')
      of_it = f', in which {field} is no array' * (found is not None)
      raise self.bad(f'the field {field}', names + of_it)
    return found

  def _get(self, field):
    """What has that name, of any kind; None for nothing."""
    content = self._open()
    try:
      return content[field] if field in content else None
    except (KeyError, OSError, RuntimeError) as error:  # e.g. a broken link
      raise self.bad(f'the field {field}', f'{error}') from error

  def _open(self) -> h5py.File:
    with self._opening:
      if self._process != os.getpid():
        try:
          self._file = h5py.File(self.path, 'r')
        except OSError as error:
          # Also if it is truncated: HDF5 stores the length of its file.
          raise self.bad('a complete HDF5 file', str(error)) from error
        self._process = os.getpid()
      return self._file
