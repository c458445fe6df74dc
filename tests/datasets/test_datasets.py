"""Every registered dataset keeps the contract of datasets/base.py.

To add a dataset to these tests: a way to open a tiny one in `OPTIONS`.
"""

import inspect
import pathlib
import pickle
import re
import subprocess
import sys
import types

from fixtures.datasets import OPTIONS, SIZE
from fixtures.paths import REPOSITORY
import numpy as np
import pytest

from mtl_kd_jax import datasets
from mtl_kd_jax.config import defaults
from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.datasets import DATASETS, Dataset, Label, loader
from mtl_kd_jax.datasets.holdout import hold_out
from mtl_kd_jax.datasets.inspect.doctor import diagnose
from mtl_kd_jax.datasets.inspect.profile import profile_split
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import QUANTITIES

# Quantities that are ids: 0, 1 ... of the classes of their label.
IDS = ('class', 'image_class', 'binary')


@pytest.fixture(scope='module', params=DATASETS)
def dataset(request, tmp_path_factory):
  assert request.param in OPTIONS, 'say in OPTIONS how to open a tiny one'
  folder = tmp_path_factory.mktemp(request.param)
  options = OPTIONS[request.param](folder)
  # As one writes it in Python; the tests of runs give strings.
  for name in options.keys() & {'data_dir', 'manual_dir'}:
    options[name] = pathlib.Path(options[name])
  return datasets.make(request.param, **options)


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
    assert array.dtype == (np.int32 if label.quantity in IDS else np.float32)
    assert array.shape == label.shape(size), task


def test_its_description_is_complete(dataset):
  assert DATASETS[dataset.name]
  assert dataset.image_size == (SIZE if dataset.name != 'svhn' else (32, 32))
  assert {'train', 'val'} <= dataset.sources.keys()
  assert dataset.labels
  assert 'image' not in dataset.labels
  for label in dataset.labels.values():
    assert label.quantity in QUANTITIES
    assert bool(label.classes) == (label.quantity in IDS)
    assert len(set(label.classes)) == len(label.classes)
    if label.quantity == 'depth':
      assert label.unit
  # Printed, it names no files, of which there may be thousands.
  assert len(repr(dataset)) < 200 and 'splits train, val' in repr(dataset)


def test_samples_have_the_documented_forms(dataset):
  for sample in all_samples(dataset):
    assert_forms(dataset, sample)


def test_samples_have_valid_values(dataset):
  labeled = dict.fromkeys(dataset.labels, 0)
  for sample in all_samples(dataset):
    assert sample['image'].min() >= 0 and sample['image'].max() <= 1
    assert sample['image'].std() > 0
    for task, label in dataset.labels.items():
      array = sample[task]
      known = label.known(array)
      labeled[task] += known.sum()
      values = array[known]
      assert np.isfinite(values).all()
      if label.quantity in IDS:
        assert set(np.unique(values)) <= set(range(len(label.classes)))
      elif label.quantity == 'normal':
        length = np.linalg.norm(values.astype(float), axis=-1)
        np.testing.assert_allclose(length, 1, rtol=0, atol=1e-2)
      elif label.quantity != 'regression':
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


def test_sources_are_picklable(dataset):
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
    assert not label.known(sample[task]).any(), task


def test_an_unknown_split_is_an_error_that_lists_the_known_ones(dataset):
  with pytest.raises(InputError) as error:
    dataset.source('holdout')
  assert error.value.argument == 'split'
  for part in ('holdout', *dataset.sources):
    assert part in str(error.value)


# ---- The registry -----------------------------------------------------------


@pytest.mark.parametrize('function', [datasets.make, datasets.preview])
def test_an_unknown_dataset_is_an_error_that_lists_the_known_ones(function):
  with pytest.raises(InputError) as error:
    function('imagenet', data_dir='')
  assert error.value.argument == 'name'
  for part in ("'imagenet'", *DATASETS):
    assert part in str(error.value)


@pytest.mark.parametrize('function', [datasets.make, datasets.preview])
@pytest.mark.parametrize('name', DATASETS)
def test_an_unknown_option_is_an_error_that_lists_the_known_ones(
  function, name
):
  with pytest.raises(InputError) as error:
    function(name, image_sise=(32, 32))
  assert error.value.argument == 'image_sise'
  for part in datasets.options(name):
    assert part in error.value.expected


@pytest.mark.parametrize('name', DATASETS)
def test_every_option_has_a_default(name):
  options = datasets.options(name)
  assert inspect.Parameter.empty not in options.values()
  assert options['data_dir'] == ''


@pytest.mark.parametrize('name', DATASETS)
def test_a_preview_agrees_with_the_open_dataset(name, tmp_path):
  options = OPTIONS[name](tmp_path)
  # The published dumps have a fixed size, and the folder's must be given.
  options |= {'image_size': SIZE} if name == 'folder' else {}
  preview = datasets.preview(name, **options)
  opened = datasets.make(name, **options)
  assert preview.name == opened.name == name
  assert preview.labels == opened.labels and not preview.sources
  if 'image_size' in datasets.options(name):
    assert preview.image_size == opened.image_size


