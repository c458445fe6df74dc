"""The official files of Cityscapes: how to find, join and read them.

Every file is checked before it is used: its format, its size and the range of
its values.
"""

from collections.abc import Mapping
import dataclasses
import io
import json
import math
import pathlib
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import decode, paths
from mtl_kd_jax.datasets.cityscapes.archive import Archive, find_archive
from mtl_kd_jax.datasets.cityscapes.classes import MAX_ID
from mtl_kd_jax.errors import InputError

SPLITS = ('train', 'val')


class Part(NamedTuple):
  """One of the archives.

  Attributes:
    tree: the folder that it unpacks to.
    suffix: end of the names of its files, after the name of the frame.
    size: of the download.
  """

  tree: str
  suffix: str
  size: str

  @property
  def zip_name(self) -> str:
    """Its official name."""
    return f'{self.tree}_trainvaltest.zip'


PARTS = {
  'image': Part('leftImg8bit', '_leftImg8bit.png', '11 GB'),
  'labels': Part('gtFine', '_gtFine_labelIds.png', '241 MB'),
  'disparity': Part('disparity', '_disparity.png', '3.5 GB'),
  'camera': Part('camera', '_camera.json', '2 MB'),
}


@dataclasses.dataclass(frozen=True)
class File:
  """One file of a frame."""

  archive: Archive
  name: str

  def read(self) -> bytes:
    """Its content."""
    return self.archive.read(self.name)

  def bad(self, expected: str, found: str, do: str = '') -> InputError:
    """Makes the error for content that is wrong."""
    return InputError(
      expected=expected,
      found=found,
      where=self.archive.where(self.name),
      do=do or 'restore this file from the official archive',
    )


Frame = Mapping[str, File]  # part -> file


def find_archives(folder: pathlib.Path) -> dict[str, Archive]:
  """Part -> archive, for the parts that `folder` contains."""
  found = {
    name: find_archive(folder, part.zip_name, part.tree)
    for name, part in PARTS.items()
  }
  return {name: archive for name, archive in found.items() if archive}


def join_frames(archives: Mapping[str, Archive]) -> dict[str, list[Frame]]:
  """Joins the files of the archives by frame.

  Args:
    archives: part -> archive.

  Returns:
    Split -> frames in the order of their names. Splits without files are left
    out.

  Raises:
    InputError: an archive has none of the files, or files of other frames than
      the other archives.
  """
  files = {name: _files(name, archive) for name, archive in archives.items()}
  splits = {}
  for split in SPLITS:
    present = {name: by_split[split] for name, by_split in files.items()}
    frames = sorted(set().union(*present.values()))
    for name, by_frame in present.items():
      missing = [frame for frame in frames if frame not in by_frame]
      if missing:
        raise _incomplete(name, archives, split, missing, len(frames))
    if frames:
      splits[split] = [
        {name: by_frame[frame] for name, by_frame in present.items()}
        for frame in frames
      ]
  return splits


def _files(name, archive):
  """Split -> frame -> file of one archive."""
  part = PARTS[name]
  pattern = (
    rf'{part.tree}/({"|".join(SPLITS)})/[^/]+/([^/]+){re.escape(part.suffix)}'
  )
  files = {split: {} for split in SPLITS}
  similar = []
  for path in archive.names():
    match = re.fullmatch(pattern, path)
    if match:
      files[match[1]][match[2]] = File(archive, path)
    elif re.fullmatch(pattern, path, flags=re.IGNORECASE):
      similar.append(path)
  if similar:
    raise InputError(
      expected=f'files {part.tree}/train/<city>/<frame>{part.suffix}',
      found=f'{len(similar)} that differ in the case of letters: '
      + paths.some([paths.as_text(path) for path in sorted(similar)]),
      where=archive.where(part.tree),
      do='rename them as in the official archives',
    )
  if not any(files.values()):
    raise InputError(
      expected=f'files {part.tree}/train/<city>/<frame>{part.suffix}',
      found='none',
      where=archive.where(part.tree),
      do=f'download or unpack {part.zip_name} again',
    )
  return files


