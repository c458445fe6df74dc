"""Hostile dumps as .npy, archives of Cityscapes and of NYU-v2, full disks."""

import errno
import shutil
import struct
import zipfile

from array_record.python import array_record_module
from fixtures import cityscapes_files
import h5py
from hostile import (
  add,
  array_bytes,
  case,
  declared_npy,
  declared_png,
  encode,
  exif,
  instead,
  objects,
  put,
  renamed,
  to_itself,
  unreadable,
  with_value,
  write,
)
import numpy as np
from PIL import Image
import scipy.io
import scipy.sparse

# ---- The dumps as .npy -------------------------------------------------------

DUMP = np.random.default_rng(5).random((32, 48, 3)).astype(np.float32)
for name, content, *parts in (
  ('0 bytes', b'', 'an empty file'),
  ('cut short', array_bytes(DUMP)[:-50], 'cut short'),
  ('objects', objects, 'Python objects'),
  ('1e12 values declared', declared_npy((10**6, 10**6, 3)), 'pixels'),
  ('complex', DUMP.astype(complex), 'complex'),
  ('bytes', (255 * DUMP).astype(np.uint8), 'uint8'),
  ('bool', DUMP > 0.5, 'bool'),
  ('NaN', with_value(DUMP, np.nan), '3 NaN'),
  ('channels first', DUMP.transpose(2, 0, 1), '[3, 32, 48]'),
):
  for reader in ('nyuv2', 'cityscapes_npy'):
    damage = put('train/image/1.npy', content)
    add(f'{reader}: image, {name}', reader, damage, '1.npy', *parts)

LABEL, VECTORS = np.zeros((32, 48)), np.ones((32, 48, 3))
for name, path, content, *parts in (
  ('an unknown class', 'label/1', with_value(LABEL, 13), '0..12'),
  ('1e30 as class', 'label/1', with_value(LABEL, 1e30), '0..12'),
  ('fractions as classes', 'label/1', with_value(LABEL, 0.5), 'fractions'),
  ('bool as classes', 'label/1', LABEL > 0, 'bool'),
  ('depth below 0', 'depth/1', with_value(LABEL, -1), 'meters'),
  ('depth of 1e300', 'depth/1', with_value(LABEL, 1e300), '1e+300'),
  ('depth of infinity', 'depth/1', with_value(LABEL, np.inf), 'infinite'),
  ('normals of length 2', 'normal/1', 2 * VECTORS, 'unit vectors'),
  ('normals of 1e300', 'normal/1', 1e300 * VECTORS, 'unit vectors'),
  ('normals of NaN', 'normal/1', np.nan * VECTORS, 'NaN'),
):
  damage = put(f'train/{path}.npy', content)
  add(f'nyuv2: {name}', 'nyuv2', damage, f'{path}.npy', *parts)


def every_folder(change):
  """Changes the files of all folders of the training split alike."""

  def damage(root, options, monkeypatch):
    for kind in ('image', 'label', 'depth', 'normal'):
      change(root / 'train' / kind)

  return damage


add(
  'nyuv2: files of macOS',
  'nyuv2',
  every_folder(lambda folder: write(folder / '._0.npy', b'Mac OS X')),
  check=lambda samples: samples['train'][1],
)
add(
  'nyuv2: .NPY',
  'nyuv2',
  every_folder(lambda f: (f / '1.npy').rename(f / '1.NPY')),
  'frames named *.npy',
  '1 others: 1.NPY',
)
add(
  'nyuv2: superscript digits',
  'nyuv2',
  every_folder(lambda f: (f / '1.npy').rename(f / '²³.npy')),
  check=lambda samples: samples['train'][1],
)


@case('nyuv2: a label folder in another case', 'nyuv2', 'depth', 'Depth')
def _(root, options, monkeypatch):
  for split in ('train', 'val'):
    (root / split / 'depth').rename(root / split / 'Depth')


