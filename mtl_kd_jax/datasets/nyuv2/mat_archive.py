"""Frames out of a MATLAB v7.3 file, which is HDF5, without reading it all."""

import os
import pathlib
import threading

import h5py
import numpy as np

from mtl_kd_jax.errors import InputError


class Archive:
  """A file whose fields have the frame as their first axis.

  It is opened when it is first read from, once in every process: open HDF5
  files do not survive a fork, nor can they be pickled. HDF5 reads one thing at
  a time, whatever the number of threads.
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
    """One frame of a field; InputError where the file is damaged."""
    try:
      return self._dataset(field)[frame]
    except OSError as error:
      found = f'frame {frame + 1} of {field}: {error}'
      raise self.bad('a file without damage', found) from error

  def shape(self, field: str) -> tuple[int, ...]:
    """The shape of a field; InputError where there is none."""
    return self._dataset(field).shape

  def count(self, field: str) -> int:
    """The number of entries of a field; 0 where there is none."""
    content = self._open()
    return content[field].size if field in content else 0

  def check(self, field: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raises InputError unless the field has this shape and type of number.

    Args:
      field: its name.
      shape: what it should be.
      dtype: how the name of its type begins: 'uint8', or 'uint' for any width.
    """
    dataset = self._dataset(field)
    if dataset.shape != shape or not dataset.dtype.name.startswith(dtype):
      raise self.bad(
        f'{field} of {dtype} {list(shape)}',
        f'{dataset.dtype} {list(dataset.shape)}',
      )

  def bad(self, expected: str, found: str, do: str = '') -> InputError:
    """The error for an archive that cannot be used."""
    return InputError(
      expected=expected,
      found=found,
      where=f'{self.path}',
      do=do or 'download the file again (docs/data.md says where)',
    )

  def _dataset(self, field) -> h5py.Dataset:
    content = self._open()
    if field not in content or not isinstance(content[field], h5py.Dataset):
      found = 'the fields ' + (', '.join(content) or '(none)')
      raise self.bad(f'the field {field}', found)
    return content[field]

  def _open(self) -> h5py.File:
    with self._opening:
      if self._process != os.getpid():
        try:
          self._file = h5py.File(self.path, 'r')
        except OSError as error:
          # Truncated, for one: HDF5 knows how long its file should be.
          raise self.bad('a whole HDF5 file', str(error)) from error
        self._process = os.getpid()
      return self._file
