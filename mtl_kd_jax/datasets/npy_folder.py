"""Frames as .npy files, in the layout of the dumps that papers publish.

    <dir>/<split>/<folder>/<i>.npy

There is a folder of images and one for each label; the files of a frame have
the same name in all of them. The dataset chooses the names of the folders.
Every array is checked when it is read.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
import pathlib

import numpy as np

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

SPLITS = ('train', 'val')

# (file, (height, width) or None for any) -> array in the form of labels.py
Reader = Callable[[pathlib.Path, tuple[int, int] | None], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LabelFolder:
  """The folder of one label.

  Attributes:
    folder: its name.
    label: what its values mean.
    channels: size of the last axis of its arrays; 0 if there is no such axis.
    read: reads and checks one file.
  """

  folder: str
  label: Label
  channels: int
  read: Reader


def open_folder(
  name: str, root: pathlib.Path, parts: Mapping[str, LabelFolder]
) -> Dataset:
  """Opens a dump; `has_images` must be true.

  Args:
    name: of the dataset.
    root: the folder that contains train/ and val/.
    parts: label name -> its folder. Folders that train/ lacks are left out.

  Raises:
    InputError: the folders of a split contain different frames, a folder or
      frame has a name that is similar but not the same, or the first image
      cannot be read.
  """
  notes = _check_folders(root, parts)
  parts = {
    task: part
    for task, part in parts.items()
    if (root / 'train' / part.folder).is_dir()
  }
  frames = {split: _frames(root / split, parts) for split in SPLITS}
  first = root / 'train' / 'image' / frames['train'][0]
  height, width = _read(first, None, channels=3).shape[:2]
  return Dataset(
    name=name,
    image_size=(height, width),
    labels={task: part.label for task, part in parts.items()},
    sources={
      split: _Folder(root / split, names, parts, (height, width)).open
      for split, names in frames.items()
    },
    notes=notes,
  )


def find_root(data_dir: str | os.PathLike) -> tuple[pathlib.Path, str]:
  """The folder of a dump, and why it cannot be one; '' if it can.

  Raises:
    InputError: no folder can have that name.
  """
  root = paths.local(data_dir, argument='data_dir')
  if not data_dir:
    return root, 'no folder was named'
  if found := paths.why_no_folder(root):
    return root, found
  for split in SPLITS:
    if found := paths.why_no_folder(root / split / 'image'):
      return root, f'{found} {split}/image; it contains {paths.contents(root)}'
  return root, ''


def _check_folders(root, parts) -> tuple[str, ...]:
  """Notes about folders of labels that are not used."""
  notes = []
  similar_name = paths.SimilarNames()
  for part in parts.values():
    for split in SPLITS:
      folder = root / split / part.folder
      if folder.is_dir():
        continue
      if similar := similar_name(folder):
        raise InputError(
          expected=f'folders of labels called {part.folder}',
          found=f'{paths.as_text(similar)}',
          where=paths.as_text(folder.parent),
          argument='data_dir',
          do=f'rename it to {part.folder}',
        )
    if not (root / 'train' / part.folder).is_dir():
      if (root / 'val' / part.folder).is_dir():
        notes.append(
          f'val/{part.folder} is not used, because train/ has no such folder'
        )
  return tuple(notes)


@dataclasses.dataclass(frozen=True)
class _Folder:
  """The frames of one split; picklable for worker processes."""

  root: pathlib.Path
  frames: tuple[str, ...]
  parts: Mapping[str, LabelFolder]
  size: tuple[int, int]

  def open(self) -> '_Folder':
    return self

  def __len__(self) -> int:
    return len(self.frames)

  def __getitem__(self, index: int) -> Sample:
    name = self.frames[index]
    sample = {'image': read_image(self.root / 'image' / name, self.size)}
    for task, part in self.parts.items():
      sample[task] = part.read(self.root / part.folder / name, self.size)
    return sample

  def unchecked(self, index: int) -> Sample:
    """The arrays of a frame as stored, in any dtype, size and range."""
    name = self.frames[index]
    sample = {'image': _read(self.root / 'image' / name, None, channels=3)}
    for task, part in self.parts.items():
      path = self.root / part.folder / name
      sample[task] = _read(path, None, channels=part.channels)
    return sample


def _frames(split: pathlib.Path, parts) -> tuple[str, ...]:
  """The file names of a split, in the order of their numbers."""

  def names(folder):
    # Hidden files are excluded: some systems create them beside others.
    found = {p.name for p in (split / folder).glob('[!.]*')}
    arrays = {name for name in found if name.endswith('.npy')}
    similar = {
      n for n in found - arrays if n.lower().endswith(('.npy', '.npz'))
    }
    if similar:
      raise InputError(
        expected='frames named *.npy',
        found=f'{len(similar)} others: {paths.some(sorted(similar))}',
        where=paths.as_text(split / folder),
        argument='data_dir',
        do='rename .NPY to .npy; unpack .npz, an archive of arrays',
      )
    return arrays

  images = names('image')
  if not images:
    raise InputError(
      expected='frames named 0.npy, 1.npy, ...',
      found='no .npy file',
      where=f'{split / "image"}',
      argument='data_dir',
      do='unpack the dump again, or name its folder in data_dir',
    )
  for part in parts.values():
    others = names(part.folder)
    if others != images:
      unmatched = sorted(images ^ others, key=_number)
      raise InputError(
        expected=f'the same frames in image/ and {part.folder}/',
        found=f'{len(images)} and {len(others)} files; only in one of them: '
        + ', '.join(unmatched[:3])
        + (' ...' if len(unmatched) > 3 else ''),
        where=f'{split}',
        do='add the missing files, or remove the unmatched ones',
      )
  return tuple(sorted(images, key=_number))


def _number(name: str):
  stem = name.removesuffix('.npy')
  return (0, int(stem), '') if stem.isdecimal() else (1, 0, stem)


def _load(path: pathlib.Path, size, *, channels: int) -> np.ndarray:
  """Reads [h w] (channels 0) or [h w channels] and checks shape and numbers."""
  array = _read(path, size, channels=channels)
  files.check_finite(path, array)
  return array


def _read(path: pathlib.Path, size, *, channels: int) -> np.ndarray:
  """Reads an array and checks its shape, of any size when `size` is None."""
  array = files.read_array(path, finite=False)
  if channels == 1 and array.ndim == 2:
    array = array[..., None]
  tail = (channels,) if channels else ()
  files.check_shape(path, array, (*(size or (None, None)), *tail))
  return array


def read_image(path: pathlib.Path, size) -> np.ndarray:
  """Colors in [0, 1], float32 [h w 3]."""
  image = _load(path, size, channels=3)
  if image.dtype.kind != 'f':
    raise files.bad_file(path, 'floats in [0, 1]', f'dtype {image.dtype}')
  files.check_range(path, image, 0, 1, 'colors in [0, 1]')
  return image.astype(np.float32)


def classes_reader(count: int) -> Reader:
  """A reader of class ids 0 to count - 1, -1 for none: int32 [h w]."""
  return functools.partial(_read_classes, count=count)


def _read_classes(path, size, *, count):
  label = _load(path, size, channels=0)
  top = count - 1
  files.check_range(path, label, -1, top, f'classes 0..{top}, or -1 for none')
  whole = label.astype(np.int32)
  if not np.array_equal(whole, label):
    raise files.bad_file(path, 'whole numbers as classes', 'fractions')
  return whole


def depth_reader(*, maximum: float, unit: str) -> Reader:
  """A reader of depth or inverse depth, 0 for none: float32 [h w 1].

  Args:
    maximum: the largest valid value.
    unit: of the values, for messages: 'meters'.
  """
  return functools.partial(_read_depth, maximum=maximum, unit=unit)


def _read_depth(path, size, *, maximum, unit):
  depth = _load(path, size, channels=1)
  top = '' if maximum == np.inf else f' and <= {maximum:g}'
  expected = f'{unit} >= 0{top}, with 0 for missing'
  # Beyond, it would become infinite.
  maximum = min(maximum, np.finfo(np.float32).max)
  files.check_range(path, depth, 0, maximum, expected)
  return depth.astype(np.float32)


def read_normals(path: pathlib.Path, size) -> np.ndarray:
  """Unit vectors, 0, 0, 0 for none: float32 [h w 3]."""
  return files.as_vectors(path, _load(path, size, channels=3))
