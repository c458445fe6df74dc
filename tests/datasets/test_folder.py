"""Your own data: samples match the description, and errors name the cause."""

from concurrent import futures
import io
import pickle
import re

from fixtures.bucket import upload
from fixtures.paths import REPOSITORY
import numpy as np
from PIL import Image
import pytest
from rich.console import Console

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.datasets.folder import dataset as folder_dataset
from mtl_kd_jax.errors import InputError

SIZE = (12, 16)
SEMANTIC = {
  'files': '{split}/class/{frame}.png',
  'classes': ('road', 'tree', 'car'),
  'ids': (7, 21, 26),
  'ignore': (0, 255),
}
DEPTH = {
  'files': '{split}/mm/{frame}.png',
  'quantity': 'depth',
  'unit': 'm',
  'scale': 0.001,
  'invalid': (0,),
}
NORMALS = {'files': '{split}/normal/{frame}.npy', 'invalid': (0, 0, 0)}


def make_frame(seed, size=SIZE):
  """Stored arrays of a frame, of the dtypes that their files have."""
  rng = np.random.default_rng(seed)
  normal = rng.normal(size=(*size, 3))
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  normal[rng.random(size) < 0.1] = 0
  return {
    'rgb': rng.integers(0, 256, (*size, 3)).astype(np.uint8),
    'class': rng.choice([0, 7, 21, 26, 255], size).astype(np.uint8),
    'mm': rng.choice([0, 500, 1234, 20000], size).astype(np.uint16),
    'normal': normal.astype(np.float32),
  }


def save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)


def write_frame(root, name, frame):
  for kind, array in frame.items():
    suffix = 'npy' if kind == 'normal' else 'png'
    save(root / kind / f'{name}.{suffix}', array)


@pytest.fixture
def root(tmp_path):
  """Training frames a1, a2, a10 and the validation frame b1."""
  for seed, name in enumerate(('a1', 'a2', 'a10')):
    write_frame(tmp_path / 'training', name, make_frame(seed))
  write_frame(tmp_path / 'held', 'b1', make_frame(3))
  return tmp_path


def open_folder(root, **changes):
  options = {
    'train': 'training',
    'val': 'held',
    'image': '{split}/rgb/{frame}.png',
    'semantic': SEMANTIC,
    'depth': DEPTH,
    'normals': NORMALS,
  }
  return folder_dataset.make(data_dir=str(root), **(options | changes))


def assert_helpful(error: InputError, where):
  assert str(where) in error.where
  assert len(error.do) > 15
  assert error.where in str(error) and error.do in str(error)


# ---- Samples ---------------------------------------------------------------


def test_frames_are_read_as_described(root):
  dataset = open_folder(root)
  assert dataset.image_size == SIZE
  assert dataset.labels['semantic'].classes == ('road', 'tree', 'car')
  assert dataset.labels['depth'].unit == 'm'
  assert dataset.sources.keys() == {'train', 'val'}
  for split, seeds in (('train', (0, 1, 2)), ('val', (3,))):
    source = dataset.source(split)
    assert len(source) == len(seeds)
    for i, seed in enumerate(seeds):  # a10 after a2
      sample, frame = source[i], make_frame(seed)
      np.testing.assert_allclose(sample['image'] * 255, frame['rgb'], atol=1e-4)
      classes = np.full(SIZE, -1)
      for index, number in enumerate((7, 21, 26)):
        classes[frame['class'] == number] = index
      np.testing.assert_array_equal(sample['semantic'], classes)
      meters = frame['mm'][..., None] / 1000
      np.testing.assert_allclose(sample['depth'], meters, rtol=1e-6)
      np.testing.assert_array_equal(sample['normals'], frame['normal'])


def test_a_folder_may_be_in_a_bucket(root, bucket):
  for split in ('training', 'held'):
    upload(root / split, f'{bucket}/mine/{split}')
  dataset, local = open_folder(f'{bucket}/mine'), open_folder(root)
  assert dataset.image_size == local.image_size
  for split in ('train', 'val'):
    assert len(dataset.source(split)) == len(local.source(split))
    for sample, same in zip(
      dataset.source(split), local.source(split), strict=True
    ):
      assert sample.keys() == same.keys()
      for name, x in sample.items():
        np.testing.assert_array_equal(x, same[name])


