"""NYU-v2 in the folder layout of the .npy dumps that the literature uses.

    <dir>/{train,val}/{image,label,depth,normal}/<i>.npy

  image   float [h w 3] in [0, 1]
  label   [h w], class 0..12, -1 where unlabelled
  depth   float [h w 1] or [h w], metres, 0 where missing
  normal  float [h w 3], unit vectors, 0, 0, 0 where missing

A folder of labels may be absent; then the dataset has no labels for that task.
A frame whose labels are all missing is a partially labelled frame.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import threading

import numpy as np

from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

CLASSES = (
  'bed',
  'books',
  'ceiling',
  'chair',
  'floor',
  'furniture',
  'objects',
  'picture',
  'sofa',
  'table',
  'tv',
  'wall',
  'window',
)
_LABELS = {
  'semantic': Label('class', classes=CLASSES),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}
_FOLDERS = {'semantic': 'label', 'depth': 'depth', 'normals': 'normal'}
_CHANNELS = {'semantic': 0, 'depth': 1, 'normals': 3}
_SPLITS = ('train', 'val')
# How far from 1 the length of a stored normal may be: float16 files pass, and
# vectors that were blended or are stored as colours do not.
_LENGTH_TOLERANCE = 0.01
# NumPy parses a file's header with `ast`, which in Python 3.11 fails now and
# then when several threads are in it.
_PARSING = threading.Lock()


def make(*, data_dir: str) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder that holds train/ and val/.

  Raises:
    InputError: the folder or a part of it is missing, the folders of a split
      hold different frames, or the first image cannot be read. The contents of
      every file are checked when it is read.
  """
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not all((root / s / 'image').is_dir() for s in _SPLITS):
    raise InputError(
      expected='the NYU-v2 .npy dump: train/image/0.npy, val/image/0.npy ...',
      found='no such folder' if data_dir else 'no folder was named',
      where=f'config.data.data_dir = {data_dir!r}',
      do='download the 288x384 dump (8.4 GB) that the README of '
      'github.com/lorenmt/mtan links to, unpack it, and name the folder that '
      'holds train/ and val/ with --config.data.data_dir=FOLDER. To try '
      'without any download: --config=configs/quickstart.py',
    )
  labels = {
    task: label
    for task, label in _LABELS.items()
    if (root / 'train' / _FOLDERS[task]).is_dir()
  }
  frames = {split: _frames(root / split, labels) for split in _SPLITS}
  first = root / 'train' / 'image' / frames['train'][0]
  height, width = _open(first, None, channels=3).shape[:2]
  return Dataset(
    name='nyuv2',
    image_size=(height, width),
    labels=labels,
    sources={
      split: _Folder(root / split, names, labels, (height, width)).open
      for split, names in frames.items()
    },
  )


def preview(*, data_dir: str) -> Dataset:
  """The dump as it is known without its files: all labels, 288x384 pixels."""
  del data_dir
  return Dataset('nyuv2', (288, 384), _LABELS, sources={})


@dataclasses.dataclass(frozen=True)
class _Folder:
  """The frames of one split; picklable, so that worker processes can read."""

  root: pathlib.Path
  frames: tuple[str, ...]
  labels: Mapping[str, Label]
  size: tuple[int, int]

  def open(self) -> '_Folder':
    return self

  def __len__(self) -> int:
    return len(self.frames)

  def __getitem__(self, index: int) -> Sample:
    name = self.frames[index]
    sample = {'image': _read_image(self.root / 'image' / name, self.size)}
    for task in self.labels:
      path = self.root / _FOLDERS[task] / name
      sample[task] = _READERS[task](path, self.size)
    return sample

  def unchecked(self, index: int) -> Sample:
    """What the files of a frame hold, in any dtype, size and range."""
    name = self.frames[index]
    sample = {'image': _open(self.root / 'image' / name, None, channels=3)}
    for task in self.labels:
      path = self.root / _FOLDERS[task] / name
      sample[task] = _open(path, None, channels=_CHANNELS[task])
    return sample


