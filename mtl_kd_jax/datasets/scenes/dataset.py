"""Rendered rooms with exact labels: the dataset that needs no download.

Scene `index` of a split is a pure function of (seed, split, index, size). It is
rendered once, stored by TFDS in ArrayRecord files (without TensorFlow), and
then read by random access.

  semantic  9 classes (rooms.CLASSES)
  depth     meters along z
  normals   unit, camera frame (x right, y down, z ahead), toward the camera

With `attributes`, there are labels of the room as a whole, too (attributes.py).

A few percent of every map are missing, at different pixels for each
(missing_labels.py).
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import os

import numpy as np
import tensorflow_datasets as tfds

from mtl_kd_jax.datasets import paths, prepared
from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.datasets.option_checks import check_size, check_whole
from mtl_kd_jax.datasets.scenes import attributes as of_rooms
from mtl_kd_jax.datasets.scenes import missing_labels, raycast, rooms, shading
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.runtime.log_filters import without_warnings

_LABELS = {
  'semantic': Label('class', classes=rooms.CLASSES),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}
# The numbers are part of the seed, so that splits share no scenes.
_SPLITS = {'train': 0, 'val': 1}
# Records store this class for unlabeled pixels, and normals as integers, which
# changes their direction by at most 0.002 degrees.
_NO_CLASS = 255
_NORMAL_STEPS = 32767
# TFDS sorts a split in memory, and falls back on TensorFlow beyond 1000 MiB.
_MAX_SPLIT_BYTES = 1000 * 2**20
_BYTES_PER_PIXEL = 3 + 1 + 4 + 6
_MIN_SIDE = 8  # pixels


def make(
  *,
  image_size: tuple[int, int] = (96, 128),
  num_train: int = 1024,
  num_val: int = 128,
  seed: int = 0,
  attributes: bool = False,
  data_dir: str | os.PathLike = '',
  progress: Callable[[int, int], None] | None = None,
) -> Dataset:
  """Opens the rendered rooms, and renders them on first use.

  Args:
    image_size: (height, width) in pixels.
    num_train: number of scenes in the split 'train'.
    num_val: number of scenes in the split 'val'.
    seed: of all scenes, >= 0.
    attributes: whether to label rooms as a whole, too: 'count', 'pattern' and
      'light'.
    data_dir: where TFDS stores its datasets; '' for its default directory
      (~/tensorflow_datasets, or the environment variable TFDS_DATA_DIR).
    progress: called with (number of scenes rendered, total number) while
      rendering.

  Raises:
    InputError: an option or the folder cannot be used.
  """
  config = _make_config(image_size, num_train, num_val, seed)
  paths.expand(data_dir, argument='data_dir')  # TFDS expands it itself
  with without_warnings():
    builder = _prepare(config, data_dir or None, progress)
  return Dataset(
    name='scenes',
    image_size=config.image_size,
    labels=_labels(attributes),
    sources={
      split: functools.partial(
        _open,
        builder.as_data_source(split),
        functools.partial(draw_room, config.seed, split)
        if attributes
        else None,
      )
      for split in _SPLITS
    },
  )


def preview(
  *, image_size: tuple[int, int] = (96, 128), attributes: bool = False
) -> Dataset:
  """The labels and the size that the options say."""
  size = check_size(image_size, minimum=_MIN_SIDE)
  return Dataset('scenes', size, _labels(attributes), sources={})


def _labels(attributes: bool) -> dict[str, Label]:
  return {**_LABELS, **(of_rooms.LABELS if attributes else {})}


def _open(records, draw) -> Source:
  source = prepared.Records(records, _decode)
  return source if draw is None else of_rooms.Attributed(source, draw)


def draw_room(seed: int, split: str, index: int) -> rooms.Room:
  """One scene, not rendered; see `render` for the arguments."""
  return rooms.draw_room(_generator(seed, split, index))


def _generator(seed, split, index) -> np.random.Generator:
  # `spawn_key`, because large numbers in a list could give the same seed.
  seeds = np.random.SeedSequence(seed, spawn_key=(_SPLITS[split], index))
  return np.random.default_rng(seeds)


def render(seed: int, split: str, index: int, size: tuple[int, int]) -> Sample:
  """Renders one scene.

  Args:
    seed: of the dataset.
    split: 'train' or 'val'.
    index: of the scene in its split, from 0.
    size: (height, width) in pixels; the room is the same at every size.

  Returns:
    image float32 [h w 3], semantic int32 [h w], depth float32 [h w 1] in meters
    and normals float32 [h w 3], with missing pixels as in labels.py.
  """
  rng = _generator(seed, split, index)
  room = rooms.draw_room(rng)
  view = raycast.cast(room.camera, [t.shape for t in room.things], size)
  image = shading.photograph(room, view, rng)

  classes = np.array([t.label for t in room.things], np.int32)[view.index]
  normals = room.camera.to_camera(view.normal)
  missing = missing_labels.draw_missing(
    room.camera, view, classes, normals, rng
  )
  depth = np.where(missing['depth'], 0, view.depth)
  return {
    'image': image.astype(np.float32) / np.float32(255),
    'semantic': np.where(missing['semantic'], np.int32(-1), classes),
    'depth': depth.astype(np.float32)[..., None],
    'normals': np.where(missing['normals'], 0, normals)
    .astype(np.float32)
    .transpose(1, 2, 0)
    .copy(),
  }


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
  """The contents of one prepared copy of the dataset; see `make`."""

  image_size: tuple[int, int]
  num_train: int
  num_val: int
  seed: int


class Scenes(tfds.core.GeneratorBasedBuilder):
  """Writes the scenes to disk, to one folder for every ScenesConfig.

  `progress`, if set, is called as described in `make`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'The first rooms.'}  # noqa: RUF012 (TFDS's name)

  progress: Callable[[int, int], None] | None = None

  def _info(self) -> tfds.core.DatasetInfo:
    size = tuple(self.builder_config.image_size)

    def tensor(shape, dtype, encoding):
      return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

    # zlib pays off for planes, which give long runs of equal bytes.
    return self.dataset_info_from_configs(
      description='Rooms rendered by ray casting, with class, depth, normals.',
      features=tfds.features.FeaturesDict(
        {
          'image': tensor((*size, 3), np.uint8, 'bytes'),
          'semantic': tensor(size, np.uint8, 'zlib'),
          'depth': tensor((*size, 1), np.float32, 'bytes'),
          'normals': tensor((3, *size), np.int16, 'zlib'),
        }
      ),
      # Record i is scene i.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # there is nothing to download
    config = self.builder_config
    return {
      'train': self._generate_examples('train', config.num_train, 0),
      'val': self._generate_examples('val', config.num_val, config.num_train),
    }

  def _generate_examples(self, split: str, count: int, done: int) -> Iterator:
    config = self.builder_config
    for index in range(count):
      yield (
        index,
        _encode(render(config.seed, split, index, tuple(config.image_size))),
      )
      if self.progress is not None:
        total = config.num_train + config.num_val
        self.progress(done + index + 1, total)

  # TFDS prints these two messages at any level of logging.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass


def _encode(sample: Sample) -> dict[str, np.ndarray]:
  classes = sample['semantic']
  normals = np.rint(sample['normals'] * _NORMAL_STEPS).astype(np.int16)
  return {
    'image': np.rint(sample['image'] * 255).astype(np.uint8),
    'semantic': np.where(classes < 0, _NO_CLASS, classes).astype(np.uint8),
    'depth': sample['depth'],
    # Separate components compress far better.
    'normals': np.ascontiguousarray(normals.transpose(2, 0, 1)),
  }


def _decode(record) -> Sample:
  classes = record['semantic'].astype(np.int32)
  classes[classes == _NO_CLASS] = -1
  x, y, z = normals = record['normals'].astype(np.float32)
  length = np.sqrt(x * x + y * y + z * z)
  normals /= np.maximum(length, 1)  # 0, 0, 0 stays
  return {
    'image': record['image'].astype(np.float32) / np.float32(255),
    'semantic': classes,
    'depth': np.array(record['depth']),  # TFDS's array is read-only
    'normals': np.ascontiguousarray(normals.transpose(1, 2, 0)),
  }


def _make_config(image_size, num_train, num_val, seed) -> ScenesConfig:
  """Checks the options, and names the folder that they describe."""
  height, width = sides = check_size(image_size, minimum=_MIN_SIDE)
  num_train = check_whole('num_train', num_train, minimum=1)
  num_val = check_whole('num_val', num_val, minimum=1)
  seed = check_whole('seed', seed, minimum=0)
  maximum = _MAX_SPLIT_BYTES // (_BYTES_PER_PIXEL * height * width)
  if max(num_train, num_val) > maximum:
    argument = 'num_train' if num_train > maximum else 'num_val'
    raise InputError(
      expected=f'at most {maximum} scenes of {height}x{width} in a split',
      found=f'{max(num_train, num_val)}',
      argument=argument,
      do=f'set {argument} or image_size to smaller numbers',
    )
  return ScenesConfig(
    name=f'{height}x{width}_{num_train}+{num_val}_seed{seed}',
    image_size=sides,
    num_train=num_train,
    num_val=num_val,
    seed=seed,
  )


def _prepare(config, data_dir, progress) -> Scenes:
  """The builder of `config`, with its files on disk and complete."""

  def write(builder):
    builder.progress = progress
    prepared.write_files(builder)

  return prepared.prepare(
    lambda root: Scenes(config=config, data_dir=root),
    write,
    content='the rendered scenes',
    remedy='the next run renders the scenes again',
    folder=f'scenes/{config.name}',
    data_dir=data_dir,
    megabytes=_size_in_mb(config),
  )


def _size_in_mb(config: ScenesConfig) -> int:
  height, width = config.image_size
  scenes = config.num_train + config.num_val
  return 1 + scenes * height * width * _BYTES_PER_PIXEL // 10**6
