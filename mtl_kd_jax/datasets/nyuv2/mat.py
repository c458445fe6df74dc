"""NYU-v2 from the official archive, one frame at a time.

    <dir>/nyu_depth_v2_labeled.mat   HDF5: 1449 frames of 480x640
    <dir>/splits.mat                 795 training and 654 test frames
    <dir>/classMapping40.mat         894 ids -> NYU40
    <dir>/class13Mapping.mat         NYU40 -> 13 classes; may be absent

Fields of the archive, with MATLAB's axes reversed, as HDF5 returns them:

  images     uint8 [n 3 w h]
  depths     float32 [n w h], meters, in-painted where not measured
  rawDepths  float32 [n w h], meters, 0 where not measured
  labels     uint16 [n w h], 0 where unlabeled
  names      one for each of the 894 ids
"""

import dataclasses
import os

import numpy as np

from mtl_kd_jax.datasets import files, paths, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.nyuv2 import maps as nyuv2_maps
from mtl_kd_jax.datasets.nyuv2 import npy as nyuv2
from mtl_kd_jax.datasets.nyuv2.depth_normals import Camera, normals_from_depth
from mtl_kd_jax.datasets.nyuv2.mat_archive import Archive
from mtl_kd_jax.datasets.nyuv2.normals import Normals
from mtl_kd_jax.datasets.option_checks import as_tuple, check_size, is_whole
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

FRAME_SIZE = (480, 640)
# The color camera, to which the depth is registered: camera_params.m of the
# toolbox.
CAMERA = Camera(fx=518.8579, fy=519.4696, cx=325.5824, cy=253.7362)
# Side in pixels of the windows that planes are fitted to. It gives the normals
# closest to those of the published dump (docs/data.md).
_WINDOW = 21
# The sensor's range is 10 m. Millimeters and disparities exceed it.
_MAX_DEPTH = 11
_NAME = 'nyu_depth_v2_labeled.mat'
_CLASSES = {13: nyuv2.CLASSES, 40: nyuv2_maps.CLASSES_40}
_DEPTHS = {'filled': 'depths', 'raw': 'rawDepths'}
_LABEL_IDS = ('raw', 'nyu40')


def make(
  *,
  data_dir: str | os.PathLike = '',
  image_size: tuple[int, int] = (288, 384),
  crop: tuple[int, int, int, int] = (45, 471, 41, 601),
  classes: int = 13,
  label_ids: str = 'raw',
  depth: str = 'filled',
  normals_dir: str = '',
) -> Dataset:
  """Opens the archive; frames are read on access.

  Args:
    data_dir: the folder of the files above.
    image_size: (height, width) of the samples in pixels: images are resized by
      area, labels by nearest pixel.
    crop: first row, end row, first column, end column of the part of 480x640
      that is kept. The default cuts off the white border.
    classes: 13 or 40.
    label_ids: contents of `labels`: 'raw' ids of the official file, or 'nyu40'
      for copies that contain 1 to 40.
    depth: 'filled', in-painted where the sensor measured nothing, or 'raw'.
    normals_dir: the folder of the normals (normals.py); '' to compute them from
      the raw depth (depth_normals.py).

  Returns:
    The dataset, with the splits 'train' and 'val'. NYU-v2 has only two: 'val'
    is the official test split.

  Raises:
    InputError: an option cannot be used, or a file is missing, damaged or not
      in this layout. Pixels are checked when they are read.
  """
  options = _check_options(image_size, crop, classes, label_ids, depth)
  root = paths.local(data_dir, argument='data_dir')
  if not data_dir or paths.why_no_file(root / _NAME):
    raise _no_archive(data_dir, root)
  archive = Archive(root / _NAME)
  frames = _check_fields(archive, options, computed=not normals_dir)
  if label_ids == 'raw':
    _check_names(archive)
  splits = nyuv2_maps.read_split(root / 'splits.mat', frames=frames)
  table = nyuv2_maps.class_table(root, classes=classes, label_ids=label_ids)
  normals = Normals(
    paths.local(normals_dir, argument='normals_dir'), FRAME_SIZE
  )
  if normals_dir:
    normals.check(np.concatenate([*splits.values()]))
  return Dataset(
    name='nyuv2_mat',
    image_size=options.size,
    labels=_labels(classes),
    sources={
      split: _Frames(
        archive,
        tuple(indices.tolist()),
        options,
        table,
        normals if normals_dir else None,
      ).open
      for split, indices in splits.items()
    },
  )


def preview(
  *, image_size: tuple[int, int] = (288, 384), classes: int = 13
) -> Dataset:
  """The labels and the size that the options say."""
  _check_one_of('classes', _CLASSES, classes)
  size = check_size(image_size)
  return Dataset('nyuv2_mat', size, _labels(classes), sources={})


