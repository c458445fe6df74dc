"""NYU-v2 from the official archive, one frame at a time.

    <dir>/nyu_depth_v2_labeled.mat   HDF5: 1449 frames of 480x640
    <dir>/splits.mat                 795 for training, 654 for the test
    <dir>/classMapping40.mat         894 ids -> NYU40
    <dir>/class13Mapping.mat         NYU40 -> 13 classes; may be absent

Fields of the archive, with MATLAB's axes in the order that HDF5 gives them:

  images     uint8 [n 3 w h]
  depths     float32 [n w h], meters, in-filled where the sensor saw nothing
  rawDepths  float32 [n w h], meters, 0 where the sensor saw nothing
  labels     uint16 [n w h], 0 where unlabeled
  names      one for each of the 894 ids
"""

import dataclasses
import pathlib

import numpy as np

from mtl_kd_jax.datasets import resample
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.nyuv2 import maps as nyuv2_maps
from mtl_kd_jax.datasets.nyuv2 import npy as nyuv2
from mtl_kd_jax.datasets.nyuv2.depth_normals import Camera, normals_from_depth
from mtl_kd_jax.datasets.nyuv2.mat_archive import Archive
from mtl_kd_jax.datasets.nyuv2.normals import Normals
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

FRAME_SIZE = (480, 640)
# Of the color camera, whose view the depth has been brought into: the
# toolbox's camera_params.m.
CAMERA = Camera(fx=518.8579, fy=519.4696, cx=325.5824, cy=253.7362)
# Side in pixels of the windows that planes are fitted to: the one whose normals
# come nearest to those of the literature's dump (docs/data.md).
_WINDOW = 21
# The sensor's reach is 10 m. Millimeters and disparities are beyond.
_MOST_DEPTH = 11
_NAME = 'nyu_depth_v2_labeled.mat'
_CLASSES = {13: nyuv2.CLASSES, 40: nyuv2_maps.CLASSES_40}
_DEPTHS = {'filled': 'depths', 'raw': 'rawDepths'}
_LABEL_IDS = ('raw', 'nyu40')


def make(
  *,
  data_dir: str,
  image_size: tuple[int, int],
  crop: tuple[int, int, int, int],
  classes: int,
  label_ids: str,
  depth: str,
  normals_dir: str,
) -> Dataset:
  """Opens the archive; its frames are read when they are asked for.

  Args:
    data_dir: the folder of the files above.
    image_size: (height, width) of the samples, pixels: images by area, labels
      by the nearest pixel.
    crop: first row, end row, first column, end column of the part of 480x640
      that is kept.
    classes: 13 or 40.
    label_ids: what `labels` holds: 'raw' ids of the official file, or 'nyu40',
      those of copies in which they are 1 to 40 already.
    depth: 'filled' or 'raw'.
    normals_dir: the folder of the normals (nyuv2_normals.py); '' to compute
      them from the raw depth (depth_normals.py).

  Returns:
    The dataset, with the splits 'train' and 'val'. There are only two in
    NYU-v2: 'val' is the official test split.

  Raises:
    InputError: an option is not one of those, or a file is missing, damaged or
      not in this layout. Pixels are checked when they are read.
  """
  options = _checked(image_size, crop, classes, label_ids, depth)
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not (root / _NAME).is_file():
    raise _no_archive(data_dir, root)
  archive = Archive(root / _NAME)
  frames = _check_fields(archive, options, computed=not normals_dir)
  if label_ids == 'raw':
    _check_names(archive)
  splits = nyuv2_maps.read_split(root / 'splits.mat', frames=frames)
  table = nyuv2_maps.class_table(root, classes=classes, label_ids=label_ids)
  normals = Normals(pathlib.Path(normals_dir).expanduser(), FRAME_SIZE)
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


def preview(*, image_size: tuple[int, int], classes: int, **options) -> Dataset:
  """The archive as it is known without its file."""
  del options
  return Dataset('nyuv2_mat', tuple(image_size), _labels(classes), sources={})