add(
  'nyuv2: a label folder of one split',
  'nyuv2',
  lambda root, *_: shutil.rmtree(root / 'train/depth'),
  notes=('val/depth is not used, because train/ has no such folder',),
)
for name, make, *parts in (
  ('a folder as a file', lambda path: path.mkdir(), 'a folder of that name'),
  ('a link to itself', to_itself, 'a link that leads to no file'),
):
  damage = instead('train/image/1.npy', make)
  add(f'nyuv2: {name}', 'nyuv2', damage, '1.npy', *parts)
add('nyuv2: not readable', 'nyuv2', unreadable('l/1.npy'), 'Permission denied')


# ---- The archives of Cityscapes ----------------------------------------------

BOCHUM = 'train/bochum/bochum_000000_000313'
STREET = f'leftImg8bit/{BOCHUM}_leftImg8bit.png'
ZIP = 'leftImg8bit_trainvaltest.zip'
PIXELS = cityscapes_files.make_frame(2, (64, 96))['leftImg8bit']


def zipped(part, more):
  """Writes an archive again, with other contents or more."""

  def damage(root, options, monkeypatch):
    path = root / f'{part}_trainvaltest.zip'
    with zipfile.ZipFile(path) as archive:
      files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
      for name, content in (files | more).items():
        archive.writestr(name, content)

  return damage


def in_headers(name, local, central, value):
  """Overwrites a field in both headers of a file in an archive.

  Args:
    name: of the file.
    local: where the field is in the header in front of the file.
    central: where it is in the directory at the end, which is believed.
    value: the bytes.
  """

  def damage(root, options, monkeypatch):
    content = bytearray((root / ZIP).read_bytes())
    for start in (
      content.index(name.encode()) - 30 + local,
      content.rindex(name.encode()) - 46 + central,
    ):
      content[start : start + len(value)] = value
    (root / ZIP).write_bytes(content)

  return damage


def street(content):
  return zipped('leftImg8bit', {STREET: content})


add(
  'cityscapes: paths with ../',
  'cityscapes',
  zipped(
    'leftImg8bit',
    {
      '../../escaped.png': b'x',
      '/tmp/escaped.png': b'x',
      'leftImg8bit/train/../../../escaped.png': b'x',
    },
  ),
  check=lambda samples: samples['train'][2],
)
for name, damage, *parts in (
  ('0 bytes', put(ZIP, b''), ZIP, 'a complete zip archive'),
  ('a web page', put(ZIP, b'<html>log in</html>'), ZIP, 'a complete zip'),
  ('not readable', unreadable(ZIP), ZIP, 'Permission denied', 'allow'),
  ('a folder', instead(ZIP, lambda path: path.mkdir()), ZIP, 'neither'),
  (
    'another name',
    renamed(ZIP, f'{ZIP[:-4]} (1).zip'),
    'neither; it contains',
    ' (1).zip',
  ),
  (
    'a file of 4 GB',
    in_headers(STREET, 22, 24, struct.pack('<I', 0xFFFFFFF0)),
    STREET,
    '4,294,967,280 bytes once it is unpacked',
  ),
  ('encrypted', in_headers(STREET, 6, 8, b'\1'), STREET, 'encrypted'),
  (
    'unknown compression',
    in_headers(STREET, 8, 10, b'\x4d'),
    STREET,
    'NotImpl',
  ),
  (
    '60000x60000 declared',
    street(declared_png(60000, 60000)),
    STREET,
    'pixels',
  ),
  (
    'the first 60000x60000',
    zipped(
      'leftImg8bit',
      {
        'leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png': (
          declared_png(60000, 60000)
        )
      },
    ),
    'aachen_000000_000019',
    'pixels',
  ),
  (
    'palette',
    street(encode(Image.fromarray(PIXELS).quantize(8))),
    STREET,
    "'P'",
  ),
  ('EXIF', street(encode(PIXELS, exif=exif(3))), STREET, 'EXIF', '3'),
):
  add(f'cityscapes: {name}', 'cityscapes', damage, *parts)