@dataclasses.dataclass(frozen=True)
class _Options:
  size: tuple[int, int]
  crop: tuple[int, int, int, int]
  depth: str  # the field
  label_ids: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Frames:
  """One split; picklable, and safe to read from threads."""

  archive: Archive
  indices: tuple[int, ...]
  options: _Options
  table: np.ndarray
  normals: Normals | None

  def open(self) -> '_Frames':
    return self

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Sample:
    frame = self.indices[index]
    size = self.options.size
    image = resize.area(self._crop('images', frame), size)
    depth = self._depth(self.options.depth, frame)
    return {
      'image': files.as_colors(image),
      'semantic': self._classes(frame),
      'depth': resize.nearest(depth, size)[..., None],
      'normals': self._normals(frame),
    }

  def _crop(self, field, frame):
    """The part of a field that is kept, [h w] or [h w 3]."""
    top, bottom, left, right = self.options.crop
    return self.archive.read(field, frame).T[top:bottom, left:right]

  def _classes(self, frame):
    ids = resize.nearest(self._crop('labels', frame), self.options.size)
    highest = len(self.table) - 1
    if ids.max() > highest:
      kind = self.options.label_ids
      raise self.archive.bad(
        f'ids up to {highest} in labels ({kind!r})',
        f'{ids.max()} in frame {frame + 1}',
        "download the file again, or set label_ids to 'raw' if it is the "
        'official one',
      )
    return self.table[ids]

  def _depth(self, field, frame):
    depth = self._crop(field, frame)
    if not (depth.min() >= 0 and depth.max() <= _MAX_DEPTH):  # nor NaN
      raise self.archive.bad(
        f'meters in {field}, from 0 to {_MAX_DEPTH}',
        f'{depth.min():g} to {depth.max():g} in frame {frame + 1}',
      )
    return depth

  def _normals(self, frame):
    top, bottom, left, right = self.options.crop
    if self.normals is not None:
      normals = self.normals.read(frame)[top:bottom, left:right]
      return resize.nearest(normals, self.options.size)
    # The slope of in-painted depth is not that of the surface.
    return normals_from_depth(
      self._depth('rawDepths', frame),
      CAMERA.cropped(top, left),
      window=_WINDOW,
      size=self.options.size,
    )


def _labels(classes):
  return {
    'semantic': Label('class', classes=_CLASSES[classes]),
    'depth': Label('depth', unit='m'),
    'normals': Label('normal'),
  }


def _check_options(size, crop, classes, label_ids, depth) -> _Options:
  """Returns the options, or raises InputError for the first invalid one."""
  _check_one_of('classes', _CLASSES, classes)
  _check_one_of('label_ids', _LABEL_IDS, label_ids)
  _check_one_of('depth', _DEPTHS, depth)
  size = check_size(size)
  edges = as_tuple(crop)
  h, w = FRAME_SIZE
  valid = len(edges) == 4 and all(map(is_whole, edges))
  valid = valid and (
    0 <= edges[0] < edges[1] <= h and 0 <= edges[2] < edges[3] <= w
  )
  expected = f'first and end row of {h}, first and end column of {w}'
  _check('crop', valid, expected, crop)
  return _Options(size, edges, _DEPTHS[depth], label_ids)


def _check_one_of(argument, choices, found):
  expected = ' or '.join(repr(choice) for choice in choices)
  # Not `in`, which raises for what cannot be hashed.
  _check(argument, any(found == c for c in choices), expected, found)


def _check(argument, valid, expected, found):
  if not valid:
    raise InputError(
      expected=expected,
      found=repr(found),
      argument=argument,
      do=f'set {argument} to such a value',
    )


def _check_fields(archive, options, *, computed) -> int:
  """Checks the fields that are used; returns the number of frames."""
  h, w = FRAME_SIZE
  fields = {
    'images': ((3, w, h), 'uint8'),
    'labels': ((w, h), 'uint'),
    options.depth: ((w, h), 'float'),
  }
  if computed:
    fields['rawDepths'] = (w, h), 'float'
  frames = (archive.shape('images') or (0,))[0]
  if not frames:
    raise archive.bad('frames', f'none; images {list(archive.shape("images"))}')
  for field, (shape, dtype) in fields.items():
    archive.check(field, (frames, *shape), dtype)
  return frames


def _check_names(archive):
  count = archive.count('names')
  if count != nyuv2_maps.RAW_IDS:
    raise archive.bad(
      f'the field names with the {nyuv2_maps.RAW_IDS} classes of raw labels',
      f'{count} names',
      "download the official file; or set label_ids to 'nyu40' for a copy "
      'whose labels are 1 to 40',
    )


def _no_archive(data_dir, root):
  found = 'no folder was named'
  if data_dir:
    found = paths.why_no_folder(root) or (
      f'{paths.why_no_file(root / _NAME)} {_NAME} there; it contains '
      f'{paths.contents(root)}'
    )
  hint = ''
  if (root / 'train' / 'image').is_dir():
    hint = "open the .npy dump there as the dataset 'nyuv2'; or "
  return InputError(
    expected=f'the folder of {_NAME}, splits.mat and classMapping40.mat',
    found=found,
    argument='data_dir',
    where=paths.as_text(data_dir),
    do=hint + 'download the labeled set (2.8 GB) from '
    f'horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/{_NAME}, put the small '
    'files that docs/data.md lists beside it, and name the folder in data_dir',
  )
