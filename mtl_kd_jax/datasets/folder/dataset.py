"""Your own data: a folder of images and label maps, described by options.

Paths are patterns with {split} and {frame}, e.g. {split}/image/{frame}.jpg. The
frames of a split are those that have an image, or those listed in a text file.
docs/data.md ("Your own data") explains it with an example.
"""

from collections.abc import Mapping
import dataclasses
import glob
import pathlib
import re
from typing import Any

from mtl_kd_jax.datasets import files, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.folder.maps import (
  DEPTH,
  NORMALS,
  SEMANTIC,
  LabelMap,
  bad_option,
  make_maps,
)
from mtl_kd_jax.errors import InputError


def make(
  *,
  data_dir: str = '',
  image_size: tuple[int, int] | tuple[()] = (),
  train: str = 'train',
  val: str = 'val',
  test: str = '',
  image: str = '{split}/image/{frame}.png',
  allow_missing: bool = False,
  semantic: Mapping[str, Any] = SEMANTIC,
  depth: Mapping[str, Any] = DEPTH,
  normals: Mapping[str, Any] = NORMALS,
) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder.
    image_size: (height, width) that everything is resized to, in pixels: images
      by area, maps by nearest pixel; () to keep the size that all files have.
    train: what {split} is replaced by for the training split; or, if it ends in
      .txt, a file in the folder that lists the names of the frames, one a line.
    val: as `train`.
    test: as `train`; '' if there is no such split.
    image: pattern of the images: PNG, JPEG, or .npy (bytes, or floats in 0..1).
    allow_missing: whether frames may lack maps, and are unlabeled there.
    semantic: the options of the class map that differ from `maps.SEMANTIC`.
    depth: the options of the depth map that differ from `maps.DEPTH`.
    normals: the options of the map of normals that differ from `maps.NORMALS`.

  Raises:
    InputError: an option cannot be used, or files are missing. The contents of
      files are checked when they are read.
  """
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not root.is_dir():
    raise InputError(
      expected='a folder of images and label maps',
      found='no such folder' if data_dir else 'no folder was named',
      argument='data_dir',
      where=data_dir,
      do='name the folder in data_dir',
    )
  maps = make_maps(semantic=semantic, depth=depth, normals=normals)
  patterns = {'image': image}
  patterns |= {f'{name}.files': m.pattern for name, m in maps.items()}
  _check_patterns(patterns)
  frames = {
    split: _list_frames(root, image, split, value)
    for split, value in {'train': train, 'val': val, 'test': test}.items()
    if value
  }
  if 'train' not in frames:
    raise bad_option(
      'train', "the name of the training split's folder or list", train
    )
  _check_files(frames, patterns, allow_missing)
  size = tuple(image_size)
  if not size:
    first = frames['train'][0].path(image)
    size = files.read_image(first).shape[:2]
  elif len(size) != 2 or min(size) < 1:
    raise bad_option(
      'image_size', 'a height and a width in pixels, or ()', size
    )
  return Dataset(
    name='folder',
    image_size=size,
    labels={name: m.label for name, m in maps.items()},
    sources={
      split: _Source(tuple(members), image, maps, size, bool(image_size)).open
      for split, members in frames.items()
    },
  )


def preview(
  *,
  image_size: tuple[int, int] | tuple[()] = (),
  semantic: Mapping[str, Any] = SEMANTIC,
  depth: Mapping[str, Any] = DEPTH,
  normals: Mapping[str, Any] = NORMALS,
) -> Dataset:
  """What the options say of the folder; they must include the size.

  Raises:
    InputError: `image_size` is (), or an option cannot be used.
  """
  if not image_size:
    raise bad_option(
      'image_size', 'a height and a width, because no image is opened', ()
    )
  maps = make_maps(semantic=semantic, depth=depth, normals=normals)
  labels = {name: m.label for name, m in maps.items()}
  return Dataset('folder', tuple(image_size), labels, sources={})


@dataclasses.dataclass(frozen=True)
class _Frame:
  root: pathlib.Path
  split: str
  name: str

  def path(self, pattern: str) -> pathlib.Path:
    return self.root / _fill(pattern, self.split, self.name)


@dataclasses.dataclass(frozen=True)
class _Source:
  """The frames of one split; picklable for worker processes."""

  frames: tuple[_Frame, ...]
  image: str
  maps: Mapping[str, LabelMap]
  size: tuple[int, int]
  resized: bool

  def open(self) -> '_Source':
    return self

  def __len__(self) -> int:
    return len(self.frames)

  def __getitem__(self, index: int) -> Sample:
    frame = self.frames[index]
    path = frame.path(self.image)
    image = files.read_image(path)
    if not self.resized:
      files.check_shape(path, image, (*self.size, 3))
    stored = image.shape[:2]
    if stored != self.size:
      image = resize.area(image, self.size)
    sample = {'image': files.as_colors(image)}
    for name, each in self.maps.items():
      path = frame.path(each.pattern)
      if not path.is_file():  # `make` has checked that it may be missing
        sample[name] = each.label.missing(self.size)
        continue
      array = each.read(path)
      files.check_shape(path, array, (*stored, *array.shape[2:]))
      sample[name] = resize.nearest(array, self.size)
    return sample


def _check_patterns(patterns):
  for argument, pattern in patterns.items():
    fields = set(re.findall(r'\{(.*?)\}', pattern))
    known = {'frame'} <= fields <= {'frame', 'split'}
    if not known or pathlib.PurePath(pattern).is_absolute():
      expected = 'a relative path with {frame}, and with {split} if it differs'
      raise bad_option(argument, expected, pattern)


def _list_frames(root, image, split, value) -> list[_Frame]:
  """The frames of a split, in natural order of their names."""
  if value.endswith('.txt'):
    return [_Frame(root, split, f) for f in _read_list(root / value, split)]
  parts = _fill(image, value).split('{frame}')
  first, *others = map(re.escape, parts)
  # Hidden files are excluded: some systems create them beside images.
  pattern = re.compile(first + '([^./][^/]*)' + r'\1'.join(others))
  paths = root.glob('*'.join(map(glob.escape, parts)))
  found = (pattern.fullmatch(p.relative_to(root).as_posix()) for p in paths)
  names = {match[1] for match in found if match}
  if not names:
    raise InputError(
      expected=f'images {_fill(image, value, "*")}',
      found='none',
      argument=split,
      where=f'{root}',
      do=f'correct image or {split} (docs/data.md, "Your own data")',
    )
  return [_Frame(root, value, f) for f in sorted(names, key=_natural_order)]


def _read_list(path, split) -> list[str]:
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      expected='a text file with the name of a frame in every line',
      found=str(error),
      argument=split,
      where=f'{path}',
      do=f'write the file, or name the folder of the split in {split}',
    ) from error
  names = [line.strip() for line in lines if line.strip()]
  if not names or len(set(names)) < len(names):
    raise InputError(
      expected='names of different frames',
      found='no name' if not names else f'{_duplicate(names)} twice',
      argument=split,
      where=f'{path}',
      do='correct the list',
    )
  return names


def _duplicate(names):
  return next(name for name in names if names.count(name) > 1)


def _check_files(frames, patterns, allow_missing):
  """Checks that every frame has its image, and its maps if they must exist."""
  members = [frame for split in frames.values() for frame in split]
  for argument, pattern in patterns.items():
    missing = [f for f in members if not f.path(pattern).is_file()]
    # If all are missing, the pattern is wrong.
    partial = argument != 'image' and len(missing) < len(members)
    if not missing or (allow_missing and partial):
      continue
    hint = ', or accept frames without labels with allow_missing=True'
    raise InputError(
      expected=f'a file for each of {len(members)} frames',
      found=f'{len(missing)} missing, the first for {missing[0].name!r}',
      argument=argument,
      where=f'{missing[0].path(pattern)}',
      do=f'add the files, or correct {argument}' + hint * partial,
    )


def _fill(pattern, split, frame='{frame}'):
  return pattern.replace('{split}', split).replace('{frame}', frame)


def _natural_order(name):
  """Sorts 'a10' after 'a9'."""
  parts = re.split(r'(\d+)', name)
  return [int(part) if i % 2 else part for i, part in enumerate(parts)]
