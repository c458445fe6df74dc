"""Cityscapes from the official archives: street scenes, classes and depth.

    <manual_dir>/leftImg8bit_trainvaltest.zip   pictures
    <manual_dir>/gtFine_trainvaltest.zip        label ids
    <manual_dir>/disparity_trainvaltest.zip     for the task 'depth'
    <manual_dir>/camera_trainvaltest.zip        for depth in meters

or the folders leftImg8bit/, gtFine/, disparity/ and camera/ that unpacking them
makes. They are reduced once to the configured size and kept by TFDS; then they
are not needed any more. Splits: 'train' and 'val'.

  semantic  7 categories or 19 classes (cityscapes_classes.py)
  depth     inverse depth, disparity or meters (cityscapes_depth.py)
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import pathlib

import numpy as np
from rich.console import Console
from tensorflow_datasets.core import constants

from mtl_kd_jax.datasets import prepared
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.cityscapes import depth as cityscapes_depth
from mtl_kd_jax.datasets.cityscapes import files
from mtl_kd_jax.datasets.cityscapes.builder import (
  BYTES_PER_PIXEL,
  CityscapesFrames,
  FramesConfig,
  make_preparation,
)
from mtl_kd_jax.datasets.cityscapes.classes import LABELS, class_table
from mtl_kd_jax.datasets.progress import show_progress
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.log_filters import without_warnings

# What a prepared copy can hold beside pictures and label ids.
_PARTS = (('disparity', 'camera'), ('disparity',), ())
_REGISTER = (
  'register at www.cityscapes-dataset.com (non-commercial use), download '
)


def make(
  *,
  image_size: tuple[int, int],
  classes: int,
  depth: str,
  tasks: Sequence[str],
  manual_dir: str,
  data_dir: str | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Dataset:
  """Opens Cityscapes, after preparing it if need be.

  Args:
    image_size: (height, width) in pixels: (128, 256), (256, 512), or (1024,
      2048), the full one. The files' sides must be multiples of it.
    classes: 7 or 19.
    depth: 'inverse_depth', 'disparity' or 'depth'.
    tasks: what is learned. Without 'depth' no disparities are needed.
    manual_dir: the folder with the archives; '' for TFDS's manual directory.
    data_dir: the folder that TFDS keeps its data sets in; '' or None is its
      usual one.
    progress: called with (frames prepared so far, frames in all); None shows a
      bar.

  Raises:
    InputError: an option cannot be used, or an archive is missing or spoiled.
      Nothing is left behind then.
  """
  size = _check_options(image_size, classes, depth)
  root = pathlib.Path(data_dir or constants.DATA_DIR).expanduser()
  manual = pathlib.Path(manual_dir or root / 'downloads' / 'manual')
  needed = _needed(tasks, depth)
  with without_warnings():
    config, archives = _choose(size, needed, root, manual.expanduser())
    builder = _prepare(config, archives, root, progress)
  decode = functools.partial(
    _decode,
    table=class_table(classes),
    depth=depth if 'disparity' in needed else None,
  )
  return Dataset(
    name='cityscapes',
    image_size=size,
    labels=_labels(size, classes, depth, needed),
    sources={
      split: functools.partial(
        prepared.Records, builder.as_data_source(split), decode
      )
      for split in builder.info.splits
    },
  )


def preview(
  *,
  image_size: tuple[int, int],
  classes: int,
  depth: str,
  tasks: Sequence[str],
  **options,
) -> Dataset:
  """Cityscapes as it is known without its files."""
  del options
  size = _check_options(image_size, classes, depth)
  labels = _labels(size, classes, depth, _needed(tasks, depth))
  return Dataset('cityscapes', size, labels, sources={})


def _labels(size, classes, depth, needed):
  labels = {'semantic': LABELS[classes]}
  if 'disparity' in needed:
    labels['depth'] = cityscapes_depth.depth_label(depth, size[1])
  return labels


def _needed(tasks, depth) -> set[str]:
  """The parts that the tasks need, beside pictures and label ids."""
  if 'depth' not in tasks:
    return set()
  return {'disparity', 'camera'} if depth == 'depth' else {'disparity'}


def _choose(size, needed, root, manual):
  """The copy to use, and the archives to prepare it from: None if it is there.

  A copy that holds more than is needed serves as well, and a new one gets all
  that the archives there have.
  """
  for parts in _PARTS:
    config = _config(size, parts)
    version = f'{CityscapesFrames.VERSION}'
    folder = root / CityscapesFrames.name / config.name / version
    if needed <= set(parts) and folder.exists():
      return config, None
  archives = files.find_archives(manual)
  missing = {'image', 'labels', *needed} - archives.keys()
  if missing:
    raise _not_there(missing, manual)
  if 'disparity' not in archives:  # a camera alone serves nothing
    archives.pop('camera', None)
  return _config(size, tuple(p for p in _PARTS[0] if p in archives)), archives


def _config(size, parts):
  name = '_'.join([f'{size[0]}x{size[1]}', *parts])
  return FramesConfig(name=name, image_size=size, parts=parts)


def _not_there(missing, manual):
  names = [name for name in files.PARTS if name in missing]
  parts = [files.PARTS[name] for name in names]
  sized = ', '.join(f'{part.zip_name} ({part.size})' for part in parts)
  spare = ''
  if names == ['camera']:
    spare = "; or set config.data.cityscapes.depth to 'disparity'"
  elif 'disparity' in names:
    spare = "; or leave 'depth' out of config.tasks"
  return InputError(
    expected=', '.join(f'{p.zip_name} or the folder {p.tree}/' for p in parts),
    found='neither' if len(parts) == 1 else 'none of them',
    where=f'{manual} (config.data.manual_dir)',
    do=f'{_REGISTER}{sized} and put them there as they are; or name the folder '
    f'that has them with --config.data.manual_dir=FOLDER{spare}',
  )


def _prepare(config, archives, root, progress) -> CityscapesFrames:
  """The builder of `config`, with its files on disk and complete."""

  def write(builder):
    with contextlib.ExitStack() as stack:
      show = progress
      if show is None:
        title = f'preparing cityscapes {config.name}'
        console = Console(stderr=True)
        show = stack.enter_context(show_progress(title, console))
      builder.preparation = make_preparation(
        files.join_frames(archives), config.image_size, show
      )
      prepared.write_files(builder)

  return prepared.prepare(
    lambda: CityscapesFrames(config=config, data_dir=root),
    write,
    what='the prepared frames',
    again='the next run prepares them again',
    folder=f'{CityscapesFrames.name}/{config.name}',
    data_dir=f'{root}',
    megabytes=_size_in_mb(config.image_size),
  )


def _size_in_mb(size):
  """Of all 3475 frames of both splits, before compression."""
  return 1 + 3475 * size[0] * size[1] * BYTES_PER_PIXEL // 10**6


def _decode(record: Mapping, *, table: np.ndarray, depth: str | None) -> Sample:
  sample = {
    'image': record['image'].astype(np.float32) / np.float32(255),
    'semantic': table[record['ids']],
  }
  if depth is not None:
    sample['depth'] = cityscapes_depth.from_raw(
      record['disparity'], depth, record.get('camera', 0)
    )
  return sample


def _check_options(image_size, classes, depth) -> tuple[int, int]:
  """Checks what the user gave; returns the size as whole numbers."""
  size = tuple(image_size)
  for key, value, good, expected in (
    (
      'image_size',
      size,
      len(size) == 2 and all(s == int(s) >= 8 for s in size),
      '(height, width) of at least 8 pixels each',
    ),
    ('classes', classes, classes in LABELS, '7 or 19'),
    (
      'depth',
      depth,
      depth in cityscapes_depth.KINDS,
      f'one of {", ".join(cityscapes_depth.KINDS)}',
    ),
  ):
    if not good:
      raise InputError(
        expected=expected,
        found=repr(value),
        where=f'config.data.cityscapes.{key}',
        do='correct it in the config file or with '
        f'--config.data.cityscapes.{key}=...',
      )
  return tuple(int(side) for side in size)