def test_only_maps_with_files_are_labels(root):
  dataset = open_folder(root, semantic={}, normals={})
  assert dataset.labels.keys() == {'depth'}
  assert dataset.source('train')[0].keys() == {'image', 'depth'}


def test_ids_count_from_0_unless_they_are_given(root):
  for i, name in enumerate(('a1', 'a2', 'a10')):
    ids = np.full(SIZE, i, np.uint8)
    ids[0] = 255
    save(root / 'training' / 'class' / f'{name}.png', ids)
  save(root / 'held/class/b1.png', np.zeros(SIZE, np.uint8))
  semantic = SEMANTIC | {'ids': (), 'ignore': (-1, 255)}
  source = open_folder(root, semantic=semantic).source('train')
  for i in range(3):
    classes = source[i]['semantic']
    assert (classes[0] == -1).all() and (classes[1:] == i).all()


def test_ids_of_npy_files_may_be_floats_and_negative(root):
  ids = np.where(make_frame(0)['class'] == 255, -1, 21).astype(np.float32)
  for path in ('training/c/a1', 'training/c/a2', 'training/c/a10', 'held/c/b1'):
    save(root / f'{path}.npy', ids)
  semantic = SEMANTIC | {'files': '{split}/c/{frame}.npy', 'ignore': (-1,)}
  classes = open_folder(root, semantic=semantic).source('val')[0]['semantic']
  np.testing.assert_array_equal(classes, np.where(ids < 0, -1, 1))
  assert classes.dtype == np.int32


