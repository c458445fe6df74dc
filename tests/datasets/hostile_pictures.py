"""Hostile pictures and label maps of a folder."""

import os
import pickle
import zlib

from hostile import (
  DEPTH,
  FRAMES,
  IDS,
  PHOTO,
  SIZE,
  VICTIM,
  add,
  array_bytes,
  case,
  declared_npy,
  declared_png,
  encode,
  exif,
  instead,
  make_pixels,
  objects,
  png_chunk,
  put,
  put_victim,
  to_itself,
  unreadable,
  with_value,
  write,
)
import numpy as np
from PIL import Image

from mtl_kd_jax import datasets

PNG = encode(PHOTO)
RAMP = np.repeat(np.arange(16, dtype=np.uint8)[None] * 16, 12, 0)
GRAY_RAMP = np.stack([RAMP] * 3, -1)
BINARY = 255 * (IDS > 1).astype(np.uint8)
FLOATS = (PHOTO / 255).astype(np.float32)


def palette():
  image = Image.fromarray(IDS)
  image.putpalette([i // 3 % 256 for i in range(768)][::-1])
  return image


def animation(kind):
  more = [Image.fromarray(255 - PHOTO)]
  return encode(PHOTO, kind, save_all=True, append_images=more)


def text_bomb():
  """A PNG with 100 MB of compressed text."""
  text = png_chunk(b'zTXt', b'bomb\0\0' + zlib.compress(bytes(10**8), 1))
  return PNG[:33] + text + PNG[33:]


def victim(samples):
  return samples['train'][1]


def has_colors(expected, tolerance=1e-6):
  """The victim's picture has these colors, uint8 [h w 3]."""

  def check(samples):
    image = victim(samples)['image']
    np.testing.assert_allclose(image, expected / 255, atol=tolerance)

  return check


def are_ids(samples):
  expected = IDS.astype(int) - 1
  np.testing.assert_array_equal(victim(samples)['semantic'], expected)


def as_npy(kind, content):
  """Stores the files of a kind as .npy, with this content in the victim's."""
  pattern = f'{{split}}/{kind}/{{frame}}.npy'

  def damage(root, options, monkeypatch):
    for path in root.glob(f'*/{kind}/*.png'):
      with Image.open(path) as image:
        np.save(path.with_suffix('.npy'), np.asarray(image))
      path.unlink()
    write(root / VICTIM.format(kind, 'npy'), content)
    if kind == 'photo':
      options['image'] = pattern
    else:
      name = {'ids': 'semantic', 'mm': 'depth'}[kind]
      options[name] = options[name] | {'files': pattern}

  return damage


# ---- Pictures ----------------------------------------------------------------

for name, content, *parts in (
  ('0 bytes', b'', 'an empty file'),
  ('cut short', PNG[:200], 'truncated'),
  ('a web page', b'<html>404</html>', 'a PNG or JPEG', 'web page'),
  ('a Git LFS pointer', b'version https://git-lfs.github.com', 'git lfs pull'),
  ('gif', encode(PHOTO, 'gif'), 'another kind: GIF'),
  ('tiff', encode(PHOTO, 'tiff'), 'another kind: TIFF'),
  ('bmp', encode(PHOTO, 'bmp'), 'another kind: BMP'),
  ('webp', encode(PHOTO, 'webp'), 'another kind: WebP'),
  ('eps, which is a program', encode(PHOTO, 'eps'), 'another kind: PostScript'),
  ('ppm', encode(PHOTO, 'ppm'), 'another kind'),
  ('an animated gif', animation('gif'), 'another kind: GIF'),
  (
    'gray of 16 bits',
    encode(PHOTO[..., 0].astype(np.uint16) * 16),
    'a gray image of 16 bits, with values from ',
    'convert it to 8 bits; or store it as .npy',
  ),
  ('60000x60000 declared', declared_png(60000, 60000), 'pixels'),
  ('100 MB of text', text_bomb(), 'readable'),
  ('of another size', encode(PHOTO[:-1]), '[12 16 3]', '[11, 16, 3]'),
):
  add(f'photo: {name}', 'folder', put_victim('photo', content), '2.png', *parts)

for name, content, *expected in (
  ('an animated png', animation('png'), PHOTO),
  ('jpeg named .png', encode(GRAY_RAMP, 'jpeg', quality=95), GRAY_RAMP, 0.05),
  ('CMYK', encode(GRAY_RAMP, 'jpeg', 'CMYK', quality=95), GRAY_RAMP, 0.06),
  ('alpha', encode(np.concatenate([PHOTO, PHOTO[..., :1]], -1)), PHOTO),
  ('palette', encode(palette()), np.asarray(palette().convert('RGB'))),
  (
    'palette with transparency',
    encode(palette(), transparency=bytes(range(4))),
    np.asarray(palette().convert('RGB')),
  ),
  (
    '1 bit',
    encode(Image.fromarray(BINARY), mode='1'),
    np.stack([BINARY] * 3, -1),
  ),
):
  add(
    f'photo: {name}',
    'folder',
    put_victim('photo', content),
    check=has_colors(*expected),
  )

for name, shape in {'1x1': (1, 1), '20000x1': (20000, 1)}.items():

  @case(f'photo: {name}', 'folder')
  def _(root, options, monkeypatch, shape=shape):
    options['image_size'] = SIZE
    for kind, array in make_pixels(1).items():
      of_shape = np.resize(array, (*shape, *array.shape[2:]))
      write(root / VICTIM.format(kind, 'png'), of_shape)


PATH = VICTIM.format('photo', 'png')
for name, make, *parts in (
  ('a folder', lambda path: path.mkdir(), 'a folder of that name'),
  ('a link to itself', to_itself, 'a link that leads to no file'),
  ('a link to nothing', lambda path: path.symlink_to('nothing'), 'a link'),
  ('a pipe', os.mkfifo, 'not a regular file'),
  ('a device', lambda path: path.symlink_to('/dev/zero'), 'not a regular file'),
):
  add(f'photo: {name}', 'folder', instead(PATH, make), '2.png', *parts)
add(
  'photo: not readable',
  'folder',
  unreadable(PATH),
  '2.png',
  'Permission denied',
)


for kind in ('photo', 'ids'):

  @case(f'{kind}: gone while it is read', 'folder', '2.png', 'no such file')
  def _(root, options, monkeypatch, kind=kind):
    plain_make = datasets.make

    def make(name, **options):
      dataset = plain_make(name, **options)
      (root / VICTIM.format(kind, 'png')).unlink()
      return dataset

    monkeypatch.setattr(datasets, 'make', make)


for name, content, *parts in (
  ('0 bytes', b'', 'an empty file'),
  ('cut short', array_bytes(FLOATS)[:-50], 'cut short'),
  ('cut in the header', array_bytes(FLOATS)[:40], 'a readable .npy file'),
  ('objects', objects, 'Python objects, which are not read: they can run code'),
  ('a pickle', pickle.dumps([1, 2]), 'another kind'),
  ('an archive', array_bytes(FLOATS, np.savez), '.npz'),
  ('1e12 values declared', declared_npy((10**6, 10**6, 3)), 'pixels'),
  ('1e12 channels declared', declared_npy((10, 10, 10**12)), '[10'),
  ('fewer than 0 values', declared_npy((-1, 16, 3)), 'damaged header'),
  ('complex', FLOATS.astype(complex), 'complex128'),
  ('text', np.array([['a', 'b']]), 'dtype <U1'),
  ('records', np.zeros(SIZE, 'f4,i2'), 'dtype'),
  ('dates', np.zeros(SIZE, 'M8[s]'), 'dtype'),
  ('bool', PHOTO > 9, 'bool'),
  ('integers of 64 bits', PHOTO.astype(int), 'int64'),
  ('one axis', FLOATS.ravel(), '[576]'),
  ('four axes', FLOATS[None], '[1, 12, 16, 3]'),
  ('channels first', FLOATS.transpose(2, 0, 1), '[3, 12, 16]'),
  ('no pixels', FLOATS[:0], '[0, 16, 3]'),
  ('NaN', with_value(FLOATS, np.nan), '3 NaN or infinite'),
  ('infinity', with_value(FLOATS, np.inf), '3 NaN or infinite'),
  ('floats up to 255', FLOATS * 255, 'colors in [0, 1]', '255'),
  ('negative', FLOATS - 1, 'colors in [0, 1]'),
):
  damage = as_npy('photo', content)
  add(f'photo as .npy: {name}', 'folder', damage, '2.npy', *parts)

for name, content in (
  ('float16', FLOATS.astype(np.float16)),
  ('float64', FLOATS.astype(np.float64)),
  ('big endian', FLOATS.astype('>f4')),
  ('Fortran order', np.asfortranarray(FLOATS)),
  ('bytes after its end', array_bytes(FLOATS) + b'more'),
):
  add(
    f'photo as .npy: {name}',
    'folder',
    as_npy('photo', content),
    check=has_colors(PHOTO, 1e-3),
  )


@case('photo as .npy: cut while it is read', 'folder', '2.npy', 'cut short')
def _(root, options, monkeypatch):
  as_npy('photo', FLOATS)(root, options, monkeypatch)
  read = np.fromfile

  def cut(file, *args, **kwargs):
    if file.name.endswith('train/photo/2.npy'):
      os.truncate(file.name, 200)
    return read(file, *args, **kwargs)

  monkeypatch.setattr(np, 'fromfile', cut)


# ---- EXIF orientation --------------------------------------------------------

AS_STORED = {  # orientation -> what a camera stores of an upright picture
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: np.swapaxes(a, 0, 1),
  6: np.rot90,
  7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
  8: lambda a: np.rot90(a, -1),
}
for number, stored in AS_STORED.items():
  add(
    f'EXIF: a photo of orientation {number}',
    'folder',
    put_victim('photo', encode(stored(PHOTO), exif=exif(number))),
    notes=('train: 1 of 3 pictures have an EXIF orientation',) * (number > 1),
    check=has_colors(PHOTO),
  )
add(
  'EXIF: a jpeg of orientation 6',
  'folder',
  put_victim(
    'photo', encode(np.rot90(GRAY_RAMP), 'jpeg', quality=95, exif=exif(6))
  ),
  notes=('train: 1 of 3 pictures have an EXIF orientation',),
  check=has_colors(GRAY_RAMP, 0.05),
)


@case('EXIF: maps as stored', 'folder', '2.png', 'its EXIF orientation 6')
def _(root, options, monkeypatch):
  for kind, array in make_pixels(1).items():
    tags = {'exif': exif(6)} if kind == 'photo' else {}
    path = root / VICTIM.format(kind, 'png')
    write(path, np.ascontiguousarray(np.rot90(array)), **tags)
  options['image_size'] = SIZE  # of photos, any size is accepted


add(
  'EXIF: a mask that is turned too',
  'folder',
  put_victim('ids', encode(np.rot90(IDS), exif=exif(6))),
  notes=('train: 1 of 3 maps of semantic have an EXIF orientation',),
  check=are_ids,
)
add(
  'EXIF: damaged',
  'folder',
  put_victim('photo', encode(PHOTO, exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x05\x01')),
  check=has_colors(PHOTO),
)


@case('EXIF: normals', 'folder', '2.png', 'EXIF orientation (3)', 'vectors')
def _(root, options, monkeypatch):
  up = np.full((*SIZE, 3), (128, 128, 255), np.uint8)
  for path in FRAMES:
    write(root / f'{path.format("normal")}.png', up)
  write(root / VICTIM.format('normal', 'png'), up, exif=exif(3))
  options['normals'] = {'files': '{split}/normal/{frame}.png'}


# ---- Label maps --------------------------------------------------------------

for name, content, *parts in (
  ('colors', encode(np.stack([IDS] * 3, -1)), 'as in a color image'),
  ('transparency', encode(Image.fromarray(IDS), mode='LA'), '[h w]'),
  ('jpeg named .png', encode(IDS, 'jpeg'), 'a PNG', 'another kind: JPEG'),
  ('gif named .png', encode(IDS, 'gif'), 'another kind: GIF'),
  ('60000x60000 declared', declared_png(60000, 60000), 'pixels'),
  ('of another size', encode(IDS.T), '[12 16]', '[16, 12]'),
):
  add(f'mask: {name}', 'folder', put_victim('ids', content), '2.png', *parts)

for name, content in (
  ('palette', encode(palette())),
  ('16 bits', encode(IDS.astype(np.uint16))),
):
  add(f'mask: {name}', 'folder', put_victim('ids', content), check=are_ids)

for name, content, *parts in (
  ('fractions', IDS + np.float32(0.5), 'fractions'),
  ('NaN', with_value(IDS.astype(np.float32), np.nan), '1 NaN'),
  ('1e30', with_value(IDS.astype(np.float64), 1e30), '1e+30'),
  ('2**63', with_value(IDS.astype(np.uint64), 2**63), '9223372036854775808'),
  ('-2**63', with_value(IDS.astype(int), -(2**63)), '-9223372036854775808'),
  ('complex', IDS.astype(complex), 'complex'),
  ('objects', objects, 'Python objects'),
  ('an unknown id', with_value(IDS, 9), '9', 'semantic.ids'),
):
  add(
    f'mask as .npy: {name}', 'folder', as_npy('ids', content), '2.npy', *parts
  )

for name, content in (
  ('float16', IDS.astype(np.float16)),
  ('big endian', IDS.astype('>i4')),
  ('a channel', IDS[..., None]),
):
  add(f'mask as .npy: {name}', 'folder', as_npy('ids', content), check=are_ids)


def binary(values, **semantic):
  """All masks have these two values; there are two classes."""

  def damage(root, options, monkeypatch):
    for seed, path in enumerate(FRAMES):
      thing = (make_pixels(seed)['ids'] > 1).astype(int)
      array = np.array(values)[thing]
      array = array if array.dtype == bool else array.astype(np.uint8)
      write(root / f'{path.format("ids")}.png', array)
    files = {'files': '{split}/ids/{frame}.png'}
    options['semantic'] = files | {'classes': ('ground', 'thing')} | semantic

  return damage


def are_binary(samples):
  np.testing.assert_array_equal(victim(samples)['semantic'], IDS > 1)


MEND = ('folder.semantic.ids = (0, 255)', 'folder.semantic.ignore = (-1,)')
add('binary: 0 and 255 by default', 'folder', binary((0, 255)), *MEND)
add('binary: 255 not ignored', 'folder', binary((0, 255), ignore=()), *MEND)
add('binary: ids the other way', 'folder', binary((0, 255), ids=(1, 0)), *MEND)
add(
  'binary: as the message says',
  'folder',
  binary((0, 255), ids=(0, 255), ignore=(-1,)),
  check=are_binary,
)
add('binary: 0 and 1', 'folder', binary((0, 1)), check=are_binary)
add('binary: 1 bit', 'folder', binary((False, True)), check=are_binary)
add(
  'binary: one class',
  'folder',
  binary((0, 255), classes=('thing',), ids=(255,), ignore=(0,)),
  'semantic.classes',
  'two or more different names',
)
add(
  'binary: nothing but ground',
  'folder',
  binary((0, 0)),
  notes=('train: 1 of the 2 classes of semantic have no pixel: thing',),
)


@case('binary: ground and unlabeled in one frame', 'folder', check=are_binary)
def _(root, options, monkeypatch):
  binary((0, 1))(root, options, monkeypatch)
  write(root / 'train/ids/10.png', BINARY)


@case('binary: .npy of bool', 'folder', check=are_binary)
def _(root, options, monkeypatch):
  binary((0, 1))(root, options, monkeypatch)
  as_npy('ids', IDS > 1)(root, options, monkeypatch)


add(
  'mask: a class without pixels',
  'folder',
  put('val/ids/7.png', np.minimum(make_pixels(3)['ids'], 2)),
  notes=('val: 1 of the 3 classes of semantic have no pixel: car',),
)
METERS = DEPTH.astype(np.float64)
for name, content, *parts in (
  ('1e300', with_value(METERS, 1e300), '1e+297'),
  ('negative', with_value(METERS, -3), '-0.003', 'depth.invalid'),
  ('complex', METERS.astype(complex), 'complex'),
  ('colors', np.stack([METERS] * 3, -1), '[h w]'),
):
  add(
    f'depth as .npy: {name}', 'folder', as_npy('mm', content), '2.npy', *parts
  )
add('depth: jpeg', 'folder', put_victim('mm', encode(IDS, 'jpeg')), 'JPEG')


def has_no_depth(samples):
  depth = victim(samples)['depth'][..., 0]
  np.testing.assert_array_equal(depth == 0, METERS == METERS[-1, 4])


for value in (np.nan, np.inf, -np.inf):
  holes = np.where(METERS == METERS[-1, 4], value, METERS)
  add(
    f'depth as .npy: {value}', 'folder', as_npy('mm', holes), check=has_no_depth
  )
