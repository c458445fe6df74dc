"""Samples of Cityscapes: classes, colors, kinds of depth, prepared copies."""

import pickle

from fixtures import cityscapes_files
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.datasets.cityscapes import dataset as cityscapes
from mtl_kd_jax.datasets.cityscapes.classes import LABELS, class_table
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks import make_tasks

SIZE = (64, 128)  # of the files
FRAME = cityscapes_files.make_frame(0, SIZE)
OPTIONS = {
  'image_size': SIZE,
  'classes': 19,
  'depth': 'inverse_depth',
  'tasks': ('semantic', 'depth'),
  'progress': lambda done, total: None,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """All archives; copies are prepared beside them."""
  folder = tmp_path_factory.mktemp('cityscapes')
  cityscapes_files.write_zips(folder, cityscapes_files.make_files(size=SIZE))
  return folder


def open_in(folder, **options):
  return cityscapes.make(
    **OPTIONS
    | {'manual_dir': str(folder), 'data_dir': str(folder / 'prepared')}
    | options
  )


def first(folder, **options):
  return open_in(folder, **options).source('train')[0]


# ---- Images and classes ---------------------------------------------------


def test_frames_are_those_of_the_archives_in_the_order_of_their_names(folder):
  dataset = open_in(folder)
  assert dataset.image_size == SIZE
  assert {s: len(dataset.source(s)) for s in dataset.sources} == {
    'train': 3,
    'val': 1,
  }
  samples = [dataset.source('train')[i] for i in range(3)]
  samples.append(dataset.source('val')[0])
  for seed, sample in enumerate(samples):
    frame = cityscapes_files.make_frame(seed, SIZE)
    np.testing.assert_array_equal(
      sample['image'], frame['leftImg8bit'] / np.float32(255)
    )
    ids = class_table(19)[frame['gtFine']]
    np.testing.assert_array_equal(sample['semantic'], ids)


def test_a_smaller_size_takes_means_and_central_pixels(folder):
  sample = first(folder, image_size=(16, 32))
  mean = FRAME['leftImg8bit'].reshape(16, 4, 32, 4, 3).mean((1, 3)) / 255
  np.testing.assert_allclose(sample['image'], mean, atol=0.51 / 255)
  middle = class_table(19)[FRAME['gtFine'][2::4, 2::4]]
  np.testing.assert_array_equal(sample['semantic'], middle)
  raw = np.ma.masked_equal(FRAME['disparity'], 0).reshape(16, 4, 32, 4)
  known = raw.count((1, 3)) >= 8
  expected = np.where(known, raw.mean((1, 3)).filled(0) / 65535, 0)
  np.testing.assert_allclose(sample['depth'][..., 0], expected, rtol=1e-6)


def test_the_nineteen_classes_are_the_official_ones():
  # As published: name, label id, training id, category, color.
  official = """
    road 7 0 flat 128,64,128; sidewalk 8 1 flat 244,35,232
    building 11 2 construction 70,70,70; wall 12 3 construction 102,102,156
    fence 13 4 construction 190,153,153; pole 17 5 object 153,153,153
    traffic_light 19 6 object 250,170,30; traffic_sign 20 7 object 220,220,0
    vegetation 21 8 nature 107,142,35; terrain 22 9 nature 152,251,152
    sky 23 10 sky 70,130,180; person 24 11 human 220,20,60
    rider 25 12 human 255,0,0; car 26 13 vehicle 0,0,142
    truck 27 14 vehicle 0,0,70; bus 28 15 vehicle 0,60,100
    train 31 16 vehicle 0,80,100; motorcycle 32 17 vehicle 0,0,230
    bicycle 33 18 vehicle 119,11,32"""
  seven, nineteen = class_table(7), class_table(19)
  scored = set()
  for line in official.replace('\n', ';').split(';'):
    if not line.strip():
      continue
    name, label_id, train_id, category, color = line.split()
    label_id, train_id = int(label_id), int(train_id)
    assert nineteen[label_id] == train_id
    assert LABELS[19].classes[train_id] == name.replace('_', ' ')
    assert LABELS[7].classes[seven[label_id]] == category
    assert ','.join(map(str, LABELS[19].colors[train_id])) == color
    scored.add(label_id)
  others = [i for i in range(256) if i not in scored]
  assert (nineteen[others] == -1).all() and (seven[others] == -1).all()
  assert len(LABELS[7].colors) == len(LABELS[7].classes) == 7


def test_seven_categories_join_the_nineteen_classes(folder):
  seven = first(folder, classes=7)['semantic']
  nineteen = first(folder, classes=19)['semantic']
  np.testing.assert_array_equal(seven == -1, nineteen == -1)
  pairs = set(
    zip(nineteen.ravel().tolist(), seven.ravel().tolist(), strict=True)
  )
  assert len(pairs) == 20  # every class is of one category
  assert seven.max() == 6


@pytest.mark.parametrize('classes', [7, 19])
def test_rendered_labels_have_the_official_colors(folder, classes):
  dataset = open_in(folder, classes=classes)
  task = make_tasks(('semantic',), dataset.labels, dataset='cityscapes')
  label = dataset.source('train')[0]['semantic']
  picture = task['semantic'].render(label, label)
  for i, color in enumerate(LABELS[classes].colors):
    assert (picture[label == i] == color).all()
  road = np.argwhere(FRAME['gtFine'] == 7)[0]
  assert tuple(picture[tuple(road)]) == (128, 64, 128)


# ---- Depth ------------------------------------------------------------------


def test_each_kind_of_depth_follows_from_the_raw_numbers(folder):
  p = FRAME['disparity'].astype(float)
  camera = cityscapes_files.CAMERA
  product = camera['extrinsic']['baseline'] * camera['intrinsic']['fx']
  disparity = np.maximum(p - 1, 0) / 256
  depth = np.divide(product, disparity, where=disparity > 0, out=0 * p)
  for kind, quantity, expected in (
    ('inverse_depth', 'disparity', p / 65535),
    ('disparity', 'disparity', disparity),
    ('depth', 'depth', depth),
  ):
    dataset = open_in(folder, depth=kind)
    assert dataset.labels['depth'].quantity == quantity
    sample = dataset.source('train')[0]
    np.testing.assert_allclose(sample['depth'][..., 0], expected, rtol=1e-5)


def test_a_disparity_of_zero_is_valid_only_as_inverse_depth(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  for name, content in files.items():
    if name.startswith('disparity/'):
      content[:, :2] = 1, 0
  cityscapes_files.write_zips(tmp_path, files)
  for kind in ('inverse_depth', 'disparity', 'depth'):
    depth = first(tmp_path, depth=kind)['depth']
    assert np.isfinite(depth).all() and not depth[:, 1].any()
    assert (depth[:, 0] > 0).all() == (kind == 'inverse_depth')


def test_depth_is_the_same_in_every_size(tmp_path):
  # A wall at 20 m, whatever the size of the image.
  files = cityscapes_files.make_files(size=SIZE)
  for name, content in files.items():
    if name.startswith('disparity/'):
      content[:] = round(1 + 256 * 0.209313 * 2262.52 / 20)
  cityscapes_files.write_zips(tmp_path, files)
  for size in (SIZE, (16, 32), (8, 8)):
    depth = first(tmp_path, depth='depth', image_size=size)['depth']
    np.testing.assert_allclose(depth, 20, rtol=1e-3)


@pytest.mark.parametrize(
  'kind, unit',
  [
    ('inverse_depth', 'raw/65535'),
    ('disparity', 'px at 2048'),
    ('depth', 'm'),
  ],
)
def test_the_table_of_metrics_shows_the_unit(folder, kind, unit):
  for dataset in (
    open_in(folder, depth=kind),
    cityscapes.preview(image_size=SIZE, depth=kind),
  ):
    tasks = make_tasks(('depth',), dataset.labels, dataset='cityscapes')
    columns = tasks['depth'].columns
    assert columns['abs_error'].unit == columns['rmse'].unit == unit
    assert columns['rel_error'].unit == ''


# ---- Which copy is used -----------------------------------------------------


def copies(folder):
  path = folder / 'prepared' / 'cityscapes_frames'
  return {p.name for p in path.iterdir() if p.name[0].isdigit()}


def test_one_copy_serves_all_options_without_the_archives(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  open_in(tmp_path)
  for path in tmp_path.glob('*.zip'):
    path.unlink()
  for options in (
    {'depth': 'depth'},
    {'classes': 7, 'depth': 'disparity'},
    {'tasks': ('semantic',)},
  ):
    assert len(open_in(tmp_path, **options).source('train')) == 3
  assert copies(tmp_path) == {'64x128_disparity_camera'}
  with pytest.raises(InputError, match='none of them'):
    open_in(tmp_path, image_size=(32, 64))


def test_without_the_task_depth_no_disparities_are_needed(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  some = {k: x for k, x in files.items() if k[:4] in ('left', 'gtFi')}
  cityscapes_files.write_zips(tmp_path, some)
  dataset = open_in(tmp_path, tasks=('semantic',))
  assert dataset.labels.keys() == {'semantic'}
  assert dataset.source('train')[0].keys() == {'image', 'semantic'}
  with pytest.raises(InputError, match='disparity_trainvaltest') as error:
    open_in(tmp_path)
  for part in ('3.5 GB', "'depth' out of tasks", str(tmp_path)):
    assert part in str(error.value)
  # With the archive there, the next copy has them; the first one stays.
  cityscapes_files.write_zips(tmp_path, files)
  assert open_in(tmp_path).source('train')[0]['depth'].any()
  assert copies(tmp_path) == {'64x128', '64x128_disparity_camera'}


def test_the_error_for_a_missing_camera_says_what_to_download(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  some = {k: x for k, x in files.items() if not k.startswith('camera')}
  cityscapes_files.write_zips(tmp_path, some)
  assert 'depth' in open_in(tmp_path).labels
  with pytest.raises(InputError) as error:
    open_in(tmp_path, depth='depth')
  for part in (
    'camera_trainvaltest.zip',
    'cityscapes-dataset.com',
    'manual_dir',
    "depth to 'disparity'",
  ):
    assert part in str(error.value)
  assert copies(tmp_path) == {'64x128_disparity'}
  cityscapes_files.write_zips(tmp_path, files)
  assert open_in(tmp_path, depth='depth').labels['depth'].unit == 'm'


def test_unpacked_folders_are_read_like_archives(folder, tmp_path):
  cityscapes_files.write_tree(tmp_path, cityscapes_files.make_files(size=SIZE))
  sample = first(tmp_path, depth='depth')
  for key, expected in first(folder, depth='depth').items():
    np.testing.assert_array_equal(sample[key], expected)


def test_the_error_for_missing_archives_says_where_to_get_them(tmp_path):
  for manual in (tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(InputError) as error:
      open_in(tmp_path, manual_dir=str(manual))
    for part in (
      'leftImg8bit_trainvaltest.zip (11 GB)',
      'gtFine_trainvaltest.zip (241 MB)',
      'disparity_trainvaltest.zip (3.5 GB)',
      'www.cityscapes-dataset.com',
      'manual_dir',
      str(manual),
    ):
      assert part in str(error.value), part
  # '' is TFDS's manual directory.
  with pytest.raises(InputError) as error:
    open_in(tmp_path, manual_dir='')
  assert error.value.argument == 'manual_dir'
  assert str(tmp_path / 'prepared/downloads/manual') in error.value.where


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('image_size', (64,)),
    ('image_size', (0, 128)),
    ('image_size', (32.5, 64)),
    ('classes', 8),
    ('depth', 'meters'),
  ],
)
def test_invalid_options_are_errors(tmp_path, key, value):
  for function in (open_in, lambda _, **o: cityscapes.preview(**o)):
    with pytest.raises(InputError) as error:
      function(tmp_path, **{key: value})
    assert error.value.argument == key
  assert not any(tmp_path.iterdir())


def test_sources_are_picklable(folder):
  source = open_in(folder, depth='depth').source('train')
  copy = pickle.loads(pickle.dumps(source))
  for key, array in source[2].items():
    np.testing.assert_array_equal(copy[2][key], array)


def test_the_real_frame_is_read(shared_data, tmp_path):
  real = shared_data / 'fixtures/cityscapes'
  dataset = cityscapes.make(
    **OPTIONS
    | {'tasks': ('semantic',), 'image_size': (128, 256)}
    | {'manual_dir': str(real), 'data_dir': str(tmp_path)}
  )
  assert dataset.sources.keys() == {'val'}
  sample = dataset.source('val')[0]
  train_ids = next(real.rglob('*_labelTrainIds.png'))
  truth = np.asarray(Image.open(train_ids)).astype(int)
  truth[truth == 255] = -1
  # The two files were reduced in different ways: borders differ.
  assert (sample['semantic'] == truth).mean() > 0.99
  assert 0.1 < sample['image'].mean() < 0.9
  with pytest.raises(InputError, match='disparity_trainvaltest'):
    cityscapes.make(
      **OPTIONS
      | {'image_size': (128, 256)}
      | {'manual_dir': str(real), 'data_dir': str(tmp_path)}
    )
