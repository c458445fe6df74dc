"""Labels of any kind in a folder, as descriptions say; and what is refused."""

import io
import json
import zlib

import numpy as np
from PIL import Image
import pytest
from rich.console import Console

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.errors import InputError

H, W, COUNT = 6, 8, 3
ROAD, GRASS, CAR = (128, 64, 128), (0, 200, 0), (0, 0, 142)
NAMES = [f'{i:02d}' for i in range(COUNT)]
ROWS = [
  'picture,weather,temperature,has_car,has_tree,nose_x,nose_y,path',
  '00.png,sun,21.5,1,no,2,3,other/a.png',
  '01.png,rain,,0,,4.5,5,other/b.png',
  '02.png,,-3,yes,0,,,other/c.png',
]
WEATHER = {'kind': 'image_classes', 'classes': ('sun', 'rain')}


def values(index):
  """The labels of a picture, as they are to be read."""
  rng = np.random.default_rng(index)
  return {
    'ids': rng.integers(0, 3, (H, W)),
    'yes': rng.integers(0, 2, (H, W)),
    'many': rng.integers(0, 2, (H, W, 3)),
    'metres': rng.uniform(1, 90, (H, W)),
    'numbers': rng.normal(size=(H, W, 2)).astype(np.float32),
    'heat': rng.random((H, W, 2)).astype(np.float32),
  }


