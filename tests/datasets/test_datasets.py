"""Every registered dataset keeps the contract of datasets/base.py.

To add a dataset to these tests: a way to open a tiny one in `OPTIONS`.
"""

import pickle

from fixtures.datasets import OPTIONS, SIZE
import numpy as np
import pytest

from mtl_kd_jax.datasets import DATASETS, make_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import QUANTITIES

DTYPES = {'class': np.int32}  # all others: float32
CHANNELS = {'class': (), 'depth': (1,), 'disparity': (1,), 'normal': (3,)}


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
  labeled = dict.fromkeys(dataset.labels, 0)
  for sample in all_samples(dataset):
    assert sample['image'].min() >= 0 and sample['image'].max() <= 1
    assert sample['image'].std() > 0
    for task, label in dataset.labels.items():
      array = sample[task]
      missing = (array == label.missing(SIZE)).reshape(*SIZE, -1).all(-1)
      labeled[task] += (~missing).sum()
      values = array[~missing]
      assert np.isfinite(values).all()
      if label.quantity == 'class':
        assert set(np.unique(values)) <= set(range(len(label.classes)))
      elif label.quantity == 'normal':
        length = np.linalg.norm(values.astype(float), axis=-1)
        np.testing.assert_allclose(length, 1, rtol=0, atol=1e-2)
      else:
        assert (values > 0).all()
  for task, count in labeled.items():
    assert count > 0, f'{task} is never labeled'


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
