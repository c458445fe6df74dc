"""Hostile names, lists, options and folders."""

import json
import os
import shutil

from hostile import (
  IDS,
  PHOTO,
  VICTIM,
  add,
  case,
  make_pixels,
  put,
  renamed,
)
from hostile_pictures import are_ids
import numpy as np
from PIL import Image

KINDS = ('photo', 'ids', 'mm')


def rename_victim(root, name):
  for kind in KINDS:
    path = root / VICTIM.format(kind, 'png')
    path.rename(path.with_name(name))
  return root / 'train/photo' / name


def as_jpegs(root, options):
  for path in root.glob('*/photo/*.png'):
    with Image.open(path) as image:
      image.save(path.with_suffix('.jpg'), quality=95)
    path.unlink()
  options['image'] = '{split}/photo/{frame}.jpg'


# ---- Names in a folder -------------------------------------------------------

add(
  'names: .PNG',
  'folder',
  renamed('train/photo/2.png', 'train/photo/2.PNG'),
  'image',
  '1 beside 2 that differ in the case of letters or in the ending: '
  'train/photo/2.PNG',
)
add(
  'names: .Png and nothing else',
  'folder',
  renamed('val/photo/7.png', 'val/photo/7.Png'),
  '1 beside 0',
  'val/photo/7.Png',
)


@case('names: .jpeg beside .jpg', 'folder', '1 beside 2', 'train/photo/2.jpeg')
def _(root, options, monkeypatch):
  as_jpegs(root, options)
  (root / 'train/photo/2.jpg').rename(root / 'train/photo/2.jpeg')


@case(
  'names: one frame as .jpg and .JPG',
  'folder',
  notes=('train: not used', 'two pictures of one name (1): train/photo/2.JPG'),
)
def _(root, options, monkeypatch):
  as_jpegs(root, options)
  shutil.copy(root / 'train/photo/2.jpg', root / 'train/photo/2.JPG')


add(
  'names: .tif beside .png',
  'folder',
  put('train/photo/5.tif', PHOTO),
  notes=('train: not used', '{split}/photo/{frame}.png (1): train/photo/5.tif'),
)


@case('names: other kinds of files', 'folder', check=are_ids)
def _(root, options, monkeypatch):
  for name in ('.2.png', '._1.png', 'Thumbs.db', 'readme.txt', '2.png~'):
    (root / 'train/photo' / name).write_bytes(b'no picture')


@case('names: masks beside photos', 'folder', check=are_ids)
def _(root, options, monkeypatch):
  as_jpegs(root, options)
  for path in [*root.glob('*/ids/*.png'), *root.glob('*/photo/*.jpg')]:
    path.rename(path.parents[1] / path.name)
  options['image'] = '{split}/{frame}.jpg'
  options['semantic'] = options['semantic'] | {'files': '{split}/{frame}.png'}


for allowed in (False, True):

  @case(f'names: a mask .PNG, allow_missing={allowed}', 'folder', '2.PNG')
  def _(root, options, monkeypatch, allowed=allowed):
    (root / 'train/ids/2.png').rename(root / 'train/ids/2.PNG')
    options['allow_missing'] = allowed


add(
  'names: a mask without a picture',
  'folder',
  put('train/ids/5.png', IDS),
  notes=('train: semantic: not used', 'names (1): train/ids/5.png'),
)
add(
  'names: a folder in another case',
  'folder',
  renamed('train/photo', 'train/Photo'),
  'train contains Photo, ids, mm',
)
add(
  'names: an empty split',
  'folder',
  lambda root, *_: (root / 'val/photo/7.png').unlink(),
  'images val/photo/*.png',
  'none; val/photo contains nothing',
)
STRANGE = 'größe [1] {x} \n%s *'


@case('names: strange ones', 'folder', check=lambda s: s['train'][2])
def _(root, options, monkeypatch):
  inner = root / STRANGE
  inner.mkdir()
  for split in ('train', 'val'):
    (root / split).rename(inner / split)
    for path in (inner / split).glob('*/*.png'):
      path.rename(path.with_name(f'{path.stem} {STRANGE}.png'))
  options['data_dir'] = str(inner)


@case('names: a strange one is damaged', 'folder', r'1\n2.png', 'empty')
def _(root, options, monkeypatch):
  rename_victim(root, '1\n2.png').write_bytes(b'')


@case('names: not UTF-8', 'folder', r'\xff.png', 'empty')
def _(root, options, monkeypatch):
  rename_victim(root, os.fsdecode(b'\xff.png')).write_bytes(b'')


@case('names: superscript digits', 'folder', check=lambda s: s['train'][2])
def _(root, options, monkeypatch):
  rename_victim(root, '²³.png')


@case('names: {frame} twice', 'folder', check=are_ids)
def _(root, options, monkeypatch):
  for path in list(root.glob('*/photo/*.png')):
    (path.parent / path.stem).mkdir()
    path.rename(path.parent / path.stem / path.name)
  options['image'] = '{split}/photo/{frame}/{frame}.png'


# ---- Lists -------------------------------------------------------------------


def listed(content, **changes):
  """The training frames are those of a list."""

  def damage(root, options, monkeypatch):
    (root / 'list.txt').write_bytes(content)
    options['train'] = 'list.txt'
    for key in ('image', 'semantic', 'depth'):
      text = json.dumps(options[key]).replace('{split}', 'train')
      options[key] = json.loads(text)
    options |= {'val': ''} | changes

  return damage


def are_frames(*seeds):
  def check(samples):
    photos = [s['image'] for s in samples['train']]
    for photo, seed in zip(photos, seeds, strict=True):
      expected = make_pixels(seed)['photo'] / 255
      np.testing.assert_allclose(photo, expected, atol=1e-6)

  return check


