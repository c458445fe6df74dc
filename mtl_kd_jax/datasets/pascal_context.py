"""PASCAL-Context with five tasks, in the layout of PASCAL_MT.

The data set of Maninis et al. (CVPR 2019, "Attentive Single-Tasking of Multiple
Tasks"), which papers on dense multi-task learning use.

    <dir>/ImageSets/Context/{train,val}.txt    names of frames, one in a line
    <dir>/JPEGImages/<frame>.jpg
    <dir>/semseg/VOC12/<frame>.png, or semseg/pascal-context/<frame>.png
    <dir>/human_parts/<frame>.mat
    <dir>/pascal-context/trainval/<frame>.mat  LabelMap, of which edges are made
    <dir>/normals_distill/<frame>.png          colors; of a network
    <dir>/sal_distill/<frame>.png              of one, too; salient above half

| label    | kind    | meaning                                                 |
|----------|---------|---------------------------------------------------------|
| semantic | classes | background and 20 objects; 255 is unlabeled             |
| parts    | classes | background and 6 parts of persons                       |
| normals  | normals | where the class of Context is one of `normals_classes`  |
| saliency | binary  |                                                         |
| edges    | binary  | where LabelMap changes, one pixel wide                  |

Frames have many sizes. They are reduced, and cut or filled up with unlabeled
black, to one.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import files, paths, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.option_checks import as_tuple, check_names, check_size
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

CLASSES = (
  'background',
  'aeroplane',
  'bicycle',
  'bird',
  'boat',
  'bottle',
  'bus',
  'car',
  'cat',
  'chair',
  'cow',
  'dining table',
  'dog',
  'horse',
  'motorbike',
  'person',
  'potted plant',
  'sheep',
  'sofa',
  'train',
  'tv monitor',
)
PARTS = (
  'background',
  'head',
  'torso',
  'upper arm',
  'lower arm',
  'upper leg',
  'lower leg',
)
_IGNORED, _PERSON = 255, 15
# Of PASCAL-Part: what the names of annotated parts count as, by their ends; the
# longer ones first. 'l' and 'r' before them are left and right.
_PART_OF = {
  **dict.fromkeys(
    ('hair', 'head', 'ear', 'ebrow', 'eye', 'mouth', 'nose'), 'head'
  ),
  **dict.fromkeys(('torso', 'neck'), 'torso'),
  'uarm': 'upper arm',
  **dict.fromkeys(('larm', 'hand'), 'lower arm'),
  'uleg': 'upper leg',
  **dict.fromkeys(('lleg', 'foot'), 'lower leg'),
}
_LABELS = {
  'semantic': Label('class', classes=CLASSES),
  'parts': Label('class', classes=PARTS),
  'normals': Label('normal'),
  'saliency': Label('binary', classes=('rest', 'salient')),
  'edges': Label('binary', classes=('rest', 'edge')),
}
_FOLDERS = {
  'semantic': 'semseg',
  'parts': 'human_parts',
  'normals': 'normals_distill',
  'saliency': 'sal_distill',
  'edges': 'pascal-context/trainval',
}
_SEMANTIC = ('semseg/VOC12', 'semseg/pascal-context')


def make(
  *,
  data_dir: str | os.PathLike = '',
  image_size: tuple[int, int] = (512, 512),
  tasks: Sequence[str] = tuple(_LABELS),
  normals_classes: Sequence[int] = (),
) -> Dataset:
  """Lists the frames; they are read on access.

  Args:
    data_dir: the folder of the folders above.
    image_size: (height, width) of the samples, in pixels. Larger frames are
      reduced until they fit.
    tasks: labels that are needed, of the table above.
    normals_classes: ids in LabelMap of the classes of which normals count; ()
      for all. Papers use those that NYU-v2 has, too, since the normals are of a
      network that was trained there.

  Raises:
    InputError: an option cannot be used, or files are missing.
  """
  size, names = check_size(image_size), check_names('tasks', tasks, _LABELS)
  root = paths.expand(data_dir, argument='data_dir')
  lists = {s: root / f'ImageSets/Context/{s}.txt' for s in ('train', 'val')}
  found = '' if data_dir else 'no folder was named'
  for path in lists.values():
    found = found or paths.why_no_file(path)
  for folder in ('JPEGImages', *(_FOLDERS[name] for name in names)):
    found = found or paths.why_no_folder(root / folder)
  if found:
    raise InputError(
      expected='PASCAL-Context with five tasks: ImageSets, JPEGImages, '
      + ', '.join(_FOLDERS[name] for name in names),
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do='download PASCAL_MT.tgz (data.vision.ee.ethz.ch/kmaninis/share/MTL), '
      'unpack it, and name its folder in data_dir',
    )
  if 'edges' in names:
    _import_thin()
  classes = frozenset(int(i) for i in as_tuple(normals_classes))
  return Dataset(
    name='pascal_context',
    image_size=size,
    labels={name: _LABELS[name] for name in names},
    sources={
      split: functools.partial(
        _Frames, root, _read_list(path), names, size, classes
      )
      for split, path in lists.items()
    },
  )


def preview(
  *,
  image_size: tuple[int, int] = (512, 512),
  tasks: Sequence[str] = tuple(_LABELS),
) -> Dataset:
  """The labels and the size that the options say."""
  labels = {
    name: _LABELS[name] for name in check_names('tasks', tasks, _LABELS)
  }
  return Dataset('pascal_context', check_size(image_size), labels, sources={})


def _read_list(path: pathlib.Path) -> tuple[str, ...]:
  names = files.read_lines(path)
  if not names:
    raise files.bad_file(path, 'names of frames, one in a line', 'none')
  return names


class _Frames:
  """The frames of one split; picklable."""

  def __init__(
    self,
    root: pathlib.Path,
    names: Sequence[str],
    tasks: Sequence[str],
    size: tuple[int, int],
    normals_classes: frozenset[int],
  ):
    self._root, self._names, self._tasks = root, names, tasks
    self._size, self._normals_classes = size, normals_classes

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> Sample:
    frame = self._names[index]
    picture = files.read_image(self._path('JPEGImages', frame, 'jpg'))
    readers = {
      'semantic': self._semantic,
      'parts': self._parts,
      'normals': self._normals,
      'saliency': self._saliency,
      'edges': self._edges,
    }
    arrays = {task: readers[task](frame) for task in self._tasks}
    for task, array in arrays.items():
      if array.shape[:2] != picture.shape[:2]:
        raise files.bad_file(
          self._path(_FOLDERS[task], frame, '*'),
          'as many pixels as the picture has',
          f'{array.shape[:2]}, and {picture.shape[:2]}',
          'unpack the archive again',
        )
    fitted = _fitted(picture.shape[:2], self._size)
    image = files.as_colors(resize.area(picture, fitted))
    sample = {'image': _filled(image, np.zeros((*self._size, 3), np.float32))}
    for task, array in arrays.items():
      reduced = resize.nearest(array, fitted)
      sample[task] = _filled(reduced, _LABELS[task].missing(self._size))
    return sample

  def _path(self, folder: str, frame: str, suffix: str) -> pathlib.Path:
    return self._root / folder / f'{frame}.{suffix}'

  def _semantic(self, frame):
    candidates = [self._path(folder, frame, 'png') for folder in _SEMANTIC]
    path = next((p for p in candidates if p.is_file()), candidates[0])
    ids = files.read_array(path).astype(np.int32)
    ids[ids == _IGNORED] = -1
    files.check_range(path, ids, -1, len(CLASSES) - 1, 'classes 0 to 20')
    return ids

  def _parts(self, frame):
    """Unlabeled where there is no person, as the literature has it."""
    path = self._path('human_parts', frame, 'mat')
    objects = _load(path, 'anno')['objects'][0, 0].reshape(-1)
    parts = np.full(np.shape(objects[0]['mask']), -1, np.int32)
    for item in objects:
      if int(np.ravel(item['class_ind'])[0]) != _PERSON:
        continue
      if parts.max() < 0:
        parts[:] = 0
      for part in np.ravel(item['parts']):
        name = str(np.ravel(part['part_name'])[0])
        parts[part['mask'].astype(bool)] = PARTS.index(_part_of(path, name))
    return parts

  def _normals(self, frame):
    path = self._path('normals_distill', frame, 'png')
    vectors = files.as_directions(path, files.read_array(path))
    if self._normals_classes:
      labels = self._label_map(frame)
      vectors[~np.isin(labels, list(self._normals_classes))] = 0
    return vectors

  def _saliency(self, frame):
    array = files.read_array(self._path('sal_distill', frame, 'png'))
    gray = array if array.ndim == 2 else array[..., 0]
    return (gray > 127).astype(np.int32)

  def _edges(self, frame):
    labels = self._label_map(frame).astype(np.int64)
    padded = np.pad(labels, 1, mode='reflect')
    # The Laplacian of the ids: not 0 where a pixel differs from its neighbors.
    laplacian = (
      padded[:-2, 1:-1]
      + padded[2:, 1:-1]
      + padded[1:-1, :-2]
      + padded[1:-1, 2:]
      - 4 * labels
    )
    return _import_thin()(laplacian != 0).astype(np.int32)

  def _label_map(self, frame):
    path = self._path('pascal-context/trainval', frame, 'mat')
    return _load(path, 'LabelMap')


def _part_of(path: pathlib.Path, name: str) -> str:
  short = name[1:] if name not in _PART_OF and name[:1] in 'lr' else name
  if short not in _PART_OF:
    raise files.bad_file(
      path, 'parts of persons as PASCAL-Part names them', repr(name)
    )
  return _PART_OF[short]


def _load(path: pathlib.Path, field: str) -> Any:
  from scipy import io

  if found := paths.why_no_file(path):
    raise files.bad_file(path, 'a file', found)
  try:
    return io.loadmat(path, variable_names=(field,))[field]
  except KeyError:
    raise files.bad_file(path, f'the field {field}', 'none') from None
  except Exception as error:
    # The parser raises almost any exception for a damaged file.
    reason = f'{error}' or type(error).__name__
    raise files.bad_file(path, 'a readable MATLAB file', reason) from error


def _fitted(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
  """The largest size of the same form that fits; never larger than it is."""
  factor = min(1.0, new[0] / old[0], new[1] / old[1])
  return tuple(max(1, round(side * factor)) for side in old)


def _filled(array: np.ndarray, into: np.ndarray) -> np.ndarray:
  into[: array.shape[0], : array.shape[1]] = array
  return into


def _import_thin():
  try:
    from skimage.morphology import thin
  except ImportError as error:
    raise InputError(
      expected='scikit-image, which makes edges one pixel wide',
      found=f'{error}',
      argument='tasks',
      do="pip install 'mtl_kd_jax[pascal]', or leave 'edges' out",
    ) from error
  return thin
