"""The small files that accompany NYU-v2's archive: splits and class maps.

They are MATLAB v5 files, which SciPy reads:

  splits.mat          trainNdxs [795 1], testNdxs [654 1]: frames, from 1
  classMapping40.mat  mapClass [1 894]: NYU40 class of every raw id, from 1
  class13Mapping.mat  classMapping13, a struct whose first field [1 40] is the
                      13-class id of every NYU40 class, from 1

The 40 numbers of the last one are also in this module: the file may be absent,
and must agree if it is present.
"""

import pathlib

import numpy as np
from scipy import io

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError

RAW_IDS = 894
CLASSES_40 = (
  'wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door',
  'window', 'bookshelf', 'picture', 'counter', 'blinds', 'desk', 'shelves',
  'curtain', 'dresser', 'pillow', 'mirror', 'floor mat', 'clothes', 'ceiling',
  'books', 'refrigerator', 'television', 'paper', 'towel', 'shower curtain',
  'box', 'whiteboard', 'person', 'night stand', 'toilet', 'sink', 'lamp',
  'bathtub', 'bag', 'other structure', 'other furniture', 'other prop',
)  # fmt: skip
# For each of the 40 classes, that of SceneNet's 13 (npy.CLASSES), from 1.
_TO_13 = (
  12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5,
  7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7,
)  # fmt: skip
_SOURCES = {
  'splits.mat': 'horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat',
  'classMapping40.mat': 'github.com/ankurhanda/nyuv2-meta-data',
  'class13Mapping.mat': 'github.com/ankurhanda/nyuv2-meta-data',
}


def read_split(path: pathlib.Path, *, frames: int) -> dict[str, np.ndarray]:
  """Reads splits.mat.

  Args:
    path: the file.
    frames: number of frames in the archive.

  Returns:
    'train' and 'val', the official test split: frame numbers from 0, int [n],
    in the order of the archive.

  Raises:
    InputError: the file cannot be read, a number is not that of a frame, or a
      frame is in both splits.
  """
  fields = {'train': 'trainNdxs', 'val': 'testNdxs'}
  content = _read(path)
  splits = {}
  for split, field in fields.items():
    if field not in content:
      raise _bad(path, f'the field {field}', _listed(content))
    numbers = _integers(path, field, content[field], low=1, high=frames)
    if not numbers.size or len(np.unique(numbers)) < numbers.size:
      found = 'one of them twice' if numbers.size else 'none'
      raise _bad(path, f'different frames in {field}', found)
    splits[split] = np.sort(numbers) - 1
  shared = np.intersect1d(*splits.values())
  if shared.size:
    found = f'{shared.size} in both, e.g. number {shared[0] + 1}'
    raise _bad(path, 'no frame in trainNdxs and testNdxs', found)
  return splits


def class_table(
  folder: pathlib.Path, *, classes: int, label_ids: str
) -> np.ndarray:
  """Makes the lookup table from ids in the archive to classes.

  Args:
    folder: contains the maps.
    classes: 40 or 13.
    label_ids: 'raw', the official 894 ids, or 'nyu40', ids 1 to 40.

  Returns:
    int32 [ids + 1]: the class, from 0, of every id; -1 for none, as for id 0.

  Raises:
    InputError: a map is missing, or is not the official one.
  """
  table = np.arange(len(CLASSES_40) + 1)
  if label_ids == 'raw':
    table = np.concatenate([[0], _map_to_40(folder / 'classMapping40.mat')])
  if classes == 13:
    table = np.array((0, *_map_to_13(folder / 'class13Mapping.mat')))[table]
  return (table - 1).astype(np.int32)


def _map_to_40(path):
  content = _read(path)
  if 'mapClass' not in content:
    raise _bad(path, 'the field mapClass', _listed(content))
  ids = _integers(path, 'mapClass', content['mapClass'], low=0, high=40)
  if ids.size != RAW_IDS:
    raise _bad(path, f'a class for each of {RAW_IDS} ids', f'{ids.size}')
  absent = set(range(1, 41)) - set(ids.tolist())
  if absent:
    names = ', '.join(CLASSES_40[i - 1] for i in sorted(absent)[:3])
    raise _bad(path, 'all 40 classes in mapClass', f'no id for {names}')
  return ids


def _map_to_13(path):
  if not path.exists():
    return _TO_13
  content = _read(path)
  if 'classMapping13' not in content:
    raise _bad(path, 'the field classMapping13', _listed(content))
  field = content['classMapping13']
  if field.dtype.names and field.size == 1:
    field = field.flat[0][0]  # the ids of the struct; its names come second
  ids = _integers(path, 'classMapping13', field, low=0, high=13)
  if tuple(ids) != _TO_13:
    raise _bad(
      path,
      'the class of 40 NYU40 ids: '
      + ', '.join(str(i) for i in _TO_13[:5])
      + ' ...',
      f'{ids.size} ids: ' + ', '.join(str(i) for i in ids[:5]) + ' ...',
    )
  return _TO_13


def _read(path):
  if found := paths.why_no_file(path):
    raise _bad(path, f'the file {path.name} beside the archive', found)
  try:
    with open(path, 'rb') as file:
      return io.loadmat(file)
  except NotImplementedError as error:  # v7.3, which is HDF5
    raise _bad(path, 'a MATLAB v5 file', 'a v7.3 file') from error
  except Exception as error:
    # The parser raises almost any exception for a damaged file.
    reason = str(error) or type(error).__name__
    raise _bad(path, 'a readable MATLAB file', reason) from error


def _integers(path, field, values, *, low, high):
  """The numbers of a field as int64 [n]."""
  is_array = isinstance(values, np.ndarray)  # and no sparse matrix
  if (
    not is_array
    or values.dtype.kind not in 'fiu'
    or (max(values.shape, default=0) < values.size)
  ):
    found = f'{values.dtype} {list(values.shape)}' + ', sparse' * (not is_array)
    raise _bad(path, f'a row or column of numbers in {field}', found)
  values = values.ravel()
  wrong = ~((values >= low) & (values <= high))  # nor NaN
  numbers = np.where(wrong, low, values).astype(np.int64)
  wrong |= numbers != np.where(wrong, low, values)
  if wrong.any():
    expected = f'whole numbers from {low} to {high} in {field}'
    raise _bad(path, expected, f'{values[wrong][0]:g}')
  return numbers


def _listed(content):
  names = [name for name in content if not name.startswith('__')]
  return 'the fields ' + (', '.join(names) or '(none)')


def _bad(path, expected, found):
  return InputError(
    expected=expected,
    found=found,
    where=paths.as_text(path),
    do=f'get this file from {_SOURCES[path.name]} (docs/data.md, "NYU-v2")',
  )
