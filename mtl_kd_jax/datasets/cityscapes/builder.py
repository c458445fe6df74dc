"""Prepares Cityscapes: from the archives to records of a chosen size.

A record contains:

  image      uint8 [h w 3]
  ids        uint8 [h w], label ids 0..33
  disparity  float32 [h w], means of the raw numbers p, 0 where not valid
  camera     float32, baseline times focal length [m px]

The last two exist if their archives do.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import functools
import math
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

from mtl_kd_jax.datasets import resize
from mtl_kd_jax.datasets.cityscapes import files
from mtl_kd_jax.datasets.cityscapes.classes import VOID_IDS
from mtl_kd_jax.errors import InputError

# Size of the arrays in one file. TFDS keeps them in memory until it is written.
_SHARD_BYTES = 128 * 2**20
_MAX_THREADS = 32
# Image, ids and disparity, before compression.
BYTES_PER_PIXEL = 3 + 1 + 4


@dataclasses.dataclass(eq=False, kw_only=True)
class FramesConfig(tfds.core.BuilderConfig):
  """The contents of one prepared copy of the dataset.

  Attributes:
    image_size: (height, width) in pixels.
    parts: contents besides image and labels: 'disparity', 'camera'.
  """

  image_size: tuple[int, int]
  parts: tuple[str, ...]


class CityscapesFrames(ShardBasedBuilder):
  """Writes the records to disk, to one folder for every FramesConfig.

  `preparation` must be set before anything is written.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'The first copy.'}  # noqa: RUF012 (TFDS's name)

  preparation: 'Preparation | None' = None

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    size = tuple(config.image_size)

    def tensor(shape, dtype):
      # ArrayRecord compresses.
      return tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')

    features = {
      'image': tensor((*size, 3), np.uint8),
      'ids': tensor(size, np.uint8),
    }
    if 'disparity' in config.parts:
      features['disparity'] = tensor(size, np.float32)
    if 'camera' in config.parts:
      features['camera'] = tensor((), np.float32)
    return self.dataset_info_from_configs(
      description='Cityscapes, resized; see docs/data.md of mtl_kd_jax.',
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager  # there is nothing to download
    return self.preparation.shards()

  # TFDS prints these two messages at any level of logging.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass


Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Preparation:
  """A plan of the records to write.

  Attributes:
    frames: split -> frames, in order.
    source: the size of their images.
    image_size: (height, width) of the records, in pixels.
    progress: called with (number of frames done, total number).
    pool: of threads that make the records. Whoever gives it ends it: records
      that an error leaves unread are garbage, and collecting that must not wait
      for threads.
  """

  frames: Mapping[str, Sequence[files.Frame]]
  source: files.Size
  image_size: tuple[int, int]
  progress: Callable[[int, int], None]
  pool: futures.Executor

  def shards(self) -> dict[str, list[Callable[[], Iterator]]]:
    """Split -> functions that iterate over the (key, record) of one file."""
    pixels = math.prod(self.image_size)
    size = max(1, _SHARD_BYTES // (pixels * BYTES_PER_PIXEL))
    stream = self._records()
    return {
      split: [
        functools.partial(zip, range(start, len(frames))[:size], stream)
        for start in range(0, len(frames), size)
      ]
      for split, frames in self.frames.items()
    }

  def _records(self) -> Iterator[Record]:
    """The records of all splits, one after the other."""
    frames = [frame for split in self.frames.values() for frame in split]
    prepare = functools.partial(
      prepare_frame, source=self.source, image_size=self.image_size
    )
    checks = _GlobalChecks(frames[0])
    made = _ordered_map(self.pool, prepare, frames)
    for done, (record, highest) in enumerate(made, 1):
      checks.add(record, highest)
      if done == len(frames):
        checks.finish()
      self.progress(done, len(frames))
      yield record


def make_preparation(
  frames: Mapping[str, Sequence[files.Frame]],
  image_size: tuple[int, int],
  progress: Callable[[int, int], None],
  pool: futures.Executor,
) -> Preparation:
  """Plans the records of `image_size`, (height, width).

  Raises:
    InputError: the size of the frames is not a multiple of `image_size`.
  """
  first = next(iter(frames.values()))[0]['image']
  source = files.size_of(first)
  (height, width), (h, w) = source[:2], image_size
  if height % h or width % w:
    raise InputError(
      expected=f'images whose sides are multiples of {h}x{w}: those of the '
      'official archives, 1024x2048, are of 128x256 and 256x512',
      found=f'{height}x{width}',
      argument='image_size',
      where=source.of,
      do='choose an image_size that divides that of the images, or use the '
      'official archives',
    )
  return Preparation(frames, source, tuple(image_size), progress, pool)


def prepare_frame(
  frame: files.Frame, *, source: files.Size, image_size: tuple[int, int]
) -> tuple[Record, int]:
  """The record of a frame, and its highest raw disparity (or 0)."""
  image = files.read_image(frame['image'], source)
  ids = files.read_label_ids(frame['labels'], source)
  record = {
    'image': resize.area(image, image_size),
    'ids': resize.nearest(ids, image_size),
  }
  highest = 0
  if 'disparity' in frame:
    raw = files.read_disparity(frame['disparity'], source)
    record['disparity'] = resize.valid_mean(raw, image_size)
    highest = int(raw.max())
  if 'camera' in frame:
    record['camera'] = np.float32(files.read_camera(frame['camera']))
  return record, highest


class _GlobalChecks:
  """Checks that need the values of all frames."""

  def __init__(self, first: files.Frame):
    self._first = first
    self._ids = np.zeros(256, np.int64)
    self._highest = 0

  def add(self, record: Record, highest: int) -> None:
    self._ids += np.bincount(record['ids'].ravel(), minlength=256)
    self._highest = max(self._highest, highest)

  def finish(self) -> None:
    """Raises InputError if the archives cannot be the official ones."""
    void = self._ids[list(VOID_IDS)].sum()
    other = self._ids.sum() - void
    if not self._ids[19:].any() and 0 < other < void:
      raise self._first['labels'].bad(
        'label ids 0 to 33 over all frames, including cars and sky',
        'only ids below 19, and most pixels are void: these look like '
        'training ids',
        'use the *_labelIds.png of the official gtFine_trainvaltest.zip',
      )
    if 0 < self._highest < 256:
      raise self._first['disparity'].bad(
        'numbers of 16 bits, 256 for each pixel of disparity',
        f'none above {self._highest} in any frame, as if converted to 8 bits',
        'use the official disparity_trainvaltest.zip',
      )


def _ordered_map(pool, function, items):
  """Like `map`, in a pool that works a few items ahead."""
  ahead = collections.deque()
  for item in items:
    ahead.append(pool.submit(function, item))
    if len(ahead) > num_threads() + 2:
      yield ahead.popleft().result()
  while ahead:
    yield ahead.popleft().result()


def num_threads() -> int:
  """How many threads make records."""
  return min(_MAX_THREADS, _cores())


def _cores() -> int:
  """The number of processors that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