for name, content in (
  ('0 bytes', b''),
  ('100000 brackets', b'[' * 100_000),
  (
    'a number of 400 digits',
    b'{"extrinsic": {"baseline": 1%s}, "intrinsic": {"fx": 1}}' % (b'0' * 400),
  ),
  ('NaN', b'{"extrinsic": {"baseline": NaN}, "intrinsic": {"fx": 1}}'),
  ('a list', b'[1, 2]'),
  ('not UTF-8', b'\xff\xfe'),
):

  @case(f'cityscapes: camera, {name}', 'cityscapes', BOCHUM, 'baseline')
  def _(root, options, monkeypatch, content=content):
    options['depth'] = 'depth'
    file = {f'camera/{BOCHUM}_camera.json': content}
    zipped('camera', file)(root, options, monkeypatch)


def unpacked(damage):
  def unpack(root, options, monkeypatch):
    for path in root.glob('*_trainvaltest.zip'):
      with zipfile.ZipFile(path) as archive:
        archive.extractall(root)
      path.unlink()
    damage(root, options, monkeypatch)

  return unpack


@unpacked
def linked_city(root, options, monkeypatch):
  for tree in ('leftImg8bit', 'gtFine', 'disparity', 'camera'):
    city = root / tree / 'train/bochum'
    city.rename(root / f'{tree} elsewhere')
    city.symlink_to(root / f'{tree} elsewhere')


@unpacked
def in_a_circle(root, options, monkeypatch):
  (root / 'leftImg8bit/train/loop').symlink_to(root / 'leftImg8bit/train')


@unpacked
def in_another_case(root, options, monkeypatch):
  for path in root.glob('*/train/bochum/*.png'):
    path.rename(path.with_suffix('.PNG'))


for name, damage in (
  ('a city that is a link', linked_city),
  ('a link to its parent', in_a_circle),
):
  add(
    f'cityscapes: {name}', 'cityscapes', damage, check=lambda s: s['train'][2]
  )
add(
  'cityscapes: .PNG', 'cityscapes', in_another_case, '1 that differ in the case'
)
for name, damage, *parts in (
  ('a folder as a file', instead(STREET, lambda path: path.mkdir()), 'bochum'),
  ('a file not readable', unreadable('313_leftImg8bit.png'), 'Permission'),
):
  add(f'cityscapes: {name}', 'cityscapes', unpacked(damage), *parts)


# ---- Full disks --------------------------------------------------------------


def full_in_records(root, options, monkeypatch):
  def write(self, record):
    raise RuntimeError('write() failed: No space left on device')  # as it does

  monkeypatch.setattr(array_record_module.ArrayRecordWriter, 'write', write)


