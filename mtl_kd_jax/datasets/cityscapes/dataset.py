"""Cityscapes from the official archives: street scenes, classes and depth.

    <manual_dir>/leftImg8bit_trainvaltest.zip   images
    <manual_dir>/gtFine_trainvaltest.zip        label ids
    <manual_dir>/disparity_trainvaltest.zip     for the task 'depth'
    <manual_dir>/camera_trainvaltest.zip        for depth in meters

or the folders leftImg8bit/, gtFine/, disparity/ and camera/ that they unpack
to. The first use resizes them and stores the result with TFDS; from then on the
archives are not needed. Splits: 'train' and 'val'.

  semantic  7 categories or 19 classes (classes.py)
  depth     inverse depth, disparity or meters (depth.py)
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import contextlib
import functools
import os

import numpy as np
from rich.console import Console
from tensorflow_datasets.core import constants

from mtl_kd_jax.datasets import paths, prepared
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.cityscapes import depth as cityscapes_depth
from mtl_kd_jax.datasets.cityscapes import files
from mtl_kd_jax.datasets.cityscapes.builder import (
  BYTES_PER_PIXEL,
  CityscapesFrames,
  FramesConfig,
  make_preparation,
  num_threads,
)
from mtl_kd_jax.datasets.cityscapes.classes import LABELS, class_table
from mtl_kd_jax.datasets.option_checks import check_size
from mtl_kd_jax.datasets.progress import show_progress
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.log_filters import without_warnings

# What a prepared copy can contain besides images and label ids, most first.
_PARTS = (('disparity', 'camera'), ('disparity',), ())
_REGISTER = (
  'register at www.cityscapes-dataset.com (non-commercial use), download '
)


def make(
  *,
  image_size: tuple[int, int] = (128, 256),
  classes: int = 7,
  depth: str = 'inverse_depth',
  tasks: Sequence[str] = ('semantic', 'depth', 'normals'),
  manual_dir: str | os.PathLike = '',
  data_dir: str | os.PathLike = '',
  progress: Callable[[int, int], None] | None = None,
) -> Dataset:
  """Opens Cityscapes, and prepares it on first use.

  Args:
    image_size: (height, width) in pixels: (128, 256), (256, 512), or the full
      size (1024, 2048). It must divide the size of the images.
    classes: 7 or 19.
    depth: 'inverse_depth', 'disparity' or 'depth'.
    tasks: the tasks to learn. Disparities are needed only for 'depth'; tasks
      that Cityscapes has no labels for are ignored.
    manual_dir: the folder with the archives; '' for TFDS's manual directory.
    data_dir: where TFDS stores its datasets; '' for its default directory.
    progress: called with (number of frames prepared, total number); None to
      show a bar.

  Raises:
    InputError: an option cannot be used, or an archive is missing or damaged.
      No files remain in that case.
  """
  size = _check_options(image_size, classes, depth)
  root = paths.expand(data_dir or constants.DATA_DIR, argument='data_dir')
  manual = paths.expand(
    manual_dir or root / 'downloads' / 'manual', argument='manual_dir'
  )
  needed = _needed(tasks, depth)
  with without_warnings():
    config, archives = _choose_copy(size, needed, root, manual)
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
  image_size: tuple[int, int] = (128, 256),
  classes: int = 7,
  depth: str = 'inverse_depth',
  tasks: Sequence[str] = ('semantic', 'depth', 'normals'),
) -> Dataset:
  """The labels and the size that the options say."""
  size = _check_options(image_size, classes, depth)
  labels = _labels(size, classes, depth, _needed(tasks, depth))
  return Dataset('cityscapes', size, labels, sources={})


def _labels(size, classes, depth, needed):
  labels = {'semantic': LABELS[classes]}
  if 'disparity' in needed:
    labels['depth'] = cityscapes_depth.depth_label(depth, size[1])
  return labels


def _needed(tasks, depth) -> set[str]:
  """The parts that the tasks need, besides images and label ids."""
  if 'depth' not in tasks:
    return set()
  return {'disparity', 'camera'} if depth == 'depth' else {'disparity'}


def _choose_copy(size, needed, root, manual):
  """The copy to use, and the archives to prepare it from; None if it exists.

  A copy may contain more than is needed, and a new copy gets everything that
  the available archives contain.
  """
  for parts in _PARTS:
    config = _config(size, parts)
    version = f'{CityscapesFrames.VERSION}'
    folder = root / CityscapesFrames.name / config.name / version
    if needed <= set(parts) and prepared.is_there(folder):
      return config, None
  manual = paths.local(manual, argument='manual_dir')
  archives = files.find_archives(manual)
  missing = {'image', 'labels', *needed} - archives.keys()
  if missing:
    raise _missing_archives(missing, manual)
  if 'disparity' not in archives:  # the camera is of no use without it
    archives.pop('camera', None)
  return _config(size, tuple(p for p in _PARTS[0] if p in archives)), archives


def _config(size, parts):
  name = '_'.join([f'{size[0]}x{size[1]}', *parts])
  return FramesConfig(name=name, image_size=size, parts=parts)


def _missing_archives(missing, manual):
  names = [name for name in files.PARTS if name in missing]
  parts = [files.PARTS[name] for name in names]
  sized = ', '.join(f'{part.zip_name} ({part.size})' for part in parts)
  alternative = ''
  if names == ['camera']:
    alternative = "; or set depth to 'disparity'"
  elif 'disparity' in names:
    alternative = "; or leave 'depth' out of tasks"
  found = paths.why_no_folder(manual)
  if not found:
    found = 'neither' if len(parts) == 1 else 'none of them'
    found += f'; it contains {paths.contents(manual)}'
  return InputError(
    expected=', '.join(f'{p.zip_name} or the folder {p.tree}/' for p in parts),
    found=found,
    argument='manual_dir',
    where=paths.as_text(manual),
    do=f'{_REGISTER}{sized} into that folder; or name the folder that contains '
    f'them in manual_dir{alternative}',
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
      pool = stack.enter_context(futures.ThreadPoolExecutor(num_threads()))
      builder.preparation = make_preparation(
        files.join_frames(archives), config.image_size, show, pool
      )
      prepared.write_files(builder)

  return prepared.prepare(
    lambda root: CityscapesFrames(config=config, data_dir=root),
    write,
    content='the prepared frames',
    remedy='the next run prepares them again',
    folder=f'{CityscapesFrames.name}/{config.name}',
    data_dir=f'{root}',
    megabytes=_size_in_mb(config.image_size),
  )


def _size_in_mb(size):
  """All 3475 frames of both splits, before compression."""
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
  """Checks the options; returns the size as integers."""
  size = check_size(image_size, minimum=8)
  kinds = cityscapes_depth.KINDS
  for argument, found, valid, expected in (
    ('classes', classes, any(classes == c for c in LABELS), '7 or 19'),
    ('depth', depth, depth in kinds, f'one of {", ".join(kinds)}'),
  ):
    if not valid:
      raise InputError(
        expected=expected,
        found=repr(found),
        argument=argument,
        do=f'set {argument} to such a value',
      )
  return size
