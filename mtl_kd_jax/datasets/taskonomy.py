"""Taskonomy, as the Omnidata tools unpack it (Zamir et al. 2018).

    <dir>/<domain>/taskonomy/<building>/point_<p>_view_<v>_domain_<domain>.png
    <dir>/<domain>/<building>/...          without the folder 'taskonomy', too
    <dir>/splits/train.txt, val.txt ...    names of buildings, one in a line

| label         | domain            | in the files                           |
|---------------|-------------------|----------------------------------------|
| semantic      | segment_semantic  | 1 to 17; 0 is uncertain: unlabeled     |
| depth         | depth_zbuffer     | 1/512 m, 65535 where not measured      |
| normals       | normal            | colors, 127.5 is 0                     |
| edges         | edge_texture      | 16 bits, as a share of 65535           |
| occlusion     | edge_occlusion    | 16 bits, as a share of 65535           |
| keypoints     | keypoints2d       | 16 bits, as a share of 65535           |
| shading       | reshading         | gray, 0 to 255                         |
| curvature     | principal_curvature | two channels, 127 is 0               |

Classes of COCO objects are pseudo-labels of a network. Where there is a domain
'mask_valid', labels count where it is white.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import files, paths, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.option_checks import check_names, check_size
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

CLASSES = (
  'background',
  'bottle',
  'chair',
  'couch',
  'potted plant',
  'bed',
  'dining table',
  'toilet',
  'tv',
  'microwave',
  'oven',
  'toaster',
  'sink',
  'refrigerator',
  'book',
  'clock',
  'vase',
)
_UNITS_PER_METER = 512
_NOT_MEASURED = 2**16 - 1
_FRAME = re.compile(r'(point_\d+_view_\d+)_domain_\w+\.png')
_DOWNLOAD = (
  'omnitools.download rgb mask_valid {domains} --components taskonomy --subset '
  'tiny --dest FOLDER (pip install omnidata-tools)'
)


class Domain(NamedTuple):
  """What the files of one label hold.

  Attributes:
    folder: its name.
    label: what it means.
    read: (path, array as stored) -> the label's array, not masked.
    suffix: what its files end with, where that is not its name.
  """

  folder: str
  label: Label
  read: Callable[[pathlib.Path, np.ndarray], np.ndarray]
  suffix: str = ''


def _classes(path, array):
  files.check_range(path, array, 0, len(CLASSES), 'classes from 0 to 17')
  return array.astype(np.int32) - 1  # 0 is uncertain, and becomes -1


def _depth(path, array):
  del path
  meters = array.astype(np.float32) / _UNITS_PER_METER
  return np.where(array == _NOT_MEASURED, 0, meters)[..., None]


def _share(path, array):
  del path
  largest = np.iinfo(array.dtype).max
  gray = array if array.ndim == 2 else array[..., 0]
  return (gray.astype(np.float32) / largest)[..., None]


def _curvature(path, array):
  files.check_shape(path, array, (None, None, None))
  return array[..., :2].astype(np.float32) / 127 - 1


def _map(unit='', channels=1):
  return Label('regression', unit=unit, channels=channels)


DOMAINS = {
  'semantic': Domain(
    'segment_semantic',
    Label('class', classes=CLASSES),
    _classes,
    'segmentsemantic',
  ),
  'depth': Domain('depth_zbuffer', Label('depth', unit='m'), _depth),
  'normals': Domain('normal', Label('normal'), files.as_directions),
  'edges': Domain('edge_texture', _map(), _share),
  'occlusion': Domain('edge_occlusion', _map(), _share),
  'keypoints': Domain('keypoints2d', _map(), _share),
  'shading': Domain('reshading', _map(), _share),
  'curvature': Domain('principal_curvature', _map(channels=2), _curvature),
}
TASKS = ('semantic', 'depth', 'normals', 'edges', 'keypoints')


def make(
  *,
  data_dir: str | os.PathLike = '',
  image_size: tuple[int, int] = (256, 256),
  tasks: Sequence[str] = TASKS,
  splits: str = 'splits',
) -> Dataset:
  """Lists the frames; they are read on access.

  Args:
    data_dir: the folder of the domains.
    image_size: (height, width) that frames of 512x512 are reduced to: images by
      area, labels by nearest pixel.
    tasks: labels whose domains are needed, of the table above.
    splits: the folder of lists of buildings, in `data_dir`.

  Raises:
    InputError: an option cannot be used, or files are missing.
  """
  size, domains = check_size(image_size), _check_tasks(tasks)
  root = paths.expand(data_dir, argument='data_dir')
  rgb = _folder(root, 'rgb')
  found = '' if data_dir else 'no folder was named'
  found = found or paths.why_no_folder(rgb)
  for domain in domains.values():
    found = found or paths.why_no_folder(_folder(root, domain.folder))
  if found:
    needed = ' '.join(domain.folder for domain in domains.values())
    raise InputError(
      expected=f'the domains of Taskonomy: rgb {needed}',
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do='download them: ' + _DOWNLOAD.format(domains=needed),
    )
  buildings = _splits(root / splits, rgb)
  masks = _folder(root, 'mask_valid')
  return Dataset(
    name='taskonomy',
    image_size=size,
    labels={task: domain.label for task, domain in domains.items()},
    sources={
      split: functools.partial(
        _Frames,
        _frames(rgb, names),
        _Files(rgb, 'rgb'),
        {
          task: _Files(_folder(root, d.folder), d.suffix or d.folder)
          for task, d in domains.items()
        },
        _Files(masks, 'depth_zbuffer') if masks.is_dir() else None,
        size,
      )
      for split, names in buildings.items()
    },
  )


def preview(
  *,
  image_size: tuple[int, int] = (256, 256),
  tasks: Sequence[str] = TASKS,
) -> Dataset:
  """The labels and the size that the options say."""
  labels = {task: d.label for task, d in _check_tasks(tasks).items()}
  return Dataset('taskonomy', check_size(image_size), labels, sources={})


def _check_tasks(tasks: Any) -> dict[str, Domain]:
  return {n: DOMAINS[n] for n in check_names('tasks', tasks, DOMAINS)}


def _folder(root: pathlib.Path, domain: str) -> pathlib.Path:
  """Where the buildings of a domain are."""
  inner = root / domain / 'taskonomy'
  return inner if inner.is_dir() else root / domain


def _splits(folder: pathlib.Path, rgb: pathlib.Path) -> dict[str, list[str]]:
  """Split -> its buildings that are there."""
  lists = {p.stem: p for p in sorted(folder.glob('*.txt'))}
  if missing := [split for split in ('train', 'val') if split not in lists]:
    raise files.bad_file(
      folder / f'{missing[0]}.txt',
      'a list of the buildings of the split, one in a line',
      'no file',
      'write one; the official splits are in splits_taskonomy.zip of '
      'github.com/StanfordVL/taskonomy',
    )
  there = {p.name for p in rgb.iterdir() if p.is_dir()}
  found = {}
  for split, path in lists.items():
    names = files.read_lines(path)
    found[split] = [name for name in dict.fromkeys(names) if name in there]
    if not found[split]:
      raise files.bad_file(
        path,
        'buildings that are there: ' + paths.some(sorted(there)),
        paths.some(names) or 'none',
        'download one of them, or correct the list',
      )
  return found


def _frames(rgb: pathlib.Path, buildings: Sequence[str]) -> list[str]:
  """Frames as 'building/point_0_view_1', in order."""
  return [
    f'{building}/{named[1]}'
    for building in buildings
    for path in sorted((rgb / building).iterdir())
    if (named := _FRAME.fullmatch(path.name))
  ]


class _Files(NamedTuple):
  folder: pathlib.Path
  suffix: str

  def path(self, frame: str) -> pathlib.Path:
    """Of one frame."""
    return self.folder / f'{frame}_domain_{self.suffix}.png'


class _Frames:
  """The frames of one split; picklable."""

  def __init__(
    self,
    frames: Sequence[str],
    pictures: _Files,
    labels: Mapping[str, _Files],
    masks: _Files | None,
    size: tuple[int, int],
  ):
    self._frames, self._size = frames, size
    self._pictures, self._labels, self._masks = pictures, labels, masks

  def __len__(self) -> int:
    return len(self._frames)

  def __getitem__(self, index: int) -> Sample:
    frame = self._frames[index]
    path = self._pictures.path(frame)
    picture = files.read_image(path)
    size = picture.shape[:2]
    valid = np.ones(size, bool)
    if self._masks is not None:
      mask = self._read(self._masks.path(frame), size)
      valid = (mask if mask.ndim == 2 else mask[..., 0]) > 0
    sample = {'image': files.as_colors(resize.area(picture, self._size))}
    for task, of_task in self._labels.items():
      path, domain = of_task.path(frame), DOMAINS[task]
      array = domain.read(path, self._read(path, size))
      missing = domain.label.missing(size)
      inside = valid if array.ndim == 2 else valid[..., None]
      array = np.where(inside, array, missing).astype(domain.label.dtype)
      sample[task] = resize.nearest(array, self._size)
    return sample

  def _read(self, path, size):
    array = files.read_array(path)
    if array.shape[:2] != size:
      raise files.bad_file(
        path,
        f'{size[0]} x {size[1]} pixels, as the picture has',
        f'{array.shape[0]} x {array.shape[1]}',
        'download the domain again',
      )
    return array