def full_in_folders(root, options, monkeypatch):
  def makedirs(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr('os.mkdir', makedirs)


for reader in ('scenes', 'cityscapes'):
  for name, damage in (
    ('records', full_in_records),
    ('folders', full_in_folders),
  ):
    parts = 'data_dir', 'No space left on device', ' MB to spare'
    add(f'{reader}: a full disk, {name}', reader, damage, *parts)


# ---- The archive of NYU-v2 ---------------------------------------------------

MAT = 'nyu_depth_v2_labeled.mat'


def in_archive(change):
  def damage(root, options, monkeypatch):
    with h5py.File(root / MAT, 'r+') as file, np.errstate(all='ignore'):
      change(file)

  return damage


def field(name, make):
  """Replaces a field by another array, or by whatever HDF5 accepts."""

  def change(file):
    new = make(file[name][:])
    del file[name]
    file[name] = new

  return in_archive(change)


def emptied(file):
  for name in ('images', 'depths', 'rawDepths', 'labels'):
    none = file[name][:0]
    del file[name]
    file[name] = none


def as_group(file):
  del file['images']
  file.create_group('images')


for name, damage, *parts in (
  ('0 bytes', put(MAT, b''), 'HDF5'),
  ('a web page', put(MAT, b'<html>'), 'HDF5'),
  (
    'an older format',
    put(MAT, lambda p: scipy.io.savemat(p, {'a': 1})),
    'HDF5',
  ),
  (
    'a folder',
    instead(MAT, lambda path: path.mkdir()),
    'a folder of that name',
  ),
  ('a link', field('images', lambda a: h5py.SoftLink('/nothing')), 'images'),
  (
    'a link to another file',
    field('images', lambda a: h5py.ExternalLink('/etc/hostname', '/x')),
    'images',
  ),
  ('a group', in_archive(as_group), 'images is no array'),
  ('a scalar', field('images', lambda a: np.uint8(3)), 'images'),
  ('no frames', in_archive(emptied), 'images [0, 3, 640, 480]'),
  ('depth of NaN', field('depths', lambda a: a * np.nan), 'nan to nan'),
  ('depth of infinity', field('depths', lambda a: a + np.inf), 'inf to inf'),
  ('millimeters', field('depths', lambda a: a * 1000), 'meters in depths'),
  ('depth below 0', field('depths', lambda a: -a), 'meters in depths'),
  ('complex depth', field('depths', lambda a: a.astype('c8')), 'complex64'),
  ('depth of integers', field('depths', lambda a: a.astype('i4')), 'int32'),
  ('labels of int16', field('labels', lambda a: a.astype('i2')), 'int16'),
):
  add(f'nyuv2_mat: {name}', 'nyuv2_mat', damage, MAT, *parts)
add(
  'nyuv2_mat: big endian',
  'nyuv2_mat',
  field('depths', lambda a: a.astype('>f8')),
  check=lambda samples: samples['train'][1],
)

for name, train, *parts in (
  ('NaN', [[1.0], [np.nan]], 'whole numbers from 1 to 3 in trainNdxs', 'nan'),
  ('0', [[0], [1]], 'whole numbers from 1 to 3 in trainNdxs'),
  ('1e30', [[1e30]], '1e+30'),
  ('a frame of both', [[1], [3]], 'in both'),
  ('no frame', [], 'none'),
  ('text', 'abc', 'a row or column of numbers in trainNdxs'),
  ('sparse', scipy.sparse.csc_array(np.eye(2)), 'sparse'),
  ('complex', [[1j]], 'a row or column of numbers in trainNdxs'),
  (
    'a cell',
    np.array([[1]], object),
    'a row or column of numbers in trainNdxs',
  ),
):
  fields = {'trainNdxs': train, 'testNdxs': [[3]]}
  damage = put('splits.mat', lambda p, f=fields: scipy.io.savemat(p, f))
  add(f'nyuv2_mat: splits, {name}', 'nyuv2_mat', damage, 'splits.mat', *parts)

for name, damage, *parts in (
  ('0 bytes', put('splits.mat', b''), 'a readable MATLAB file'),
  ('a web page', put('splits.mat', b'<html>' * 99), 'a readable MATLAB file'),
  ('a folder', instead('splits.mat', lambda p: p.mkdir()), 'a folder of that'),
  ('not readable', unreadable('splits.mat'), 'Permission denied'),
):
  add(f'nyuv2_mat: splits, {name}', 'nyuv2_mat', damage, 'splits.mat', *parts)


UP = np.full((480, 640, 3), (128, 128, 255), np.uint8)


def with_normals(damage):
  def given(root, options, monkeypatch):
    options['normals_dir'] = str(root / 'given')
    for i in range(3):
      write(root / f'given/normals/{i:04}.png', UP)
      write(root / f'given/masks/{i:04}.png', UP[..., 2])
    damage(root, options, monkeypatch)

  return given


for name, damage, *parts in (
  (
    'a frame without its mask',
    lambda root, *_: (root / 'given/masks/0001.png').unlink(),
    'a mask for each frame',
    '0001.png',
  ),
  (
    'normals with EXIF',
    put('given/normals/0001.png', UP, exif=exif(3)),
    '0001.png',
    'EXIF orientation (3)',
  ),
  (
    'normals .PNG',
    renamed('given/normals/0001.png', 'given/normals/0001.PNG'),
    '0001.png, where there is 0001.PNG',
  ),
):
  add(f'nyuv2_mat: {name}', 'nyuv2_mat', with_normals(damage), *parts)