SMALL = Dataset('small', SIZE, {'depth': Label('depth', unit='m')}, {})


@pytest.mark.parametrize(
  'make, given',
  [
    (lambda *, data_dir='': SMALL, {}),
    (lambda: SMALL, {}),
    (lambda *, data_dir, **rest: SMALL, {}),
    (lambda *, data_dir, **rest: SMALL, {'shift': 2}),
    (lambda *, data_dir='', shift=1: SMALL, {'shift': 2}),
  ],
)
def test_a_dataset_needs_no_options_and_no_section(make, given, monkeypatch):
  module = types.ModuleType('small')
  module.make, module.preview = make, lambda: SMALL
  monkeypatch.setitem(sys.modules, 'small', module)
  monkeypatch.setitem(DATASETS, 'small', 'small')
  config = defaults.get_config()
  config.data.name = 'small'
  with config.unlocked():
    if given:
      config.data.small = given
  assert open_dataset(config).labels == SMALL.labels
  assert open_dataset(config, data=False).labels == SMALL.labels
  with config.unlocked():
    config.data.small = {'shfit': 2}
  if 'rest' not in inspect.signature(make).parameters:
    with pytest.raises(InputError, match=r'config\.data\.small\.shfit'):
      open_dataset(config)


def test_a_section_is_not_taken_for_that_of_a_dataset():
  config = defaults.get_config()
  config.data.name = 'scales'  # a key of config.data, but no dataset
  with pytest.raises(InputError, match='a known dataset'):
    open_dataset(config)


def test_nothing_heavy_is_imported_before_a_dataset_is_used():
  program = (
    'import sys\n'
    'from mtl_kd_jax import datasets\n'
    "heavy = {'tensorflow_datasets', 'h5py', 'scipy', 'grain', 'jax', 'PIL'}\n"
    'print(sorted(heavy & sys.modules.keys()))'
  )
  run = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == '[]'


# ---- Tasks, and datasets that users build ------------------------------------


def test_tasks_are_those_of_the_labels_in_the_order_of_the_names():
  dataset = datasets.preview('scenes')
  assert tuple(dataset.tasks()) == ('semantic', 'depth', 'normals')
  tasks = dataset.tasks('normals', 'semantic')
  assert tuple(tasks) == ('normals', 'semantic')
  assert tasks['semantic'].channels == len(dataset.labels['semantic'].classes)
  without_normals = datasets.preview('cityscapes')
  assert tuple(without_normals.tasks()) == ('semantic', 'depth')
  with pytest.raises(InputError, match="'normals'"):
    without_normals.tasks('normals')


@pytest.fixture
def documented():
  """The dataset that the documentation builds."""
  page = (REPOSITORY / 'docs/data/in_python.md').read_text()
  names = {}
  exec(re.search(r'```python\n(.*?)```', page, re.DOTALL)[1], names)
  return names['data']


def test_the_documented_dataset_keeps_the_contract(documented):
  for sample in all_samples(documented):
    assert_forms(documented, sample)
  assert_forms(documented, documented.missing_sample())
  assert tuple(documented.tasks()) == ('depth', 'edges')


def test_the_documented_dataset_works_in_the_whole_pipeline(documented):
  dataset = hold_out(documented, 'train', fraction=0.25, seed=0)
  source = hide_labels(
    dataset.source('train'),
    labels=dataset.labels,
    fraction={'edges': 0.5},
    seed=0,
  )
  (batch,) = loader.train_batches(
    dataset,
    source,
    batch_size=6,
    epochs=1,
    start_step=0,
    seed=0,
    scales=(1.5,),
    flip=True,
    num_workers=0,
  )
  labeled = (batch['edges'] >= 0).all((1, 2))
  assert labeled.sum() == 3 and (batch['edges'][~labeled] == -1).all()
  # The zoom divides depth by 1.5, and leaves classes aligned with the image.
  image, depth = batch['image'][..., :1], batch['depth']
  np.testing.assert_allclose(1.5 * depth, 1 + 4 * image, atol=0.05)
  edges = batch['edges'][labeled]
  far_from_edge = np.abs(image[labeled, ..., 0] - 0.5) > 0.01
  expected = image[labeled, ..., 0] > 0.5
  np.testing.assert_array_equal(edges[far_from_edge], expected[far_from_edge])
  (evaluated,) = loader.eval_batches(
    dataset, dataset.source('held_out'), batch_size=2, num_workers=0
  )
  assert evaluated.keys() == batch.keys()
  profiles = {s: profile_split(dataset, s, max_samples=0) for s in ('val',)}
  assert not diagnose(dataset, profiles)


def test_a_label_cannot_be_called_image():
  with pytest.raises(InputError) as error:
    Dataset('mine', SIZE, {'image': Label('normal')}, {})
  assert error.value.argument == 'labels'


def test_an_unknown_quantity_is_an_error_that_lists_the_known_ones():
  with pytest.raises(InputError) as error:
    Label('edges')
  assert error.value.argument == 'quantity'
  assert "'edges'" in error.value.found
  for quantity in QUANTITIES:
    assert quantity in error.value.expected