@dataclasses.dataclass(frozen=True)
class _Options:
  size: tuple[int, int]
  crop: tuple[int, int, int, int]
  depth: str  # the field
  label_ids: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Frames:
  """One split; picklable, and safe to read from threads and processes."""

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
    image = resample.by_area(self._cropped('images', frame), size)
    depth = self._depth(self.options.depth, frame)
    return {
      'image': image / np.float32(255),
      'semantic': self._classes(frame),
      'depth': resample.nearest(depth, size)[..., None],
      'normals': self._normals(frame),
    }

  def _cropped(self, field, frame):
    """The part of [h w] or [h w 3] that is kept."""
    top, bottom, left, right = self.options.crop
    return self.archive.read(field, frame).T[top:bottom, left:right]

  def _classes(self, frame):
    ids = resample.nearest(self._cropped('labels', frame), self.options.size)
    most = len(self.table) - 1
    if ids.max() > most:
      kind = self.options.label_ids
      raise self.archive.bad(
        f'ids up to {most} in labels ({kind!r})',
        f'{ids.max()} in frame {frame + 1}',
        "restore the file, or set config.data.nyuv2_mat.label_ids to 'raw' "
        'if it is the official one',
      )
    return self.table[ids]

  def _depth(self, field, frame):
    depth = self._cropped(field, frame)
    if not (depth.min() >= 0 and depth.max() <= _MOST_DEPTH):  # nor NaN
      raise self.archive.bad(
        f'meters in {field}, from 0 to {_MOST_DEPTH}',
        f'{depth.min():g} to {depth.max():g} in frame {frame + 1}',
      )
    return depth

  def _normals(self, frame):
    top, bottom, left, right = self.options.crop
    if self.normals is not None:
      normals = self.normals.read(frame)[top:bottom, left:right]
      return resample.nearest(normals, self.options.size)
    # What was in-filled is a guess, whose slope is none of the surface's.
    return normals_from_depth(
      self._depth('rawDepths', frame),
      CAMERA.cropped(top, left),
      window=_WINDOW,
      size=self.options.size,
    )


def _labels(classes):
  return {
    'semantic': Label('class', classes=_CLASSES.get(classes, ())),
    'depth': Label('depth', unit='m'),
    'normals': Label('normal'),
  }


def _checked(size, crop, classes, label_ids, depth) -> _Options:
  """The options, or InputError for the first that is none."""

  def check(key, fits, expected, found):
    if not fits:
      raise InputError(
        expected=expected,
        found=repr(found),
        where=f'config.data.nyuv2_mat.{key}',
        do='choose one of those',
      )

  def one_of(key, choices, found):
    expected = ' or '.join(repr(choice) for choice in choices)
    check(key, found in choices, expected, found)

  one_of('classes', _CLASSES, classes)
  one_of('label_ids', _LABEL_IDS, label_ids)
  one_of('depth', _DEPTHS, depth)
  size, crop = tuple(size), tuple(crop)
  fits = len(size) == 2 and min(size) > 0
  check('image_size', fits, 'a height and a width in pixels', size)
  h, w = FRAME_SIZE
  fits = len(crop) == 4 and (
    0 <= crop[0] < crop[1] <= h and 0 <= crop[2] < crop[3] <= w
  )
  expected = f'first and end row of {h}, first and end column of {w}'
  check('crop', fits, expected, crop)
  return _Options(size, crop, _DEPTHS[depth], label_ids)


def _check_fields(archive, options, *, computed) -> int:
  """Checks what is used of the archive; returns the number of frames."""
  h, w = FRAME_SIZE
  fields = {
    'images': ((3, w, h), 'uint8'),
    'labels': ((w, h), 'uint'),
    options.depth: ((w, h), 'float'),
  }
  if computed:
    fields['rawDepths'] = (w, h), 'float'
  frames = (archive.shape('images') or (0,))[0]
  for field, (shape, dtype) in fields.items():
    archive.check(field, (frames, *shape), dtype)
  return frames


def _check_names(archive):
  count = archive.count('names')
  if count != nyuv2_maps.RAW_IDS:
    raise archive.bad(
      f'the field names with the {nyuv2_maps.RAW_IDS} classes of raw labels',
      f'{count} names',
      'take the official file; or, for a copy whose labels are NYU40 already '
      '(1 to 40), --config.data.nyuv2_mat.label_ids=nyu40',
    )


def _no_archive(data_dir, root):
  found = 'no folder was named'
  if data_dir:
    found = f'no {_NAME} there' if root.is_dir() else 'no such folder'
  hint = ''
  if (root / 'train' / 'image').is_dir():
    hint = 'for the .npy dump, which is there: --config.data.name=nyuv2; else '
  return InputError(
    expected=f'the folder of {_NAME}, splits.mat and classMapping40.mat',
    found=found,
    where=f'config.data.data_dir = {data_dir!r}',
    do=hint + 'download the labeled set (2.8 GB) from '
    'horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/'
    f'{_NAME}, and beside it the small files that docs/data.md lists, and name '
    'their folder with --config.data.data_dir=FOLDER',
  )