def _incomplete(name, archives, split, missing, total):
  part = PARTS[name]
  return InputError(
    expected=f'a file <frame>{part.suffix} for every frame of {split}',
    found=f'none for {len(missing)} of {total}: '
    + ', '.join(missing[:3])
    + (' ...' if len(missing) > 3 else ''),
    where=archives[name].where(f'{part.tree}/{split}'),
    do=f'download or unpack {part.zip_name} again; or remove the other files '
    'of these frames',
  )


class Size(NamedTuple):
  """The size that all images must have.

  Attributes:
    height: in pixels.
    width: in pixels.
    of: location of the image that determines it, for messages.
  """

  height: int
  width: int
  of: str


def size_of(file: File) -> Size:
  """The size of an image, from its header."""
  with _header(file) as image:
    return Size(image.height, image.width, file.archive.where(file.name))


def read_image(file: File, size: Size) -> np.ndarray:
  """Reads colors, uint8 [h w 3]."""
  return np.asarray(_open(file, size, ('RGB',), 'a color PNG of 8 bits'))


def read_label_ids(file: File, size: Size) -> np.ndarray:
  """Reads label ids 0..33, uint8 [h w]."""
  expected = 'a gray PNG of 8 bits with label ids'
  ids = np.asarray(_open(file, size, ('L',), expected))
  if ids.max() > MAX_ID:
    trained = ', as in *_labelTrainIds.png' if ids.max() == 255 else ''
    raise file.bad(
      f'label ids 0 to {MAX_ID}',
      f'{ids.max()}{trained}',
      'use the *_labelIds.png of the official gtFine_trainvaltest.zip, not '
      'the training ids, and not maps written by other tools',
    )
  return ids


def read_disparity(file: File, size: Size) -> np.ndarray:
  """Reads the raw numbers p (depth.py), uint16 [h w]."""
  image = _open(
    file,
    size,
    ('I;16', 'I;16B', 'I'),
    'a gray PNG of 16 bits',
    'restore the file from the official disparity_trainvaltest.zip: a copy of '
    '8 bits has lost the numbers',
  )
  return np.asarray(image).astype(np.uint16)


def read_camera(file: File) -> float:
  """Reads baseline times focal length, in meters times original pixels."""
  try:
    camera = json.loads(file.read())
    baseline = float(camera['extrinsic']['baseline'])
    focal = float(camera['intrinsic']['fx'])
  except (
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
  ) as error:
    raise file.bad(
      "JSON with the numbers ['extrinsic']['baseline'] and ['intrinsic']['fx']",
      f'{type(error).__name__}: {error}',
    ) from error
  product = baseline * focal
  if not (baseline > 0 and focal > 0 and math.isfinite(product)):
    raise file.bad(
      'a baseline and a focal length above 0', f'{baseline} and {focal}'
    )
  return product


def _header(file):
  content = file.read()
  try:
    return Image.open(io.BytesIO(content), formats=('PNG',))
  except Exception as error:  # Pillow raises many types
    raise _unreadable(file, error) from error


def _open(file, size, modes, expected, do=''):
  image = _header(file)
  if image.mode not in modes:
    raise file.bad(expected, f'an image of mode {image.mode!r} (Pillow)', do)
  # Before decoding: a small file can declare a huge image.
  if image.size != (size.width, size.height):
    raise file.bad(
      f'{size.height}x{size.width} pixels, the size of {size.of}',
      f'{image.height}x{image.width}',
      'restore both files from the official archives, where all images are '
      '1024x2048',
    )
  try:
    image.load()
  except Exception as error:
    raise _unreadable(file, error) from error
  if (number := decode.orientation(image)) != 1:
    raise file.bad(
      'an image without an EXIF orientation, as all official ones',
      f'orientation {number}: it would have to be turned',
    )
  return image


def _unreadable(file, error):
  return file.bad('a readable PNG', f'{type(error).__name__}: {error}')