def test_a_palette_png_is_ids_as_a_map_and_colors_as_an_image(root):
  ids = Image.fromarray(make_frame(0)['class'])
  ids.putpalette([i // 3 % 256 for i in range(768)][::-1])
  expected = open_folder(root).source('train')[0]['semantic']
  ids.save(root / 'training/class/a1.png')
  ids.save(root / 'training/rgb/a1.png')
  sample = open_folder(root).source('train')[0]
  np.testing.assert_array_equal(sample['semantic'], expected)
  colors = np.asarray(ids.convert('RGB')) / 255
  np.testing.assert_allclose(sample['image'], colors, atol=1e-6)


def test_missing_depth_may_be_stored_in_several_ways(root):
  depth = np.full(SIZE, 2.5, np.float32)
  depth[0], depth[1], depth[2], depth[3] = np.nan, -1, 0, np.inf
  for path in ('training/d/a1', 'training/d/a2', 'training/d/a10', 'held/d/b1'):
    save(root / f'{path}.npy', depth)
  description = DEPTH | {
    'files': '{split}/d/{frame}.npy',
    'scale': 2,
    'invalid': (0, -1),
    'quantity': 'disparity',
    'unit': 'px',
  }
  dataset = open_folder(root, depth=description)
  assert dataset.labels['depth'].quantity == 'disparity'
  read = dataset.source('val')[0]['depth'][..., 0]
  assert (read[:4] == 0).all() and (read[4:] == 5).all()


def test_normals_may_be_colors(root):
  normal = make_frame(3)['normal']
  colors = np.round((normal + 1) * 127.5).astype(np.uint8)
  colors[~normal.any(-1)] = 128
  for path in ('training/n/a1', 'training/n/a2', 'training/n/a10', 'held/n/b1'):
    save(root / f'{path}.png', colors)
  normals = {'files': '{split}/n/{frame}.png', 'invalid': (128, 128, 128)}
  read = open_folder(root, normals=normals).source('val')[0]['normals']
  np.testing.assert_array_equal(read.any(-1), normal.any(-1))
  np.testing.assert_allclose(read, normal, atol=0.012)
  length = np.linalg.norm(read[normal.any(-1)].astype(float), axis=-1)
  np.testing.assert_allclose(length, 1, atol=1e-6)


@pytest.mark.parametrize('suffix', ['jpg', 'npy', 'gray.png'])
def test_images_may_have_other_formats(root, suffix):
  ramp = np.linspace(0, 250, SIZE[1]).astype(np.uint8)
  image = np.broadcast_to(ramp[None, :, None], (*SIZE, 3))
  array = image / np.float32(255) if suffix == 'npy' else image
  if suffix == 'gray.png':
    array = image[..., 0]
  for path in ('training/i/a1', 'training/i/a2', 'training/i/a10', 'held/i/b1'):
    save(root / f'{path}.{suffix}', np.ascontiguousarray(array))
  dataset = open_folder(root, image='{split}/i/{frame}.' + suffix)
  read = dataset.source('val')[0]['image']
  np.testing.assert_allclose(read, image / 255, atol=0.03)


def test_all_sizes_are_resized_to_one(root):
  for kind, array in make_frame(1, size=(24, 48)).items():
    suffix = 'npy' if kind == 'normal' else 'png'
    save(root / f'training/{kind}/a2.{suffix}', array)
  source = open_folder(root, image_size=(6, 8)).source('train')
  for i, (seed, size) in enumerate([(0, SIZE), (1, (24, 48)), (2, SIZE)]):
    sample, frame = source[i], make_frame(seed, size)
    assert sample['image'].shape == (6, 8, 3)
    fy, fx = size[0] // 6, size[1] // 8
    means = frame['rgb'].reshape(6, fy, 8, fx, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(sample['image'], means, atol=0.6 / 255)
    picked = frame['normal'][fy // 2 :: fy, fx // 2 :: fx]
    np.testing.assert_array_equal(sample['normals'], picked)
    assert np.isin(sample['depth'], np.float32([0, 0.5, 1.234, 20])).all()


def test_splits_may_be_lists_and_folders_shared(tmp_path):
  for seed, name in enumerate(('x/1', 'x/2', 'y/1')):
    write_frame(tmp_path / 'all', name, make_frame(seed))
  (tmp_path / 'lists').mkdir()
  (tmp_path / 'lists/learn.txt').write_text('y/1\nx/1\n\n')
  (tmp_path / 'lists/rest.txt').write_text('x/2\n')
  description = {
    'semantic': SEMANTIC | {'files': 'all/class/{frame}.png'},
    'depth': DEPTH | {'files': 'all/mm/{frame}.png'},
    'normals': NORMALS | {'files': 'all/normal/{frame}.npy'},
  }
  dataset = open_folder(
    tmp_path,
    train='lists/learn.txt',
    val='',
    test='lists/rest.txt',
    image='all/rgb/{frame}.png',
    **description,
  )
  assert dataset.sources.keys() == {'train', 'test'}
  first, test = dataset.source('train')[0], dataset.source('test')[0]
  np.testing.assert_array_equal(first['normals'], make_frame(2)['normal'])
  np.testing.assert_array_equal(test['normals'], make_frame(1)['normal'])


def test_a_frame_may_name_its_folder(tmp_path):
  for split in ('training', 'held'):
    for name in ('scene 1', 'scene 2', '.hidden'):
      for kind, array in make_frame(0).items():
        suffix = 'npy' if kind == 'normal' else 'png'
        save(tmp_path / split / name / f'{name}_{kind}.{suffix}', array)
  (tmp_path / 'held' / 'scene 1' / 'scene 9_rgb.png').write_bytes(b'')
  pattern = '{split}/{frame}/{frame}_'
  dataset = open_folder(
    tmp_path,
    image=pattern + 'rgb.png',
    semantic=SEMANTIC | {'files': pattern + 'class.png'},
    depth=DEPTH | {'files': pattern + 'mm.png'},
    normals=NORMALS | {'files': pattern + 'normal.npy'},
  )
  assert len(dataset.source('val')) == 2
  expected = make_frame(0)['normal']
  np.testing.assert_array_equal(dataset.source('val')[1]['normals'], expected)


def test_frames_may_lack_maps_if_allowed(root):
  (root / 'training/mm/a2.png').unlink()
  with pytest.raises(InputError, match='1 missing') as error:
    open_folder(root)
  assert_helpful(error.value, root / 'training/mm/a2.png')
  assert error.value.argument == 'depth.files'
  assert 'allow_missing=True' in error.value.do
  source = open_folder(root, allow_missing=True).source('train')
  assert not source[1]['depth'].any() and source[0]['depth'].any()
  assert (source[1]['semantic'] >= 0).any()
  for path in root.glob('*/mm/*'):  # if all are missing, the pattern is wrong
    path.unlink()
  with pytest.raises(InputError, match='4 missing') as error:
    open_folder(root, allow_missing=True)
  assert 'allow_missing' not in error.value.do


def test_sources_are_thread_safe_and_picklable(root):
  dataset = open_folder(root)
  source = dataset.source('train')
  copy = pickle.loads(pickle.dumps(source))
  with futures.ThreadPoolExecutor(4) as pool:
    samples = list(pool.map(copy.__getitem__, [i % 3 for i in range(60)]))
  for i, sample in enumerate(samples):
    np.testing.assert_array_equal(sample['depth'], source[i % 3]['depth'])


def test_a_preview_matches_the_description(root):
  options = {'semantic': SEMANTIC, 'depth': DEPTH, 'normals': NORMALS}
  known = folder_dataset.preview(image_size=(6, 8), **options)
  opened = open_folder(root, image_size=(6, 8))
  assert known.labels == opened.labels
  assert known.image_size == opened.image_size == (6, 8)
  with pytest.raises(InputError, match='image_size'):
    folder_dataset.preview(**options)


# ---- Errors -----------------------------------------------------------------

BAD_VALUES = {
  'image_size': {'image_size': (12,)},
  'train': {'train': ''},
  'image': {'image': '{split}/rgb/a1.png'},
  'semantic.files': {'semantic': SEMANTIC | {'files': '{task}/{frame}.png'}},
  'depth.files': {'depth': DEPTH | {'files': '/data/{frame}.png'}},
  'semantic.classes': {'semantic': SEMANTIC | {'classes': ()}},
  'semantic.ids': {'semantic': SEMANTIC | {'ids': (1, 2)}},
  'semantic.ids twice': {'semantic': SEMANTIC | {'ignore': (7,)}},
  'semantic.color': {'semantic': SEMANTIC | {'color': True}},
  'depth.quantity': {'depth': DEPTH | {'quantity': 'distance'}},
  'depth.unit': {'depth': DEPTH | {'unit': ''}},
  'depth.scale': {'depth': DEPTH | {'scale': 0}},
  'normals.invalid': {'normals': NORMALS | {'invalid': (0,)}},
}


@pytest.mark.parametrize('case', BAD_VALUES)
def test_an_invalid_option_is_named(root, case):
  with pytest.raises(InputError) as error:
    open_folder(root, **BAD_VALUES[case])
  assert error.value.argument == case.split()[0]
  assert_helpful(error.value, error.value.argument)


def test_a_missing_folder_is_named(tmp_path):
  for data_dir in ('', str(tmp_path / 'nowhere')):
    with pytest.raises(InputError) as error:
      open_folder(data_dir)
    assert error.value.argument == 'data_dir'
    assert_helpful(error.value, data_dir)


def test_a_split_without_images_is_named(root):
  with pytest.raises(InputError, match=r'images tests/rgb/\*\.png') as error:
    open_folder(root, test='tests')
  assert_helpful(error.value, root)
  assert error.value.argument == 'test'


@pytest.mark.parametrize(
  'text, message',
  [(None, 'no such file'), ('', 'no name'), ('a1\na1\n', "'?a1'? twice")],
)
def test_an_invalid_list_is_named(root, text, message):
  if text is not None:
    (root / 'list.txt').write_text(text)
  with pytest.raises(InputError, match=message) as error:
    open_folder(root, train='list.txt')
  assert error.value.argument == 'train'
  assert_helpful(error.value, root / 'list.txt')


def test_a_listed_frame_without_an_image_is_named(root):
  (root / 'list.txt').write_text('a1\na3\n')
  with pytest.raises(InputError, match="the first for 'a3'") as error:
    open_folder(root, train='list.txt', image='training/rgb/{frame}.png')
  assert_helpful(error.value, root / 'training/rgb/a3.png')


def damaged(kind, change):
  return kind, lambda path: save(path, change(make_frame(1)[kind]))


def cut(path):
  path.write_bytes(path.read_bytes()[:60])


DAMAGES = {
  'image, cut': ('rgb', cut),
  'image, empty': ('rgb', lambda path: path.write_bytes(b'')),
  'image, another size': damaged('rgb', lambda a: a[:-1]),
  'image, 16 bits': damaged('rgb', lambda a: a[..., 0].astype(np.uint16) * 256),
  'class, an unknown id': damaged('class', lambda a: np.maximum(a, 8)),
  'class, colored': damaged('class', lambda a: np.stack([a] * 3, -1)),
  'class, another size': damaged('class', lambda a: a[:, 1:]),
  'class, cut': ('class', cut),
  'depth, another size': damaged('mm', lambda a: a[1:]),
  'depth, colored': damaged('mm', lambda a: np.zeros((*SIZE, 3), np.uint8)),
  'normal, blended': damaged('normal', lambda a: a / 2),
  'normal, NaN': damaged('normal', lambda a: a * np.nan),
  'normal, gray': damaged('normal', lambda a: a[..., 0]),
  'normal, signed': damaged('normal', lambda a: (a * 127).astype(np.int8)),
  'normal, another size': damaged('normal', lambda a: a[1:]),
  'normal, cut': ('normal', cut),
}


@pytest.mark.parametrize('case', DAMAGES)
def test_a_damaged_file_is_named(root, case):
  kind, damage = DAMAGES[case]
  path = root / f'training/{kind}/a2.{"npy" if kind == "normal" else "png"}'
  damage(path)
  console = Console(file=io.StringIO())
  with pytest.raises(InputError) as error:
    check_dataset(open_folder(root), ('train', 'val'), console=console)
  assert_helpful(error.value, path)


def test_negative_depth_and_fractions_of_ids_are_named(root):
  for path in ('training/x/a1', 'training/x/a2', 'training/x/a10', 'held/x/b1'):
    save(root / f'{path}.npy', np.full(SIZE, -0.5))
  pattern = {'files': '{split}/x/{frame}.npy'}
  for change, message in (
    ({'depth': DEPTH | pattern}, 'depth.invalid'),
    ({'semantic': SEMANTIC | pattern}, 'fractions'),
  ):
    with pytest.raises(InputError, match=message):
      open_folder(root, **change).source('val')[0]


def test_maps_in_lossy_files_are_errors(root):
  for path in ('training/j/a1', 'training/j/a2', 'training/j/a10', 'held/j/b1'):
    save(root / f'{path}.jpg', make_frame(0)['class'])
  semantic = SEMANTIC | {'files': '{split}/j/{frame}.jpg'}
  with pytest.raises(InputError, match='compression changes'):
    open_folder(root, semantic=semantic).source('val')[0]


# ---- The documentation -------------------------------------------------------


@pytest.fixture
def documented(tmp_path):
  """The code of the page, and the folder that it describes."""
  page = (REPOSITORY / 'docs/data/folder.md').read_text()
  stored = make_frame(0, size=(48, 64))
  ids = np.random.default_rng(0).integers(0, 4, (48, 64)).astype(np.uint8)
  for split in ('train', 'val'):
    for frame in ('0001', '0002'):
      folder = tmp_path / split
      save(folder / f'photo/{frame}.jpg', stored['rgb'])
      save(folder / f'ids/{frame}.png', ids)
      save(folder / f'depth_mm/{frame}.png', stored['mm'])
  return re.findall(r'```python\n(.*?)```', page, re.DOTALL), tmp_path


def assert_documented(dataset):
  assert dataset.labels.keys() == {'semantic', 'depth'}
  assert dataset.labels['semantic'].classes == ('road', 'building', 'sky')
  sample = dataset.source('train')[1]
  assert sample['image'].shape[:2] == dataset.image_size == (96, 128)
  assert set(np.unique(sample['semantic'])) == {-1, 0, 1, 2}
  assert sample['depth'].max() == 20


def test_the_documented_config_reads_the_documented_folder(documented):
  (code, _), folder = documented
  names = {}
  exec(code, names)
  config = names['get_config']()
  options = dict(config.data[config.data.name].items())
  dataset = datasets.make(config.data.name, data_dir=str(folder), **options)
  assert_documented(dataset)
  assert set(config.tasks) == dataset.labels.keys()


def test_the_documented_call_reads_the_documented_folder(documented):
  (_, code), folder = documented
  names = {}
  exec(code, names)
  assert_documented(names['open_data'](str(folder)))
