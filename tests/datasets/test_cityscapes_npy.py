"""The literature's .npy dump of Cityscapes: inverse depth, 7 or 19 classes."""

import numpy as np
import pytest

from mtl_kd_jax.datasets.cityscapes import npy as cityscapes_npy
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks import make_tasks

SIZE = (16, 32)


def make_frame(seed):
  rng = np.random.default_rng(seed)
  depth = rng.integers(0, 32258, (*SIZE, 1)) / 65535
  return {
    'image': rng.random((*SIZE, 3)).astype(np.float32),
    'label_7': rng.integers(-1, 7, SIZE).astype(np.float32),
    'label_19': rng.integers(-1, 19, SIZE).astype(np.float32),
    'depth': depth.astype(np.float32),
  }


@pytest.fixture
def folder(tmp_path):
  for seed, place in enumerate(('train/{}/0', 'train/{}/1', 'val/{}/0')):
    for name, array in make_frame(seed).items():
      path = tmp_path / f'{place.format(name)}.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, array)
  return tmp_path


@pytest.mark.parametrize('classes', [7, 19])
def test_a_good_folder_is_read_back_exactly(folder, classes):
  dataset = cityscapes_npy.make(data_dir=str(folder), classes=classes)
  assert dataset.image_size == SIZE
  for split, seeds in (('train', (0, 1)), ('val', (2,))):
    source = dataset.source(split)
    assert len(source) == len(seeds)
    for i, seed in enumerate(seeds):
      sample, frame = source[i], make_frame(seed)
      assert sample.keys() == {'image', 'semantic', 'depth'}
      label = frame[f'label_{classes}']
      np.testing.assert_array_equal(sample['semantic'], label)
      np.testing.assert_array_equal(sample['image'], frame['image'])
      np.testing.assert_array_equal(sample['depth'], frame['depth'])


def test_depth_is_inverse_depth_in_the_table_too(folder):
  for dataset in (
    cityscapes_npy.make(data_dir=str(folder), classes=7),
    cityscapes_npy.preview(classes=7),
  ):
    assert dataset.labels['depth'].quantity == 'disparity'
    tasks = make_tasks(('depth',), dataset.labels, dataset='cityscapes_npy')
    assert tasks['depth'].columns['abs_error'].unit == 'raw/65535'
    assert len(dataset.labels['semantic'].classes) == 7


@pytest.mark.parametrize(
  'name, value, expected',
  [
    ('depth', 1.5, 'inverse depth >= 0 and <= 1'),
    ('depth', -0.1, 'inverse depth >= 0'),
    ('label_7', 7, 'classes 0..6'),
    ('label_7', 255, 'classes 0..6'),
  ],
)
def test_a_damaged_file_is_named(folder, name, value, expected):
  path = folder / 'train' / name / '1.npy'
  array = np.load(path)
  array[3, 5] = value
  np.save(path, array)
  source = cityscapes_npy.make(data_dir=str(folder), classes=7).source('train')
  with pytest.raises(InputError) as error:
    source[1]
  assert error.value.where == str(path)
  task = 'depth' if name == 'depth' else 'semantic'
  np.testing.assert_array_equal(source.unchecked(1)[task], array)
  assert expected in error.value.expected


def test_other_numbers_of_classes_are_errors(folder):
  with pytest.raises(InputError, match='7 or 19') as error:
    cityscapes_npy.make(data_dir=str(folder), classes=13)
  assert error.value.argument == 'classes'


@pytest.mark.parametrize('data_dir', ['', 'not there'])
def test_the_error_for_a_missing_folder_says_where_to_get_it(
  tmp_path, data_dir
):
  path = str(tmp_path / data_dir) if data_dir else ''
  with pytest.raises(InputError) as error:
    cityscapes_npy.make(data_dir=path, classes=7)
  for part in ('128x256', '651 MB', 'lorenmt/mtan', 'data_dir'):
    assert part in str(error.value), part
  assert error.value.argument == 'data_dir'
