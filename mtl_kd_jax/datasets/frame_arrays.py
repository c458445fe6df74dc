"""Arrays that belong to the frames of a split, in memory or in a file.

For what is computed once for each frame, and for its mirror image, and read in
every epoch. A file is in a folder of its own:

  frames.array_record   a record for each frame, and for its mirror image
  about.json            what is in it; written last: without, it is incomplete
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple
import zlib

from array_record.python.array_record_module import ArrayRecordWriter
import grain
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.datasets.augment import Change
from mtl_kd_jax.datasets.base import Sample, Source
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.files import write_atomically

_RECORDS, _ABOUT = 'frames.array_record', 'about.json'
_CHECKSUM = 4  # bytes before the arrays of a record
_SAMPLED = 32


class ArrayType(NamedTuple):
  """Of one frame: shape, and name of the dtype."""

  shape: tuple[int, ...]
  dtype: str

  @property
  def nbytes(self) -> int:
    """Its size."""
    return int(np.prod(self.shape)) * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which arrays there are.

  Attributes:
    frames: number of frames.
    mirrored: whether there are those of the mirror images, too.
    arrays: name -> type.
  """

  frames: int
  mirrored: bool
  arrays: Mapping[str, ArrayType]

  @property
  def orientations(self) -> tuple[bool, ...]:
    """Whether a frame is mirrored, in each form that it has."""
    return (False, True) if self.mirrored else (False,)

  @property
  def nbytes(self) -> int:
    """The size of all."""
    each = sum(array.nbytes for array in self.arrays.values())
    return self.frames * len(self.orientations) * each

  def row(self, frame: int, mirror: bool) -> int:
    """The place of a frame, or of its mirror image."""
    return frame * len(self.orientations) + mirror

  def describe(self) -> dict[str, Any]:
    """The same in plain values, as JSON gives them back."""
    arrays = {n: [list(a.shape), a.dtype] for n, a in self.arrays.items()}
    described = {'frames': self.frames, 'mirrored': self.mirrored}
    return {**described, 'arrays': dict(sorted(arrays.items()))}


class InMemory:
  """The arrays of all frames, in memory; an `Attach` of the loader."""

  def __init__(self, layout: Layout):
    """Makes room; nothing is in it."""
    self._layout, self._next = layout, 0
    rows = layout.frames * len(layout.orientations)
    self._arrays = {
      name: np.empty((rows, *array.shape), jnp.dtype(array.dtype))
      for name, array in layout.arrays.items()
    }

  def append(self, image: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds those of the next row, in the order of `Layout.row`."""
    del image
    for name, array in self._arrays.items():
      array[self._next] = arrays[name]
    self._next += 1

  def __call__(
    self, frame: int, sample: Sample, change: Change
  ) -> dict[str, np.ndarray]:
    """The arrays of a frame as it is after `change`."""
    del sample
    row = self._layout.row(frame, change.mirror)
    return {name: array[row] for name, array in self._arrays.items()}


class FrameWriter:
  """Writes the arrays of all frames into a folder; a context."""

  def __init__(
    self, folder: pathlib.Path, layout: Layout, about: Mapping[str, Any]
  ):
    """Begins a file in place of an incomplete one.

    Args:
      folder: that nobody else writes into.
      layout: of what is written.
      about: see `open_frames`.
    """
    self._folder, self._layout, self._about = folder, layout, about

  def __enter__(self) -> 'FrameWriter':
    # Uncompressed: reading is to cost less than computing.
    self._file = ArrayRecordWriter(
      str(self._folder / _RECORDS), 'group_size:1,uncompressed'
    )
    return self

  def append(self, image: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds those of the next row, in the order of `Layout.row`.

    Args:
      image: the frame as it is, not mirrored.
      arrays: name -> array.
    """
    parts = [_checksum(image)]
    for name, array in sorted(self._layout.arrays.items()):
      values = np.asarray(arrays[name], jnp.dtype(array.dtype))
      parts.append(values.tobytes())
    self._file.write(b''.join(parts))

  def __exit__(self, kind, *unused) -> None:
    try:
      self._file.close()
    except RuntimeError as error:  # when the disk is full
      raise OSError(f'{error}') from error
    if kind is None:
      about = _describe(self._layout, self._about)
      write_atomically(self._folder / _ABOUT, json.dumps(about, indent=2))


class OnDisk:
  """The arrays of all frames in a file; a picklable `Attach` of the loader."""

  def __init__(self, folder: pathlib.Path, layout: Layout):
    """Opens what `FrameWriter` has finished; raises what grain raises."""
    self._folder, self._layout = folder, layout
    self._records = grain.sources.ArrayRecordDataSource(str(folder / _RECORDS))

  def __len__(self) -> int:
    return len(self._records)

  def __call__(
    self, frame: int, sample: Sample, change: Change
  ) -> dict[str, np.ndarray]:
    """The arrays of a frame as it is after `change`.

    Raises:
      InputError: it is not the frame that they belong to.
    """
    record = self._records[self._layout.row(frame, change.mirror)]
    if record[:_CHECKSUM] != _checksum(sample['image']):
      raise _unlike(self._folder, f'those of another frame {frame}')
    arrays, place = {}, _CHECKSUM
    for name, array in sorted(self._layout.arrays.items()):
      flat = np.frombuffer(
        record,
        jnp.dtype(array.dtype),
        count=int(np.prod(array.shape)),
        offset=place,
      )
      arrays[name] = flat.reshape(array.shape)
      place += array.nbytes
    return arrays


def open_frames(
  folder: pathlib.Path, layout: Layout, about: Mapping[str, Any]
) -> OnDisk | None:
  """What is in a folder; None where nothing is, or it is incomplete.

  Args:
    folder: the folder.
    layout: of the arrays.
    about: what they belong to, in plain values of JSON.

  Raises:
    InputError: they belong to something else, or are damaged.
  """
  try:
    found = json.loads((folder / _ABOUT).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise _unlike(folder, f'{error}') from error
  expected = _describe(layout, about)
  if not isinstance(found, dict):
    found = {}
  differs = [n for n in expected if found.get(n) != expected[n]]
  if differs:
    raise _unlike(folder, f'those of other {" and ".join(differs)}')
  try:
    opened = OnDisk(folder, layout)
    rows = len(opened)
    _ = opened._records[rows - 1]
  except Exception as error:  # array_record raises many types
    raise _unlike(folder, f'{error}'.partition('\n')[0]) from error
  if rows != layout.frames * len(layout.orientations):
    raise _unlike(folder, f'{rows} records')
  return opened


def fingerprint(source: Source) -> str:
  """Tells the images of a split from others, by some of them."""
  last = len(source) - 1
  some = np.unique(np.linspace(0, last, _SAMPLED).astype(int))
  seen = b''.join(_checksum(source[int(i)]['image']) for i in some)
  return f'{len(source)} frames, {zlib.crc32(seen):08x}'


def _describe(layout, about) -> dict[str, Any]:
  return {**about, 'layout': layout.describe()}


def _checksum(image) -> bytes:
  image = np.ascontiguousarray(image, np.float32)  # as batches have it
  return zlib.crc32(image).to_bytes(_CHECKSUM, 'big')


def _unlike(folder, found) -> InputError:
  return InputError(
    expected='the outputs of these teachers for these frames, complete',
    found=found,
    where=f'{folder}',
    argument='cache_dir',
    do='delete that folder, and they are computed again; or name another',
  )
