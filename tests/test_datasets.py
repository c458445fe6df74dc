"""Every registered dataset keeps the contract of datasets/base.py.

To add a dataset to these tests: a way to open a tiny one in `OPTIONS`.
"""

import pickle

import cityscapes_files
from conftest import random_sample
import numpy as np
from nyu_layout import make_frames, write_archive
import pytest

from mtl_kd_jax.datasets import DATASETS, make_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import QUANTITIES

SIZE = (32, 48)
DTYPES = {'class': np.int32}  # all others: float32
CHANNELS = {'class': (), 'depth': (1,), 'disparity': (1,), 'normal': (3,)}


def scenes_options(folder):
  return {
    'image_size': SIZE,
    'num_train': 2,
    'num_val': 1,
    'seed': 0,
    'data_dir': str(folder),
  }


def nyuv2_options(folder):
  names = {'semantic': 'label', 'depth': 'depth', 'normals': 'normal'}
  for seed, path in enumerate(('train/{}/0', 'train/{}/1', 'val/{}/0')):
    for key, array in random_sample(SIZE, seed).items():
      file = folder / f'{path.format(names.get(key, key))}.npy'
      file.parent.mkdir(parents=True, exist_ok=True)
      np.save(file, array)
  return {'data_dir': str(folder)}


def cityscapes_options(folder):
  files = cityscapes_files.make_files(size=(64, 96))
  cityscapes_files.write_zips(folder, files)
  return {
    'image_size': SIZE,
    'classes': 7,
    'depth': 'inverse_depth',
    'tasks': ('semantic', 'depth'),
    'manual_dir': str(folder),
    'data_dir': str(folder / 'prepared'),
  }


def cityscapes_npy_options(folder):
  nyuv2_options(folder)
  for split in ('train', 'val'):
    (folder / split / 'label').rename(folder / split / 'label_7')
    for path in (folder / split / 'depth').iterdir():
      np.save(path, np.load(path) / 5)
  return {'data_dir': str(folder), 'classes': 7}


def nyuv2_mat_options(folder):
  write_archive(folder, make_frames(3))
  return {
    'data_dir': str(folder),
    'image_size': SIZE,
    'crop': (45, 471, 41, 601),
    'classes': 40,
    'label_ids': 'raw',
    'depth': 'raw',
    'normals_dir': '',
  }


def folder_options(folder):
  nyuv2_options(folder)
  return {
    'data_dir': str(folder),
    'image_size': (),
    'train': 'train',
    'val': 'val',
    'test': '',
    'image': '{split}/image/{frame}.npy',
    'partial': False,
    'semantic': {
      'files': '{split}/label/{frame}.npy',
      'classes': ('a', 'b', 'c', 'd'),
      'ids': (),
      'ignore': (-1,),
    },
    'depth': {
      'files': '{split}/depth/{frame}.npy',
      'quantity': 'depth',
      'unit': 'm',
      'scale': 1.0,
      'invalid': (0,),
    },
    'normals': {
      'files': '{split}/normal/{frame}.npy',
      'invalid': (0, 0, 0),
    },
  }


# name -> a function of an empty folder; the keyword arguments of `make`.
OPTIONS = {
  'scenes': scenes_options,
  'nyuv2': nyuv2_options,
  'cityscapes': cityscapes_options,
  'cityscapes_npy': cityscapes_npy_options,
  'nyuv2_mat': nyuv2_mat_options,
  'folder': folder_options,
}


@pytest.fixture(scope='module', params=DATASETS)
def dataset(request, tmp_path_factory):
  assert request.param in OPTIONS, 'say in OPTIONS how to open a tiny one'
  folder = tmp_path_factory.mktemp(request.param)
  return make_dataset(request.param, **OPTIONS[request.param](folder))


def all_samples(dataset):
  for split in dataset.sources:
    source = dataset.source(split)
    assert len(source) > 0
    for i in range(len(source)):
      yield source[i]


def assert_forms(dataset, sample):
  """Keys, shapes and dtypes are those of labels.py."""
  assert sample.keys() == {'image', *dataset.labels}
  size = dataset.image_size
  assert sample['image'].dtype == np.float32
  assert sample['image'].shape == (*size, 3)
  for task, label in dataset.labels.items():
    array = sample[task]
    assert array.dtype == DTYPES.get(label.quantity, np.float32), task
    assert array.shape == (*size, *CHANNELS[label.quantity]), task


def test_it_says_what_it_holds(dataset):
  assert DATASETS[dataset.name]
  assert dataset.image_size == SIZE
  assert {'train', 'val'} <= dataset.sources.keys()
  assert dataset.labels
  assert 'image' not in dataset.labels
  for label in dataset.labels.values():
    assert label.quantity in QUANTITIES
    assert bool(label.classes) == (label.quantity == 'class')
    assert len(set(label.classes)) == len(label.classes)
    if label.quantity == 'depth':
      assert label.unit


def test_samples_have_the_promised_forms(dataset):
  for sample in all_samples(dataset):
    assert_forms(dataset, sample)


def test_samples_have_valid_values(dataset):
  labelled = dict.fromkeys(dataset.labels, 0)
  for sample in all_samples(dataset):
    assert sample['image'].min() >= 0 and sample['image'].max() <= 1
    assert sample['image'].std() > 0
    for task, label in dataset.labels.items():
      array = sample[task]
      missing = (array == label.missing(SIZE)).reshape(*SIZE, -1).all(-1)
      labelled[task] += (~missing).sum()
      values = array[~missing]
      assert np.isfinite(values).all()
      if label.quantity == 'class':
        assert set(np.unique(values)) <= set(range(len(label.classes)))
      elif label.quantity == 'normal':
        length = np.linalg.norm(values.astype(float), axis=-1)
        np.testing.assert_allclose(length, 1, rtol=0, atol=1e-2)
      else:
        assert (values > 0).all()
  for task, count in labelled.items():
    assert count > 0, f'{task} is never labelled'


def test_samples_do_not_change_between_reads_and_may_be_written_to(dataset):
  source = dataset.source('train')
  first = source[0]
  copy = {key: array.copy() for key, array in first.items()}
  for array in first.values():
    array += 1
  for key, array in source[0].items():
    np.testing.assert_array_equal(array, copy[key], err_msg=key)


def test_samples_differ_within_and_between_splits(dataset):
  images = [sample['image'].tobytes() for sample in all_samples(dataset)]
  assert len(set(images)) == len(images) >= 3


def test_sources_travel_to_worker_processes(dataset):
  for split in dataset.sources:
    source = dataset.source(split)
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    for key, array in source[0].items():
      np.testing.assert_array_equal(copy[0][key], array, err_msg=key)


def test_the_missing_sample_has_no_labels(dataset):
  sample = dataset.missing_sample()
  assert_forms(dataset, sample)
  assert not sample['image'].any()
  for task, label in dataset.labels.items():
    nothing = -1 if label.quantity == 'class' else 0
    assert (sample[task] == nothing).all(), task


def test_an_unknown_split_is_answered_with_the_known_ones(dataset):
  with pytest.raises(InputError) as error:
    dataset.source('holdout')
  message = str(error.value)
  for part in ('holdout', 'eval_split', *dataset.sources):
    assert part in message


def test_an_unknown_dataset_is_answered_with_the_known_ones():
  with pytest.raises(InputError) as error:
    make_dataset('imagenet', data_dir='')
  message = str(error.value)
  for part in ("'imagenet'", 'config.data.name', *DATASETS):
    assert part in message
