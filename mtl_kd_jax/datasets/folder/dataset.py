"""Your own data: a folder of images and maps that the config describes.

Paths are patterns with {split} and {frame}, e.g. {split}/image/{frame}.jpg. The
frames of a split are those that have an image, or those that a list file names.
docs/data.md ("Your own data") walks through it.
"""

from collections.abc import Mapping
import dataclasses
import glob
import pathlib
import re
from typing import Any

from mtl_kd_jax.datasets import files, resample
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.folder.maps import WHERE, Map, bad_option, make_maps
from mtl_kd_jax.errors import InputError


def make(
  *,
  data_dir: str,
  image_size: tuple[int, int],
  train: str,
  val: str,
  test: str,
  image: str,
  partial: bool,
  semantic: Mapping[str, Any],
  depth: Mapping[str, Any],
  normals: Mapping[str, Any],
) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder.
    image_size: (height, width) that all is brought to, images by area, maps by
      the nearest pixel; () if all files have one size, which is kept.
    train: what stands for {split} in the patterns; or, if it ends in .txt, a
      file in the folder with the name of a frame in every line.
    val: the same.
    test: the same; '' if there is no such split.
    image: pattern of the images: PNG, JPEG, or .npy (bytes, or floats in 0..1).
    partial: whether frames may lack maps; they are then unlabeled.
    semantic: files, classes, ids and ignore (configs/common.py).
    depth: files, quantity, unit, scale and invalid.
    normals: files and invalid.

  Raises:
    InputError: the description cannot be used, or files are missing. The
      contents of files are checked when they are read.
  """
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not root.is_dir():
    raise InputError(
      expected='a folder of images and maps',
      found='no such folder' if data_dir else 'no folder was named',
      where=f'config.data.data_dir = {data_dir!r}',
      do='name it with --config.data.data_dir=FOLDER',
    )
  maps = make_maps(semantic=semantic, depth=depth, normals=normals)
  _check_patterns(image, maps)
  named = {'train': train, 'val': val, 'test': test}
  frames = {
    split: _frames(root, image, split, name)
    for split, name in named.items()
    if name
  }
  if 'train' not in frames:
    raise bad_option(
      'train', "the name of the training split's folder or list", train
    )
  _check_files(frames, image, maps, partial)
  size = tuple(image_size)
  if not size:
    first = frames['train'][0].path(image)
    size = files.read_colors(first).shape[:2]
  elif len(size) != 2 or min(size) < 1:
    raise bad_option(
      'image_size', 'a height and a width in pixels, or ()', size
    )
  return Dataset(
    name='folder',
    image_size=size,
    labels={task: m.label for task, m in maps.items()},
    sources={
      split: _Source(tuple(members), image, maps, size, bool(image_size)).open
      for split, members in frames.items()
    },
  )


def preview(
  *,
  image_size: tuple[int, int],
  semantic: Mapping[str, Any],
  depth: Mapping[str, Any],
  normals: Mapping[str, Any],
  **options,
) -> Dataset:
  """The folder as it is described; InputError if that leaves out the size."""
  del options
  if not image_size:
    raise bad_option(
      'image_size', 'a height and a width, for what opens no data', ()
    )
  maps = make_maps(semantic=semantic, depth=depth, normals=normals)
  labels = {task: m.label for task, m in maps.items()}
  return Dataset('folder', tuple(image_size), labels, sources={})


@dataclasses.dataclass(frozen=True)
class _Frame:
  root: pathlib.Path
  split: str
  name: str

  def path(self, pattern: str) -> pathlib.Path:
    return self.root / _filled(pattern, self.split, self.name)


@dataclasses.dataclass(frozen=True)
class _Source:
  """The frames of one split; picklable, so that worker processes can read."""

  frames: tuple[_Frame, ...]
  image: str
  maps: Mapping[str, Map]
  size: tuple[int, int]
  resized: bool

  def open(self) -> '_Source':
    return self

  def __len__(self) -> int:
    return len(self.frames)

  def __getitem__(self, index: int) -> Sample:
    frame = self.frames[index]
    path = frame.path(self.image)
    image = files.read_colors(path)
    if not self.resized:
      files.check_shape(path, image, (*self.size, 3))
    stored = image.shape[:2]
    if stored != self.size:
      image = resample.by_area(image, self.size)
    sample = {'image': image}
    for task, each in self.maps.items():
      path = frame.path(each.pattern)
      if not path.is_file():  # `make` has checked that it may be missing
        sample[task] = each.label.missing(self.size)
        continue
      array = each.read(path)
      files.check_shape(path, array, (*stored, *array.shape[2:]))
      sample[task] = resample.nearest(array, self.size)
    return sample


def _check_patterns(image, maps):
  patterns = {'image': image}
  patterns |= {f'{task}.files': m.pattern for task, m in maps.items()}
  for key, pattern in patterns.items():
    fields = set(re.findall(r'\{(.*?)\}', pattern))
    known = {'frame'} <= fields <= {'frame', 'split'}
    if not known or pathlib.PurePath(pattern).is_absolute():
      expected = 'a path in the folder with {frame}, and {split} if it differs'
      raise bad_option(key, expected, pattern)


def _frames(root, image, split, name) -> list[_Frame]:
  """The frames of a split, in the order of their names and numbers."""
  if name.endswith('.txt'):
    return [_Frame(root, split, f) for f in _listed(root / name, split)]
  parts = _filled(image, name).split('{frame}')
  first, *others = map(re.escape, parts)
  # No hidden files: systems leave some beside pictures.
  pattern = re.compile(first + '([^./][^/]*)' + r'\1'.join(others))
  paths = root.glob('*'.join(map(glob.escape, parts)))
  found = (pattern.fullmatch(p.relative_to(root).as_posix()) for p in paths)
  names = {match[1] for match in found if match}
  if not names:
    raise InputError(
      expected=f'images {_filled(image, name, "*")}',
      found='none',
      where=f'{root}',
      do=f'correct {WHERE}.image or .{split} (docs/data.md, "Your own data")',
    )
  return [_Frame(root, name, f) for f in sorted(names, key=_natural)]


def _listed(path, split) -> list[str]:
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      expected='a text file with the name of a frame in every line',
      found=str(error),
      where=f'{path} ({WHERE}.{split})',
      do='write the file, or name the sub-folder of the split',
    ) from error
  names = [line.strip() for line in lines if line.strip()]
  if not names or len(set(names)) < len(names):
    raise InputError(
      expected='names of different frames',
      found='no name' if not names else f'{_twice(names)} twice',
      where=f'{path} ({WHERE}.{split})',
      do='correct the list',
    )
  return names


def _twice(names):
  return next(name for name in names if names.count(name) > 1)


def _check_files(frames, image, maps, partial):
  """Every frame has an image, and its maps unless it may lack them."""
  members = [frame for split in frames.values() for frame in split]
  patterns = {'image': image}
  patterns |= {f'{task}.files': m.pattern for task, m in maps.items()}
  for key, pattern in patterns.items():
    missing = [f for f in members if not f.path(pattern).is_file()]
    some = key != 'image' and len(missing) < len(members)
    if not missing or (partial and some):
      continue
    hint = f', or allow frames without labels: {WHERE}.partial=True'
    raise InputError(
      expected=f'a file for each of {len(members)} frames',
      found=f'{len(missing)} missing, the first for {missing[0].name!r}',
      where=f'{missing[0].path(pattern)}',
      do=f'add the files, or correct {WHERE}.{key}' + (hint if some else ''),
    )


def _filled(pattern, split, frame='{frame}'):
  return pattern.replace('{split}', split).replace('{frame}', frame)


def _natural(name):
  """Sorts 'a10' after 'a9'."""
  parts = re.split(r'(\d+)', name)
  return [int(part) if i % 2 else part for i, part in enumerate(parts)]