add('list: CRLF', 'folder', listed(b'2\r\n1\r\n'), check=are_frames(1, 0))
add('list: BOM', 'folder', listed(b'\xef\xbb\xbf2\n1'), check=are_frames(1, 0))
for name, content, *parts in (
  ('UTF-16', '2\n1'.encode('utf-16'), 'in UTF-8'),
  ('empty', b'\n \n', 'no name'),
  ('a frame twice', b'1\n2\n1', "'1' twice"),
  ('endings', b'1.png\n2.png', 'list the frames without .png'),
  ('a zero byte', b'1\n\0\n', 'null byte'),
  ('a long line', b'x' * 9000, 'File name too long'),
  ('no such frame', b'1\n3', "the first for '3'"),
):
  add(f'list: {name}', 'folder', listed(content), *parts)
add(
  'list: a frame of two splits',
  'folder',
  listed(b'1\n2\n', test='list.txt'),
  notes=('train and test have the same 2 pictures',),
)


@case('list: another Unicode form', 'folder', 'another name, though similar')
def _(root, options, monkeypatch):
  rename_victim(root, 'e\u0301.png')
  listed('\u00e9\n1'.encode())(root, options, monkeypatch)


# ---- Options -----------------------------------------------------------------

for name, changes, *parts in (
  ('no {split}', {'image': 'train/photo/{frame}.png'}, 'image', '{split}'),
  ('an open brace', {'image': '{split}/photo/{frame.png'}, 'image'),
  ('no text', {'image': None}, 'image'),
  ('an absolute split', {'val': '/etc'}, 'val'),
  ('a split with a brace', {'val': '{frame}'}, 'val'),
  ('a list that is a folder', {'val': 'list.txt'}, 'val', 'a folder'),
  ('a list that is a pipe', {'val': 'pipe.txt'}, 'val', 'not a regular file'),
  ('image_size of text', {'image_size': '96x128'}, 'image_size'),
  ('image_size of one number', {'image_size': 64}, 'image_size'),
  ('image_size of fractions', {'image_size': (9.5, 8)}, 'image_size'),
  ('image_size below 1', {'image_size': (0, 8)}, 'image_size'),
  ('image_size of 1e12 pixels', {'image_size': (10**6, 10**6)}, 'image_size'),
  ('semantic of text', {'semantic': 'ids'}, 'semantic'),
  ('classes of text', {'classes': 'road'}, 'semantic.classes'),
  ('classes of numbers', {'classes': (1, 2, 3)}, 'semantic.classes'),
  ('ids of one number', {'ids': 1}, 'semantic.ids'),
  ('ids of fractions', {'ids': (1.5, 2, 3)}, 'semantic.ids'),
  ('ignore of text', {'ignore': '255'}, 'semantic.ignore'),
  ('scale of text', {'scale': '0.001'}, 'depth.scale'),
  ('scale of NaN', {'scale': float('nan')}, 'depth.scale'),
  ('invalid of text', {'invalid': 'x'}, 'depth.invalid'),
  ('invalid of one number', {'invalid': 0}, 'depth.invalid'),
):

  @case(f'options: {name}', 'folder', *parts)
  def _(root, options, monkeypatch, changes=changes):
    (root / 'list.txt').mkdir()
    os.mkfifo(root / 'pipe.txt')
    for key, value in changes.items():
      if key in ('classes', 'ids', 'ignore'):
        options['semantic'] = options['semantic'] | {key: value}
      elif key in ('scale', 'invalid'):
        options['depth'] = options['depth'] | {key: value}
      else:
        options[key] = value


for reader in ('scenes', 'cityscapes', 'nyuv2_mat'):
  for name, size in {
    'of text': '96x128',
    'of one number': 64,
    'of fractions': (16.5, 24),
    'of None': None,
    'below 1': (-32, 48),
  }.items():

    @case(f'{reader}: image_size {name}', reader, 'image_size')
    def _(root, options, monkeypatch, size=size):
      options['image_size'] = size


for name, changes, *parts in (
  ('num_train of a fraction', {'num_train': 2.5}, 'num_train'),
  ('num_train of text', {'num_train': '2'}, 'num_train'),
  ('seed below 0', {'seed': -1}, 'seed'),
  ('num_val of 10**12', {'num_val': 10**12}, 'num_val'),
):

  @case(f'scenes: {name}', 'scenes', *parts)
  def _(root, options, monkeypatch, changes=changes):
    options.update(changes)


# ---- The folder itself, of every reader --------------------------------------

PLACES = {
  'a file': lambda root: str(root / 'a file'),
  'of nobody': lambda root: '~nobody-of-this-name/data',
  'with a zero byte': lambda root: 'a\0b',
  'too long': lambda root: 'x' * 5000,
  'a link to itself': lambda root: str(root / 'link'),
}
READ_ONLY = {'that cannot be made': lambda root: '/proc/x'}
for reader, argument, places in (
  ('folder', 'data_dir', PLACES),
  ('nyuv2', 'data_dir', PLACES),
  ('cityscapes_npy', 'data_dir', PLACES),
  ('nyuv2_mat', 'data_dir', PLACES),
  ('cityscapes', 'manual_dir', PLACES),
  ('cityscapes', 'data_dir', PLACES | READ_ONLY),
  ('scenes', 'data_dir', PLACES | READ_ONLY),
):
  for name, place in places.items():

    @case(f'{reader}: {argument} {name}', reader, argument)
    def _(root, options, monkeypatch, argument=argument, place=place):
      (root / 'a file').write_bytes(b'')
      (root / 'link').symlink_to(root / 'link')
      options[argument] = place(root)