def save(path, array, mode=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array, mode).save(path)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with labels in all formats; tests do not change it."""
  root = tmp_path_factory.mktemp('data')
  for split in ('train', 'val'):
    for i, name in enumerate(NAMES):
      folder, of = root / split, values(i)
      image = np.full((H, W, 3), 40 * i, np.uint8)
      save(folder / f'image/{name}.png', image)
      save(root / f'other/{"abc"[i]}.png', image)
      save(folder / f'id/{name}.png', of['ids'].astype(np.uint8))
      save(
        folder / f'colors/{name}.png',
        np.array([ROAD, GRASS, CAR], np.uint8)[of['ids']],
      )
      palette = Image.fromarray(of['ids'].astype(np.uint8), 'P')
      palette.putpalette([*ROAD, *GRASS, *CAR])
      (folder / 'palette').mkdir(exist_ok=True)
      palette.save(folder / f'palette/{name}.png')
      save(folder / f'yes/{name}.png', (255 * of['yes']).astype(np.uint8))
      save(folder / f'gray/{name}.png', (40 + 99 * of['yes']).astype(np.uint8))
      bits = of['many'] @ [1, 2, 4]
      save(folder / f'bits/{name}.png', bits.astype(np.uint8))
      raw = np.rint(of['metres'] / 1000 * (256**3 - 1)).astype(np.int64)
      packed = np.stack([raw >> s & 255 for s in (0, 8, 16)], axis=-1)
      save(folder / f'rgb24/{name}.png', packed.astype(np.uint8))
      save(
        folder / f'mm/{name}.png', (1000 * of['metres'] / 2).astype(np.uint16)
      )
      save(folder / f'tif/{name}.tif', of['metres'].astype(np.float32))
      save(folder / f'mm16/{name}.tiff', (500 * of['metres']).astype(np.uint16))
      for kind in ('many', 'numbers', 'heat'):
        (folder / kind).mkdir(exist_ok=True)
        np.savez_compressed(folder / kind / f'{name}.npz', of[kind])
    (root / f'{split}.csv').write_text('\n'.join(ROWS) + '\n')
  lines = [
    dict(zip(ROWS[0].split(','), r.split(','), strict=True)) for r in ROWS[1:]
  ]
  both = [
    {**line, 'split': split, 'temperature': 1.5, 'day': day}
    for split in ('train', 'val')
    for day, line in enumerate(lines)
  ]
  text = '\n'.join(json.dumps(line) for line in both)
  (root / 'all.jsonl').write_text(text + '\n\n')
  colors = [('road', ROAD), ('grass', GRASS), ('car', CAR), ('car', (9, 9, 9))]
  (root / 'palette.txt').write_text(
    '# name r g b\n' + '\n'.join(f'{n} {r} {g} {b}' for n, (r, g, b) in colors)
  )
  (root / 'palette.csv').write_text(
    'name,r,g,b\n' + '\n'.join(f'{n},{r},{g},{b}' for n, (r, g, b) in colors)
  )
  (root / 'palette.json').write_text(
    json.dumps({'road': ROAD, 'grass': GRASS, 'car': CAR})
  )
  return root


def open_folder(root, maps, **options):
  return datasets.make('folder', data_dir=root, maps=maps, **options)


def read(root, description, index=0, **options):
  """The label of a picture of the training split."""
  dataset = open_folder(root, {'it': description}, **options)
  return dataset.source('train')[index]['it']


def described(kind, folder, suffix='png', **more):
  return {
    'kind': kind,
    'files': f'{{split}}/{folder}/{{frame}}.{suffix}',
    **more,
  }


THREE = {'classes': ('road', 'grass', 'car')}
MAPS = {
  'ids': (described('classes', 'id', **THREE), 'ids'),
  'ids of other numbers': (
    described(
      'classes', 'id', classes=('car', 'road'), ids=(2, 0), ignore=(1,)
    ),
    np.array([1, -1, 0]),
  ),
  'indices of a palette': (described('classes', 'palette', **THREE), 'ids'),
  'colors': (
    described('classes', 'colors', palette='palette.txt', **THREE),
    'ids',
  ),
  'colors of .csv': (
    described('classes', 'colors', palette='palette.csv', **THREE),
    'ids',
  ),
  'colors of a palette image': (
    described('classes', 'palette', palette='palette.json', **THREE),
    'ids',
  ),
  'some colors': (
    described(
      'classes', 'colors', classes=('car', 'road'), palette='palette.txt'
    ),
    np.array([1, -1, 0]),
  ),
  'black and white': (described('binary', 'yes'), 'yes'),
  'gray': (described('binary', 'gray', threshold=100), 'yes'),
  'channels': (described('multilabel', 'many', 'npz', **THREE), 'many'),
  'bits': (described('multilabel', 'bits', bits=True, **THREE), 'many'),
  'numbers': (described('regression', 'numbers', 'npz', channels=2), 'numbers'),
  'vectors': (described('vectors', 'numbers', 'npz'), 'numbers'),
  'heat maps': (
    described('heatmap', 'heat', 'npz', points=2, maps=True),
    'heat',
  ),
}


@pytest.mark.parametrize('name', MAPS)
def test_a_map_is_read_as_it_was_stored(root, name):
  description, expected = MAPS[name]
  for i in range(COUNT):
    of = values(i)
    right = of[expected] if isinstance(expected, str) else expected[of['ids']]
    np.testing.assert_array_equal(read(root, description, i), right)


@pytest.mark.parametrize(
  'description, tolerance',
  [
    (described('depth', 'rgb24', encoding='rgb24', scale=1000.0), 6e-5),
    (described('depth', 'mm', scale=0.002), 2e-3),
    (described('disparity', 'tif', 'tif'), 1e-5),
    (described('regression', 'mm16', 'tiff', scale=0.002), 2e-3),
  ],
  ids=lambda x: x['kind'] if isinstance(x, dict) else '',
)
def test_measurements_are_scaled(root, description, tolerance):
  found = read(root, description, 1)
  np.testing.assert_allclose(
    found[..., 0], values(1)['metres'], atol=tolerance, rtol=1e-6
  )


def test_colors_of_a_palette_are_those_of_pictures(root):
  dataset = open_folder(
    root, {'it': described('classes', 'colors', palette='palette.txt', **THREE)}
  )
  assert dataset.labels['it'].colors == (ROAD, GRASS, CAR)
  assert tuple(dataset.tasks()['it'].colors.swatches[2]) == (CAR, 'car')


def test_a_table_says_what_is_said_of_pictures(root):
  maps = {
    'weather': WEATHER,
    'temperature': {'kind': 'image_regression', 'unit': 'C', 'scale': 2.0},
    'has': {
      'kind': 'image_multilabel',
      'classes': ('car', 'tree'),
      'columns': ('has_car', 'has_tree'),
    },
    'nose': {'kind': 'heatmap', 'points': 1, 'columns': ('nose_x', 'nose_y')},
  }
  dataset = open_folder(root, maps, rows='{split}.csv', image_size=(12, 16))
  samples = [dataset.source('val')[i] for i in range(COUNT)]
  assert [int(s['weather']) for s in samples] == [0, 1, -1]
  np.testing.assert_equal(
    [s['temperature'][0] for s in samples], np.float32([43, np.nan, -6])
  )
  assert [s['has'].tolist() for s in samples] == [[1, 0], [0, -1], [1, 0]]
  # Twice the size, edge on edge.
  points = [[4.5, 6.5, 1], [9.5, 10.5, 1], [0, 0, 0]]
  np.testing.assert_array_equal([s['nose'][0] for s in samples], points)
  console = Console(file=io.StringIO(), width=200)
  check_dataset(dataset, ['train', 'val'], console=console)
  assert 'no picture: tree' in console.file.getvalue()  # which never is there


def test_json_lines_and_a_column_of_splits(root):
  maps = {
    'weather': {**WEATHER, 'column': 'weather'},
    'temperature': {'kind': 'image_regression'},
    'day': {'kind': 'image_classes', 'classes': ('2', '1', '0')},
  }
  # The pictures are those of the rows, whatever their names.
  dataset = open_folder(root, maps, rows='all.jsonl', image='{path}')
  source = dataset.source('train')
  assert len(source) == COUNT
  for i in range(COUNT):
    assert source[i]['image'][0, 0, 0] == pytest.approx(40 * i / 255)
    assert source[i]['temperature'] == 1.5
    assert source[i]['day'] == 2 - i  # a number in the file, a name here
  assert 'the same 3 pictures' in ' '.join(dataset.notes)


def test_pictures_without_a_row_may_be_allowed(root, tmp_path):
  short = tmp_path / 'short.csv'
  short.write_text('\n'.join(ROWS[:2]))
  options = {'rows': str(short), 'val': 'train'}
  with pytest.raises(InputError, match='a row for each of the 3') as error:
    open_folder(root, {'weather': WEATHER}, **options)
  assert error.value.argument == 'rows' and '01' in error.value.found
  dataset = open_folder(
    root, {'weather': WEATHER}, allow_missing=True, **options
  )
  source = dataset.source('train')
  assert [int(source[i]['weather']) for i in range(COUNT)] == [0, -1, -1]


def test_folders_tell_apart_pictures_of_one_name(root, tmp_path):
  table = tmp_path / 'table.csv'

  def rows(*names):
    words = ('sun', 'rain')
    lines = [f'{name},{words[i % 2]}' for i, name in enumerate(names)]
    table.write_text('\n'.join(['picture,weather', *lines]))
    return open_folder(root, {'weather': WEATHER}, rows=str(table))

  train, val = (
    [f'{split}/image/{name}.png' for name in NAMES]
    for split in ('train', 'val')
  )
  dataset = rows(*train, *[f'D:\\\\x\\{v}'.replace('/', '\\') for v in val])
  found = {
    split: [int(sample['weather']) for sample in dataset.source(split)]
    for split in ('train', 'val')
  }
  assert found == {'train': [0, 1, 0], 'val': [1, 0, 1]}
  with pytest.raises(InputError, match=r'a row for each of the 3.*of train'):
    rows(*val)
  with pytest.raises(InputError, match=r'may be .*train.* or .*val') as error:
    rows(*NAMES)
  assert "'split'" in error.value.do


def test_points_that_are_dropped_are_remarked_on(root, tmp_path):
  table = tmp_path / 'table.csv'
  nose = {'kind': 'heatmap', 'points': 2, 'columns': ('x', 'y', 'u', 'v')}
  table.write_text('picture,x,y,u,v\n00,1,2,7,5\n01,6,8,1,1\n02,.5,.5,.1,1\n')
  source = open_folder(
    root, {'nose': nose}, rows=str(table), val='train'
  ).source('train')
  remarks = [' '.join(source.examine(i)[1]) for i in range(COUNT)]
  assert not remarks[0]  # columns are up to 7
  assert 'points of nose are outside' in remarks[1]  # rows are up to 5
  assert 'from 0 to 1' in remarks[2]


def test_what_is_described_is_learned_so(root):
  maps = {
    'height': described('regression', 'tif', 'tif', loss='huber', unit='m')
  }
  task = open_folder(root, maps).tasks()['height']
  assert task.options == {'loss': 'huber'}
  assert task.columns['abs_error'].unit == 'm'
  preview = datasets.preview('folder', image_size=(H, W), maps=maps)
  assert preview.tasks()['height'].options == {'loss': 'huber'}


BAD = {
  'an unknown kind': (
    {'kind': 'clases'},
    'maps.it.kind',
    "did you mean 'classes'",
  ),
  'no kind': ({'files': 'a/{frame}.png'}, 'maps.it.kind', 'add it'),
  'an unknown entry': (
    described('binary', 'yes', treshold=3),
    'maps.it.treshold',
    "did you mean 'threshold'",
  ),
  'no files': ({'kind': 'depth'}, 'maps.it.files', ''),
  'files for a column': (
    described('image_classes', 'id', classes=('a', 'b')),
    'maps.it.files',
    'name the table in rows',
  ),
  'a column without a table': (WEATHER, 'rows', 'labels.csv'),
  'one class': (
    described('classes', 'id', classes=('a',)),
    'maps.it.classes',
    '',
  ),
  'a pair of an unknown class': (
    described('classes', 'id', pairs=(('road', 'gras'),), **THREE),
    'maps.it.pairs',
    "did you mean 'grass'",
  ),
  'points without a number': (
    {'kind': 'heatmap', 'columns': ('x', 'y')},
    'maps.it.points',
    '',
  ),
  'points without a size': (
    {
      'kind': 'heatmap',
      'points': 1,
      'sigma': 0,
      'columns': ('nose_x', 'nose_y'),
    },
    'described.it.sigma',
    '',
  ),
  'half a point': (
    {'kind': 'heatmap', 'points': 2, 'columns': ('nose_x', 'nose_y')},
    'maps.it.columns',
    '',
  ),
  'a class without a color': (
    described(
      'classes', 'colors', classes=('road', 'sky'), palette='palette.txt'
    ),
    'maps.it.palette',
    '',
  ),
  'no palette': (
    described('classes', 'colors', palette='no.txt', **THREE),
    'maps.it.palette',
    '',
  ),
}


@pytest.mark.parametrize('name', BAD)
def test_a_description_that_cannot_be_used_is_named(root, name):
  description, argument, advice = BAD[name]
  table = {} if name == 'a column without a table' else {'rows': '{split}.csv'}
  with pytest.raises(InputError) as error:
    open_folder(root, {'it': description}, **table).tasks()
  assert error.value.argument == argument
  assert advice in error.value.do


UNFIT = {
  'an unknown color': (
    described(
      'classes',
      'colors',
      classes=('road', 'car'),
      palette={'road': ROAD, 'car': CAR},
    ),
    '(0, 200, 0)',
  ),
  'a picture for a number': (described('regression', 'colors'), '[6, 8, 3]'),
  'gray for yes or no': (described('binary', 'gray'), '40, 139'),
  'ids for yes or no': (described('binary', 'id'), '0, 1, 2'),
  'unknown ids': (described('classes', 'id', classes=('a', 'b')), '2'),
  'numbers for vectors': (described('normals', 'tif', 'tif'), '[6, 8]'),
  'one channel for two': (
    described('regression', 'tif', 'tif', channels=2),
    '[6, 8, 1]',
  ),
}


@pytest.mark.parametrize('name', UNFIT)
def test_files_of_another_kind_are_named(root, name):
  description, found = UNFIT[name]
  with pytest.raises(InputError) as error:
    read(root, description)
  assert found in error.value.found
  assert '00.' in error.value.where


def make_one(folder, **maps):
  """A folder of one picture, with the function that makes each map."""
  (folder / 'train/image').mkdir(parents=True)
  save(folder / 'train/image/a.png', np.zeros((H, W, 3), np.uint8))
  for name, write in maps.items():
    (folder / 'train' / name).mkdir()
    write(folder / 'train' / name / 'a')
  return folder


def write_gray(path, array, bits):
  """A PNG of a few bits, as programs that make files small write it."""
  rows = [
    np.packbits(
      np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:].ravel()
    ).tobytes()
    for row in array
  ]

  def chunk(kind, content):
    head = len(content).to_bytes(4, 'big') + kind + content
    return head + zlib.crc32(kind + content).to_bytes(4, 'big')

  size = array.shape[1].to_bytes(4, 'big') + array.shape[0].to_bytes(4, 'big')
  path.with_suffix('.png').write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', size + bytes([bits, 0, 0, 0, 0]))
    + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows)))
    + chunk(b'IEND', b'')
  )


@pytest.mark.parametrize('bits', [2, 4])
def test_gray_of_few_bits_keeps_its_numbers(bits, tmp_path):
  ids = np.arange(H * W).reshape(H, W) % 2**bits
  root = make_one(tmp_path, small=lambda path: write_gray(path, ids, bits))
  classes = tuple(f'c{i}' for i in range(2**bits))
  maps = {'it': described('classes', 'small', classes=classes)}
  source = open_folder(root, maps, val='train').source('train')
  np.testing.assert_array_equal(source[0]['it'], ids)


def test_numbers_are_those_of_the_file(tmp_path):
  """Options are compared as the file rounds them; nothing is guessed."""
  heights = np.full((H, W), 65.535, np.float32)
  heights[0] = 2.5
  pages = [Image.fromarray(np.uint8([[i]])) for i in range(2)]
  root = make_one(
    tmp_path,
    heights=lambda path: np.save(path, heights),
    heat=lambda path: np.save(path, np.full((H, W), 255)),
    pages=lambda path: pages[0].save(
      path.with_suffix('.tif'), save_all=True, append_images=pages[1:]
    ),
  )

  def read_one(description):
    dataset = open_folder(root, {'it': description}, val='train')
    return dataset.source('train')[0]['it'][..., 0]

  depth = described('depth', 'heights', 'npy', invalid=(65.535,))
  assert read_one(depth)[1:].max() == 0 and (read_one(depth)[0] == 2.5).all()
  number = {**depth, 'kind': 'regression'}
  assert np.isnan(read_one(number)[1:]).all()
  heat = described('heatmap', 'heat', 'npy', points=1, maps=True)
  with pytest.raises(InputError, match=r'int64.*255[^$]*scale'):
    read_one(heat)
  assert (read_one({**heat, 'scale': 1 / 255}) == 1).all()
  with pytest.raises(InputError, match='2 pages'):
    read_one(described('regression', 'pages', 'tif'))


ROWS_BAD = {
  'of no picture': ('picture,weather\n00,sun\n77,sun\n', 'line 3', "'77'"),
  'of one picture twice': (
    'picture,weather\n00,sun\n00,sun\n',
    'picture',
    '2 and 3',
  ),
  'with an unknown class': (
    'picture,weather\n00,sun\n01,snow\n02,sun\n',
    "line 3, column 'weather'",
    'snow',
  ),
  'without the column': ('picture,wether\n00,sun\n', '', "'weather'"),
  'with a number too large': (
    'picture,weather,height\n00,sun,1\n01,rain,1e39\n02,sun,2\n',
    "line 3, column 'height'",
    '1e39',
  ),
  'with a quote in the titles': ('"picture"s,weather\n00,sun\n', 'line', "'"),
  'with too few cells': ('picture,weather\n00\n', 'line 2', 'another number'),
  'without rows': ('picture,weather\n', 'table.csv', 'none'),
  'that are none': ('', 'table.csv', ''),
}


@pytest.mark.parametrize('name', ROWS_BAD)
def test_bad_rows_are_named_with_their_line(root, tmp_path, name):
  text, where, found = ROWS_BAD[name]
  table = tmp_path / 'table.csv'
  table.write_text(text)
  with pytest.raises(InputError) as error:
    maps = {'weather': WEATHER}
    if 'height' in text:
      maps['height'] = {'kind': 'image_regression'}
    dataset = open_folder(root, maps, rows=str(table), val='train')
    [dataset.source('train')[i] for i in range(COUNT)]
  assert where in error.value.where
  assert found in error.value.found


def test_two_descriptions_of_one_task_are_refused(root):
  with pytest.raises(InputError, match='one description of depth') as error:
    open_folder(
      root,
      {'depth': described('depth', 'mm')},
      depth={'files': '{split}/mm/{frame}.png'},
    )
  assert error.value.argument == 'maps.depth'
