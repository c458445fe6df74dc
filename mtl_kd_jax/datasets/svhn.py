"""SVHN, cropped digits: house numbers of street views (Netzer et al. 2011).

    <dir>/train_32x32.mat   73257 digits
    <dir>/test_32x32.mat    26032 digits, the split 'val'
    <dir>/extra_32x32.mat   531131 easier ones, the split 'extra'; may be absent

Each is a MATLAB file of X, uint8 [32 32 3 n], and y, [n 1], from 1 to 10. The
digit 0 is stored as 10. A split is in memory while it is used: 225 MB of 73257
digits.
"""

import functools
import os
import pathlib
import threading

import numpy as np

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

SIZE = (32, 32)
DIGITS = tuple('0123456789')
_FILES = {
  'train': 'train_32x32.mat',
  'val': 'test_32x32.mat',
  'extra': 'extra_32x32.mat',
}
_NEEDED = ('train', 'val')
_PAGE = 'ufldl.stanford.edu/housenumbers'
_LABELS = {'digit': Label('image_class', classes=DIGITS)}


def make(*, data_dir: str | os.PathLike = '') -> Dataset:
  """Opens the files.

  Args:
    data_dir: the folder of the files above.

  Raises:
    InputError: a file is missing. What is in them is checked when a split is
      opened.
  """
  root = paths.expand(data_dir, argument='data_dir')
  found = paths.why_no_folder(root) if data_dir else 'no folder was named'
  for split in _NEEDED:
    found = found or paths.why_no_file(root / _FILES[split])
  if found:
    raise InputError(
      expected='the cropped digits of SVHN: '
      + ' and '.join(_FILES[split] for split in _NEEDED),
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do=f'download them from {_PAGE} ("Format 2", 182 and 64 MB), and name '
      'their folder in data_dir',
    )
  return Dataset(
    name='svhn',
    image_size=SIZE,
    labels=_LABELS,
    sources={
      split: functools.partial(_Digits, root / name)
      for split, name in _FILES.items()
      if (root / name).is_file()
    },
  )


def preview() -> Dataset:
  """Digits of 32x32 pixels."""
  return Dataset('svhn', SIZE, _LABELS, sources={})


class _Digits:
  """One file; picklable, and read again where it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._images, self._digits = _read(path)

  def __reduce__(self):
    return _Digits, (self._path,)

  def __len__(self) -> int:
    return len(self._digits)

  def __getitem__(self, index: int) -> Sample:
    return {
      'image': files.as_colors(np.ascontiguousarray(self._images[index])),
      'digit': np.array(self._digits[index]),
    }


_reading = threading.Lock()


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with _reading:  # or two threads would read one file twice
    return _read_once(path)


@functools.lru_cache(maxsize=3)
def _read_once(path):
  """Images uint8 [n 32 32 3] and digits int32 [n] of a file."""
  from scipy import io

  try:
    content = io.loadmat(path, variable_names=('X', 'y'))
    images, numbers = content['X'], content['y']
  except KeyError as error:
    raise files.bad_file(path, 'the fields X and y', f'no {error}') from error
  except Exception as error:
    # The parser raises almost any exception for a damaged file.
    reason = f'{error}' or type(error).__name__
    raise files.bad_file(path, 'a readable MATLAB file', reason) from error
  if images.dtype != np.uint8 or images.shape[:-1] != (*SIZE, 3):
    raise files.bad_file(
      path,
      'X of uint8 [32 32 3 n]',
      f'{images.dtype} {list(images.shape)}',
    )
  numbers = numbers.reshape(-1)
  if len(numbers) != images.shape[-1]:
    raise files.bad_file(
      path, f'{images.shape[-1]} numbers in y', f'{len(numbers)}'
    )
  files.check_range(path, numbers, 1, 10, 'y from 1 to 10')
  return np.moveaxis(images, -1, 0), (numbers % 10).astype(np.int32)
