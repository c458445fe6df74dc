"""Your own data: a folder of images and label maps, described by options.

Paths are patterns with {split} and {frame}, e.g. {split}/image/{frame}.jpg. The
frames of a split are those that have an image, or those listed in a text file.
docs/data.md ("Your own data") explains it with an example.
"""

from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import decode, files, paths, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.folder import listing
from mtl_kd_jax.datasets.folder.coco import (
  COLUMN,
  Picture,
  check_annotated,
  read_coco,
)
from mtl_kd_jax.datasets.folder.described import make_described, without_files
from mtl_kd_jax.datasets.folder.frames import (
  Frame,
  check_files,
  columns_in,
  find_frames,
  with_rows,
)
from mtl_kd_jax.datasets.folder.maps import (
  DEPTH,
  NORMALS,
  SEMANTIC,
  LabelMap,
  bad_option,
  make_maps,
)
from mtl_kd_jax.datasets.folder.rows import Table, read_table
from mtl_kd_jax.datasets.option_checks import check_size, is_empty
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks.augmentation import View
from mtl_kd_jax.tasks.kinds import augmentation_of

_NONE: Mapping[str, Mapping[str, Any]] = {}
_TURNED = 'have an EXIF orientation, and are turned by it'


def make(
  *,
  data_dir: str | os.PathLike = '',
  image_size: tuple[int, int] | tuple[()] = (),
  train: str = 'train',
  val: str = 'val',
  test: str = '',
  image: str = '{split}/image/{frame}.png',
  allow_missing: bool = False,
  rows: str = '',
  picture: str = '',
  coco: str = '',
  semantic: Mapping[str, Any] = SEMANTIC,
  depth: Mapping[str, Any] = DEPTH,
  normals: Mapping[str, Any] = NORMALS,
  maps: Mapping[str, Mapping[str, Any]] = _NONE,
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
    allow_missing: whether frames may lack maps or a row, and are unlabeled
      there.
    rows: a table with one row per picture, .csv or .jsonl, with {split} if
      there are several; '' for none. Where it has a column 'split', that says
      which rows belong to a split. Patterns may name its columns: {column}.
    picture: the column of the table that names the pictures; '' for the first.
    coco: annotations in the format of COCO, .json, with {split} if there are
      several; '' for none. A task with 'source': 'coco' is read from them.
    semantic: the options of the class map that differ from `maps.SEMANTIC`.
    depth: the options of the depth map that differ from `maps.DEPTH`.
    normals: the options of the map of normals that differ from `maps.NORMALS`.
    maps: name of a task -> its description, of any number of further labels
      (docs/own_tasks.md).

  Raises:
    InputError: an option cannot be used, or files are missing. The contents of
      files are checked when they are read.
  """
  root = paths.local(data_dir, argument='data_dir')
  found = paths.why_no_folder(root) if data_dir else 'no folder was named'
  if found:
    raise InputError(
      expected='a folder of images and label maps',
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do='name the folder in data_dir',
    )
  made = make_maps(semantic=semantic, depth=depth, normals=normals)
  described, columns = make_described(maps, root=root)
  made = _joined(made, described)
  size = () if is_empty(image_size) else check_size(image_size)
  if not train:
    raise bad_option(
      'train', "the name of the training split's folder or list", train
    )
  patterns = {'image': image}
  patterns |= {
    f'{"maps." * (name in described)}{name}.files': m.pattern
    for name, m in made.items()
    if m.pattern
  }
  splits = {'train': train, 'val': val, 'test': test}
  splits = {split: value for split, value in splits.items() if value}
  tables = _read_tables(root, rows, picture, coco, splits, columns)
  frames, notes = find_frames(root, patterns, splits, tables=tables)
  check_files(frames, patterns, allow_missing=allow_missing)
  if tables and not columns_in(image):
    first = next(iter(tables.values()))
    frames = with_rows(
      frames,
      tables,
      image=image,
      of_all='{split}' not in (rows or coco) and 'split' not in first.columns,
      allow_missing=allow_missing,
    )
  first = frames['train'][0].path(image)
  source = _Source(
    frames=frames['train'],
    image=image,
    maps=made,
    size=size or files.read_image(first).shape[:2],
    resized=bool(size),
    allow_missing=allow_missing,
  )
  return Dataset(
    name='folder',
    image_size=source.size,
    labels={name: m.label for name, m in made.items()},
    described={name: without_files(maps[name]) for name in described},
    sources={
      split: dataclasses.replace(source, frames=members).open
      for split, members in frames.items()
    },
    notes=notes,
    why_absent=functools.partial(_why_absent, made, frames),
  )


def preview(
  *,
  image_size: tuple[int, int] | tuple[()] = (),
  semantic: Mapping[str, Any] = SEMANTIC,
  depth: Mapping[str, Any] = DEPTH,
  normals: Mapping[str, Any] = NORMALS,
  maps: Mapping[str, Mapping[str, Any]] = _NONE,
) -> Dataset:
  """What the options say of the folder; they must include the size.

  Raises:
    InputError: `image_size` is (), or an option cannot be used.
  """
  if is_empty(image_size):
    raise bad_option(
      'image_size', 'a height and a width, because no image is opened', ()
    )
  size = check_size(image_size)
  made = make_maps(semantic=semantic, depth=depth, normals=normals)
  described, _ = make_described(maps, root=None)
  labels = {name: m.label for name, m in _joined(made, described).items()}
  return Dataset(
    'folder',
    size,
    labels,
    sources={},
    described={name: without_files(maps[name]) for name in described},
  )


def _joined(made, described) -> dict[str, LabelMap]:
  """All labels; raises InputError where two have one name."""
  for name in made:
    if name in described:
      raise InputError(
        expected=f'one description of {name}',
        found=f'two, {name}.files and maps.{name}',
        argument=f'maps.{name}',
        do='remove one of them',
      )
  return {**made, **described}


def _read_tables(
  root, rows, picture, coco, splits, columns
) -> dict[str, Table]:
  """Split -> its table; {} without tables."""
  if rows and coco:
    raise InputError(
      expected='a table, or annotations of COCO',
      found='both',
      argument='coco',
      do='give the tasks of the table a data set of their own (data.sets)',
    )
  if not (rows or coco):
    for name, needed in columns.items():
      annotated = COLUMN in needed
      raise InputError(
        expected=f'annotations of COCO, of {name}'
        if annotated
        else f'a table with the columns {", ".join(needed)} of {name}',
        found='none',
        argument='coco' if annotated else 'rows',
        do="name the file, such as 'annotations/{split}.json'"
        if annotated
        else "name it, such as 'labels.csv'",
      )
    return {}
  tables = {}
  for split, value in splits.items():
    folder = split if value.endswith('.txt') else value
    path = root / listing.fill(rows or coco, folder)
    if coco:
      tables[split] = read_coco(path)
    else:
      tables[split] = read_table(path, key=picture, split=folder)
    for name, needed in columns.items():
      tables[split].check_columns(needed, f'maps.{name}')
  return tables


@dataclasses.dataclass(frozen=True)
class _Source:
  """The frames of one split; picklable for worker processes."""

  frames: tuple[Frame, ...]
  image: str
  maps: Mapping[str, LabelMap]
  size: tuple[int, int]
  resized: bool
  allow_missing: bool

  def open(self) -> '_Source':
    return self

  def __len__(self) -> int:
    return len(self.frames)

  def __getitem__(self, index: int) -> Sample:
    return self.examine(index)[0]

  def examine(self, index: int) -> tuple[Sample, tuple[str, ...]]:
    """The sample, and remarks on its files."""
    frame, remarks = self.frames[index], []
    with decode.turned_files() as turned:
      path = frame.path(self.image)
      image = files.read_image(path)
      if not self.resized:
        _check_size(path, image, self.size, turned)
      if path in turned:
        remarks.append(f'pictures {_TURNED}')
      stored = image.shape[:2]
      if stored != self.size:
        image = resize.area(image, self.size)
      sample = {'image': files.as_colors(image)}
      for name, each in self.maps.items():
        array = self._read(frame, each, stored, turned)
        if array is None:
          sample[name] = each.label.missing(self.size)
          continue
        if frame.path(each.pattern) in turned:
          remarks.append(f'maps of {name} {_TURNED}')
        if each.label.quantity == 'points':
          remarks += _remarks_on_points(name, array, stored)
        sample[name] = self._resized(array, each.label, stored)
    return sample, tuple(remarks)

  def _read(self, frame: Frame, each: LabelMap, stored, turned):
    """A label of a picture of the size `stored`; None where there is none."""
    if each.from_row is not None:
      if frame.row is None:
        return None
      in_pixels = each.label.is_map or each.label.quantity == 'points'
      if in_pixels and isinstance(frame.row.values.get(COLUMN), Picture):
        number = turned.get(frame.path(self.image))
        why = f', turned by its EXIF orientation {number}' if number else ''
        check_annotated(frame.row, stored, why)
      return each.from_row(frame.row)
    path = frame.path(each.pattern)
    if self.allow_missing and paths.why_no_file(path) == 'no such file':
      return None
    array = each.read(path)
    if each.label.is_map:
      _check_size(path, array, stored, turned)
    return array

  def _resized(self, array: np.ndarray, label: Label, stored) -> np.ndarray:
    """A label of a picture of the size `stored`, as one of `self.size`."""
    rows, columns = resize.nearest_indices(stored, self.size)
    scale = self.size[0] / stored[0], self.size[1] / stored[1]
    view = View(rows, columns, scale)
    return augmentation_of(label).resize(array, view, label)


def _remarks_on_points(name: str, points: np.ndarray, size) -> list[str]:
  """What is odd about points [n 3] of a picture of (height, width)."""
  xy = points[points[:, 2] > 0, :2]
  outside = (xy < -0.5).any(-1) | (xy > np.array(size[::-1]) - 0.5).any(-1)
  if outside.any():
    return [
      f'points of {name} are outside of their pictures, and count as unlabeled '
      '(x, then y, in pixels of the file?)'
    ]
  if len(xy) > 1 and xy.min() >= 0 and 0 < xy.max() <= 1:
    return [
      f'points of {name} are all from 0 to 1 (pixels of the file are expected, '
      'no shares of it)'
    ]
  return []


def _check_size(
  path: pathlib.Path,
  array: np.ndarray,
  size: tuple[int, int],
  turned: Mapping[pathlib.Path, int],
) -> None:
  """Raises InputError unless an array has the size, with what EXIF did to it.

  Args:
    path: its file.
    array: [h w] or [h w c].
    size: (height, width) that it should have.
    turned: the files of the frame that were turned -> EXIF orientation.
  """
  if array.shape[:2] == size:
    return
  if not turned:
    files.check_shape(path, array, (*size, *array.shape[2:]))
  file, number = next(iter(turned.items()))
  what = 'it was' if file == path else f'{paths.as_text(file)} was'
  raise files.bad_file(
    path,
    f'an array of {size[0]}x{size[1]} pixels (height x width)',
    f'{array.shape[0]}x{array.shape[1]}; {what} turned by its EXIF orientation '
    f'{number}',
    'store pictures and maps upright, as viewers show the picture; where the '
    'stored pixels are upright, remove the EXIF orientation',
  )


def _why_absent(
  maps: Mapping[str, LabelMap],
  frames: Mapping[str, tuple[Frame, ...]],
  name: str,
) -> InputError | None:
  """The likely reason that a class of a label has no pixel in a split."""
  pattern = maps[name].pattern
  if not pattern:
    return None
  found = (f.path(pattern) for members in frames.values() for f in members)
  return maps[name].why_absent(p for p in found if not paths.why_no_file(p))
