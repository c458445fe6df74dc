"""Prepares Cityscapes: from the archives to records of the configured size.

A record holds, whatever the run then asks of it:

  image      uint8 [h w 3]
  ids        uint8 [h w], label ids 0..33
  disparity  float32 [h w], raw numbers p or means of them, 0 where not valid
  camera     float32, baseline times focal length [m px]

The last two are there when their archives are.
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

from mtl_kd_jax.datasets import reduce
from mtl_kd_jax.datasets.cityscapes import files
from mtl_kd_jax.datasets.cityscapes.classes import VOID_IDS

# Of the arrays in one file: TFDS keeps those in memory until it is written.
_SHARD_BYTES = 128 * 2**20
_MAX_THREADS = 32
# Of image, ids and disparity, before compression.
BYTES_PER_PIXEL = 3 + 1 + 4


@dataclasses.dataclass(eq=False, kw_only=True)
class FramesConfig(tfds.core.BuilderConfig):
  """What one prepared copy of the dataset holds.

  Attributes:
    image_size: (height, width) in pixels.
    parts: what it holds beside image and labels: 'disparity', 'camera'.
  """

  image_size: tuple[int, int]
  parts: tuple[str, ...]


class CityscapesFrames(ShardBasedBuilder):
  """Writes the records to disk; a folder for every FramesConfig.

  `preparation` must be set before.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'The first copy.'}  # noqa: RUF012 (TFDS's name)

  preparation: 'Preparation | None' = None

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    size = tuple(config.image_size)

    def tensor(shape, dtype):
      # ArrayRecord compresses by itself.
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
      description='Cityscapes, reduced; see docs/data.md of mtl_kd_jax.',
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager  # there is nothing to download
    return self.preparation.shards()

  # TFDS prints these two announcements whatever the level of logging.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass


Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Preparation:
  """What is to be prepared from what.

  Attributes:
    frames: split -> frames, in their order.
    source: the size of all their pictures.
    factors: by which they are made smaller, vertically and horizontally.
    progress: called with (frames prepared so far, frames in all).
  """

  frames: Mapping[str, Sequence[files.Frame]]
  source: files.Size
  factors: reduce.Factors
  progress: Callable[[int, int], None]

  def shards(self) -> dict[str, list[Callable[[], Iterator]]]:
    """Split -> functions that iterate over the (key, record) of one file."""
    pixels = self.source.height * self.source.width // math.prod(self.factors)
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
    """Of all splits, one after the other."""
    frames = [frame for split in self.frames.values() for frame in split]
    prepare = functools.partial(
      prepare_frame, source=self.source, factors=self.factors
    )
    seen = _Seen(frames[0])
    for done, (record, highest) in enumerate(_in_order(prepare, frames), 1):
      seen.add(record, highest)
      if done == len(frames):
        seen.check()
      self.progress(done, len(frames))
      yield record


def make_preparation(
  frames: Mapping[str, Sequence[files.Frame]],
  image_size: tuple[int, int],
  progress: Callable[[int, int], None],
) -> Preparation:
  """Plans how frames become records of `image_size`, (height, width).

  Raises:
    InputError: there are no frames, or their size is no multiple of that.
  """
  first = next(iter(frames.values()))[0]['image']
  source = files.size_of(first)
  (height, width), (h, w) = source[:2], image_size
  if height % h or width % w:
    raise first.bad(
      f'pictures whose sides are multiples of {h}x{w}, as the originals of '
      '1024x2048 are of 128x256, 256x512 and 1024x2048',
      f'{height}x{width}',
      'choose such a config.data.cityscapes.image_size, or take the official '
      'archives',
    )
  factors = height // h, width // w
  return Preparation(frames, source, factors, progress)


def prepare_frame(
  frame: files.Frame, *, source: files.Size, factors: reduce.Factors
) -> tuple[Record, int]:
  """The record of a frame, and the highest raw disparity in it (or 0)."""
  image = files.read_image(frame['image'], source)
  ids = files.read_label_ids(frame['labels'], source)
  record = {
    'image': reduce.by_area(image, factors),
    'ids': reduce.by_nearest(ids, factors),
  }
  highest = 0
  if 'disparity' in frame:
    raw = files.read_disparity(frame['disparity'], source)
    record['disparity'] = reduce.by_valid_mean(raw, factors)
    highest = int(raw.max())
  if 'camera' in frame:
    record['camera'] = np.float32(files.read_camera(frame['camera']))
  return record, highest


class _Seen:
  """What no single frame can show to be wrong, but all of them together."""

  def __init__(self, first: files.Frame):
    self._first = first
    self._ids = np.zeros(256, np.int64)
    self._highest = 0

  def add(self, record: Record, highest: int) -> None:
    self._ids += np.bincount(record['ids'].ravel(), minlength=256)
    self._highest = max(self._highest, highest)

  def check(self) -> None:
    """Raises InputError when the archives cannot be the official ones."""
    void = self._ids[list(VOID_IDS)].sum()
    other = self._ids.sum() - void
    if not self._ids[19:].any() and 0 < other < void:
      raise self._first['labels'].bad(
        'label ids 0 to 33 in the files of all frames, cars and sky among them',
        'only ids below 19, and most pixels are void: as if these were '
        'training ids',
        'take the *_labelIds.png of the official gtFine_trainvaltest.zip',
      )
    if 0 < self._highest < 256:
      raise self._first['disparity'].bad(
        'numbers of 16 bit, 256 for every pixel of disparity',
        f'none above {self._highest} in any frame, as if converted from 8 bit',
        'take the official disparity_trainvaltest.zip',
      )


def _in_order(function, items):
  """Like map, but by several threads, a few items ahead."""
  threads = min(_MAX_THREADS, _cores())
  pool = futures.ThreadPoolExecutor(threads)
  ahead = collections.deque()
  try:
    for item in items:
      ahead.append(pool.submit(function, item))
      if len(ahead) > threads + 2:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def _cores() -> int:
  """The processors that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