def _frames(split: pathlib.Path, labels) -> tuple[str, ...]:
  """The file names of a split, in the order of their numbers."""

  def names(folder):
    return {p.name for p in (split / folder).glob('*.npy')}

  images = names('image')
  if not images:
    raise InputError(
      expected='frames named 0.npy, 1.npy, ...',
      found='no .npy file',
      where=f'{split / "image"}',
      do='unpack the dump again; config.data.data_dir names its folder',
    )
  for task in labels:
    others = names(_FOLDERS[task])
    if others != images:
      odd = sorted(images ^ others, key=_number)
      raise InputError(
        expected=f'the same frames in image/ and {_FOLDERS[task]}/',
        found=f'{len(images)} and {len(others)} files; only in one of them: '
        + ', '.join(odd[:3])
        + (' ...' if len(odd) > 3 else ''),
        where=f'{split}',
        do='complete the folder, or take the odd files away',
      )
  return tuple(sorted(images, key=_number))


def _number(name: str):
  stem = name.removesuffix('.npy')
  return (0, int(stem), '') if stem.isdigit() else (1, 0, stem)


def _load(path: pathlib.Path, size, *, channels: int) -> np.ndarray:
  """Reads [h w] (channels 0) or [h w channels] and checks shape and numbers."""
  array = _open(path, size, channels=channels)
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    broken = int((~np.isfinite(array)).sum())
    raise _bad(path, 'finite numbers', f'{broken} NaN or infinite values')
  return array


def _open(path: pathlib.Path, size, *, channels: int) -> np.ndarray:
  """Reads an array and checks its shape, of any size when `size` is None."""
  try:
    with _PARSING:
      mapped = np.lib.format.open_memmap(path, mode='r')
    array = np.array(mapped)
  except Exception as error:
    # A damaged header makes NumPy raise almost anything.
    raise _bad(path, 'a readable .npy file', str(error)) from error
  if channels == 1 and array.ndim == 2:
    array = array[..., None]
  elif channels == 0 and array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  tail = (channels,) if channels else ()
  if size is None:
    size = array.shape[:2]
  if (
    not array.size
    or array.ndim != 2 + len(tail)
    or array.shape != (*size, *tail)
  ):
    wanted = [*size, *tail] if len(size) == 2 else ['h', 'w', *tail]
    raise _bad(path, f'an array {wanted}', f'{list(array.shape)}')
  if array.dtype.kind not in 'fiu':
    raise _bad(path, 'floats or integers', f'dtype {array.dtype}')
  return array


def _read_image(path, size):
  image = _load(path, size, channels=3)
  if image.dtype.kind != 'f':
    raise _bad(path, 'floats in [0, 1]', f'dtype {image.dtype}')
  _check_range(path, image, 0, 1, 'colours in [0, 1]')
  return image.astype(np.float32)


def _read_label(path, size):
  label = _load(path, size, channels=0)
  top = len(CLASSES) - 1
  _check_range(path, label, -1, top, f'classes 0..{top}, or -1 for none')
  whole = label.astype(np.int32)
  if not np.array_equal(whole, label):
    raise _bad(path, 'whole numbers as classes', 'fractions')
  return whole


def _read_depth(path, size):
  depth = _load(path, size, channels=1)
  _check_range(path, depth, 0, np.inf, 'metres >= 0, with 0 for missing')
  return depth.astype(np.float32)


def _read_normal(path, size):
  normal = _load(path, size, channels=3).astype(np.float32)
  length = np.linalg.norm(normal, axis=-1)
  odd = (length > 0) & (np.abs(length - 1) > _LENGTH_TOLERANCE)
  if odd.any():
    raise _bad(
      path,
      'unit vectors, or 0, 0, 0 where missing',
      f'{int(odd.sum())} vectors of another length, e.g. {length[odd][0]:.3f}',
    )
  return normal


_READERS = {
  'semantic': _read_label,
  'depth': _read_depth,
  'normals': _read_normal,
}


def _check_range(path, array, low, high, expected):
  if array.size and (array.min() < low or array.max() > high):
    raise _bad(
      path, expected, f'values from {array.min():g} to {array.max():g}'
    )


def _bad(path, expected, found):
  return InputError(
    expected=expected,
    found=found,
    where=f'{path}',
    do='restore this file from the dump (docs/data.md has the format)',
  )
