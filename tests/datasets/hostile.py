"""How a hostile case is written down, and sound data to do harm to."""

from collections.abc import Callable
import dataclasses
import functools
import io
import struct
import zlib

from fixtures.datasets import OPTIONS
from fixtures.nyu_layout import make_frames, write_archive
import numpy as np
from PIL import Image

SIZE = (12, 16)
# The file of a kind that most cases damage: neither the first nor the last.
VICTIM = 'train/{}/2.{}'
FRAMES = ('train/{}/1', 'train/{}/2', 'train/{}/10', 'val/{}/7')
FOLDER = {
  'image': '{split}/photo/{frame}.png',
  'semantic': {
    'files': '{split}/ids/{frame}.png',
    'classes': ('road', 'tree', 'car'),
    'ids': (1, 2, 3),
    'ignore': (0,),
  },
  'depth': {'files': '{split}/mm/{frame}.png', 'scale': 0.001},
}


# ---- Sound data of every reader ----------------------------------------------


def make_pixels(seed):
  rng = np.random.default_rng(seed)
  return {
    'photo': rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
    'ids': rng.integers(0, 4, SIZE, dtype=np.uint8),
    'mm': rng.integers(500, 9000, SIZE, dtype=np.uint16),
  }


# What the victim's files have.
PHOTO, IDS, DEPTH = make_pixels(1).values()


def folder(root):
  for seed, path in enumerate(FRAMES):
    for kind, array in make_pixels(seed).items():
      write(root / f'{path.format(kind)}.png', array)
  return {'data_dir': str(root), **FOLDER}


@functools.cache
def nyu_frames():
  return make_frames(3)


def nyuv2_mat(root):
  write_archive(root, nyu_frames())
  return {'data_dir': str(root), 'image_size': (24, 32), 'classes': 40}


# name -> a function of an empty folder; the options of the dataset.
READERS = OPTIONS | {'folder': folder, 'nyuv2_mat': nyuv2_mat}


# ---- Cases -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
  """What is done to the data of a reader, and what must come of it.

  Attributes:
    reader: a key of `READERS`.
    damage: (root, options, monkeypatch) -> None; changes any of them.
    parts: of the error message, or its argument; () if there is no error.
    notes: parts of what is printed while the data are checked.
    check: is called with the samples, split -> list.
  """

  reader: str
  damage: Callable[..., None]
  parts: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  check: Callable[..., None] = lambda samples: None


CASES: dict[str, Case] = {}


def add(name, reader, damage, *parts, **fields):
  """Adds a case."""
  assert name not in CASES, name
  CASES[name] = Case(reader, damage, parts, **fields)


def case(name, reader, *parts, **fields):
  """Adds a case; the function that follows does the damage."""

  def decorate(damage):
    add(name, reader, damage, *parts, **fields)
    return damage

  return decorate


# ---- Damage ------------------------------------------------------------------


def write(path, content, **options):
  """Writes bytes, an array in the format of the name, or calls a function."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif callable(content):
    content(path)
  elif path.suffix == '.npy':
    np.save(path, content, allow_pickle=True)
  else:
    Image.fromarray(content).save(path, **options)


def put(path, content, **options):
  """Replaces a file."""
  return lambda root, *_: write(root / path, content, **options)


def put_victim(kind, content, **options):
  return put(VICTIM.format(kind, 'png'), content, **options)


def renamed(old, new):
  return lambda root, *_: (root / old).rename(root / new)


def instead(path, make):
  """Removes a file, and makes something else of its name."""

  def damage(root, options, monkeypatch):
    (root / path).unlink()
    make(root / path)

  return damage


def to_itself(path):
  path.symlink_to(path)


def unreadable(name):
  """Files of that name cannot be opened, by whoever runs the tests."""

  def damage(root, options, monkeypatch):
    def refuse(function):
      def opened(file, *args, **kwargs):
        if str(file).endswith(name):
          raise PermissionError(13, 'Permission denied', str(file))
        return function(file, *args, **kwargs)

      return opened

    monkeypatch.setattr('builtins.open', refuse(open))
    monkeypatch.setattr(io, 'open', refuse(io.open))

  return damage


def with_value(array, value):
  """A copy with the value in one pixel, or in one row of an archive."""
  array = array.copy()
  array[-1, 4] = value
  return array


# ---- Contents of files -------------------------------------------------------


def encode(image, kind='png', mode=None, **options):
  """The bytes of a picture, maybe converted to a mode of Pillow."""
  file = io.BytesIO()
  if not isinstance(image, Image.Image):
    image = Image.fromarray(np.ascontiguousarray(image))
  image = image.convert(mode) if mode else image
  image.save(file, kind, **options)
  return file.getvalue()


def exif(orientation):
  tags = Image.Exif()
  tags[0x0112] = orientation
  return tags


def png_chunk(name, data):
  check = struct.pack('>I', zlib.crc32(name + data))
  return struct.pack('>I', len(data)) + name + data + check


def declared_png(width, height):
  """A small PNG whose header declares a huge gray image."""
  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + png_chunk(b'IHDR', header)
    + png_chunk(b'IDAT', zlib.compress(bytes(1000)))
    + png_chunk(b'IEND', b'')
  )


def array_bytes(array, save=np.save):
  file = io.BytesIO()
  save(file, array)
  return file.getvalue()


def declared_npy(shape):
  """A small .npy file whose header declares this shape."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {'descr': '<f4', 'fortran_order': False, 'shape': shape}
  )
  return file.getvalue() + bytes(100)


def objects(path):
  """Writes an array of objects that make a file when they are unpickled."""
  dangerous = _Danger(path.with_name('code was run'))
  np.save(path, np.full((3, 4), dangerous), allow_pickle=True)


class _Danger:
  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return type(self._path).touch, (self._path,)
