"""Readers of public data sets, on files in their layouts."""

from fixtures.reader_files import (
  write_omniglot,
  write_parts,
  write_pascal,
  write_svhn,
  write_taskonomy,
)
import numpy as np
import pytest
from scipy import io

from mtl_kd_jax import datasets
from mtl_kd_jax.errors import InputError


def test_the_digit_0_of_svhn_is_stored_as_10(tmp_path):
  images = write_svhn(tmp_path, (('train', 12), ('test', 2), ('extra', 1)))
  dataset = datasets.make('svhn', data_dir=tmp_path)
  assert [*dataset.sources] == ['train', 'val', 'extra']
  source = dataset.source('train')
  assert [int(source[i]['digit']) for i in range(12)] == [*range(10), 0, 1]
  np.testing.assert_array_equal(
    source[3]['image'], images['train'][3] / np.float32(255)
  )
  assert len(dataset.source('val')) == 2


@pytest.mark.parametrize(
  'content, message',
  [
    ({'X': np.zeros((32, 32, 3, 2), np.uint8)}, "no 'y'"),
    ({'X': np.zeros((32, 32, 3, 2)), 'y': [[1], [2]]}, 'X of uint8'),
    ({'X': np.zeros((32, 32, 3, 2), np.uint8), 'y': [[1]]}, '2 numbers in y'),
    (
      {'X': np.zeros((32, 32, 3, 2), np.uint8), 'y': [[0], [2]]},
      'y from 1 to 10',
    ),
  ],
)
def test_other_files_than_those_of_svhn_are_refused(tmp_path, content, message):
  write_svhn(tmp_path)
  io.savemat(tmp_path / 'train_32x32.mat', content)
  dataset = datasets.make('svhn', data_dir=tmp_path)
  with pytest.raises(InputError, match=message) as error:
    dataset.source('train')
  assert 'train_32x32.mat' in error.value.where


def test_splits_of_omniglot_are_by_who_drew(tmp_path):
  write_omniglot(tmp_path)
  dataset = datasets.make('omniglot', data_dir=tmp_path, image_size=(35, 21))
  lengths = {s: len(dataset.source(s)) for s in dataset.sources}
  assert lengths == {'train': 8, 'val': 8, 'test': 4}
  assert len(dataset.labels['character'].classes) == 1623
  assert len(dataset.labels['alphabet'].classes) == 50
  names = {
    task: label.classes[int(dataset.source('test')[2][task])]
    for task, label in dataset.labels.items()
  }
  assert names == {'character': 'Angelic/character20', 'alphabet': 'Angelic'}
  image = dataset.source('train')[0]['image']
  assert image.shape == (35, 21, 3) and 0.8 < image.mean() < 1  # black on white
  half = datasets.make('omniglot', data_dir=tmp_path, characters='background')
  assert len(half.labels['character'].classes) == 964
  assert len(half.source('train')) == 4


def test_other_drawings_are_refused(tmp_path):
  write_omniglot(tmp_path)
  greek = tmp_path / 'images_background/Greek'
  (greek / 'character01').rename(greek / 'character25')
  with pytest.raises(InputError, match='Greek/character25'):
    datasets.make('omniglot', data_dir=tmp_path)


def test_units_of_taskonomy(tmp_path):
  written = write_taskonomy(tmp_path)
  dataset = datasets.make('taskonomy', data_dir=tmp_path, image_size=(64, 96))
  assert {s: len(dataset.source(s)) for s in dataset.sources} == {
    'train': 2,
    'val': 1,
  }
  sample, files = dataset.source('train')[1], written['beechwood']
  np.testing.assert_allclose(sample['image'], files['rgb'] / 255, atol=1e-6)
  depth = files['depth_zbuffer'] / 512
  depth[:4] = depth[:, :6] = 0  # not measured, and masked
  np.testing.assert_allclose(sample['depth'][..., 0], depth, rtol=1e-6)
  ids = files['segment_semantic'].astype(int) - 1
  ids[:, :6] = -1
  np.testing.assert_array_equal(sample['semantic'], ids)
  np.testing.assert_allclose(
    sample['normals'][:, 6:], files['vectors'][:, 6:], atol=0.01
  )
  assert not sample['normals'][:, :6].any()
  np.testing.assert_allclose(
    sample['edges'][:, 6:, 0], files['edge_texture'][:, 6:] / 65535, atol=1e-6
  )
  assert np.isnan(sample['keypoints'][:, :6]).all()


def test_buildings_that_are_not_there_are_left_out_or_refused(tmp_path):
  write_taskonomy(tmp_path)
  (tmp_path / 'splits/val.txt').write_text('elsewhere\n')
  with pytest.raises(InputError, match='allensville') as error:
    datasets.make('taskonomy', data_dir=tmp_path)
  assert error.value.where.endswith('val.txt')
  with pytest.raises(InputError, match='edge_occlusion'):
    datasets.make('taskonomy', data_dir=tmp_path, tasks=('occlusion',))
  with pytest.raises(InputError, match="'semantics'"):
    datasets.make('taskonomy', data_dir=tmp_path, tasks=('semantics',))


FOUR = ('semantic', 'parts', 'normals', 'saliency')


def test_labels_of_pascal_context(tmp_path):
  written = write_pascal(tmp_path)
  dataset = datasets.make(
    'pascal_context', data_dir=tmp_path, image_size=(48, 64), tasks=FOUR
  )
  sample, files = dataset.source('train')[0], written['2008_000000']
  inside = np.s_[:40, :60]  # a frame of 40x60 is not enlarged
  assert not sample['image'][40:].any() and not sample['image'][:, 60:].any()
  ids = np.where(files['semantic'] == 255, -1, files['semantic'].astype(int))
  np.testing.assert_array_equal(sample['semantic'][inside], ids)
  assert (sample['semantic'][40:] == -1).all()
  salient = files['saliency'] > 127
  np.testing.assert_array_equal(sample['saliency'][inside], salient)
  parts = np.zeros((40, 60), int)
  parts[[0, 4], 2:8], parts[[1, 5], 2:8] = 1, 4  # heads, lower arms
  np.testing.assert_array_equal(sample['parts'][inside], parts)
  vectors = files['normals'] / 127.5 - 1
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  np.testing.assert_allclose(sample['normals'][inside], vectors, atol=1e-5)
  (without,) = (dataset.source('val')[i] for i in range(1))
  assert (without['parts'] == -1).all()  # nobody is there


def test_normals_of_pascal_context_count_for_some_classes(tmp_path):
  written = write_pascal(tmp_path)
  dataset = datasets.make(
    'pascal_context',
    data_dir=tmp_path,
    image_size=(48, 64),
    tasks=('normals',),
    normals_classes=(7,),
  )
  known = dataset.source('train')[0]['normals'].any(axis=-1)
  labels = written['2008_000000']['labels']
  np.testing.assert_array_equal(known[:40, :60], labels == 7)


def test_large_frames_are_reduced_until_they_fit(tmp_path):
  write_pascal(tmp_path, sizes=((80, 120), (48, 32), (32, 48)))
  dataset = datasets.make(
    'pascal_context', data_dir=tmp_path, image_size=(48, 64), tasks=FOUR
  )
  sample = dataset.source('train')[0]  # by 64 / 120, to 43x64
  assert sample['image'][:43].any(axis=(1, 2)).all()
  assert not sample['image'][43:].any()
  assert (sample['saliency'][43:] == -1).all()


def test_edges_are_where_classes_change(tmp_path):
  pytest.importorskip('skimage')
  write_pascal(tmp_path)
  dataset = datasets.make(
    'pascal_context', data_dir=tmp_path, image_size=(48, 64), tasks=('edges',)
  )
  edges = dataset.source('train')[0]['edges'][:40, :60]
  # One pixel wide; thinning takes a pixel off the end of a line.
  assert edges.sum(axis=1).max() == 1 and edges.sum() >= 38
  assert set(np.flatnonzero(edges.any(axis=0))) <= {29, 30}


def test_an_unknown_part_is_named(tmp_path):
  write_pascal(tmp_path)
  path = tmp_path / 'human_parts/2008_000000.mat'
  write_parts(path, (40, 60), persons=1)
  content = io.loadmat(path)
  content['anno']['objects'][0, 0][0, 1]['parts'][0, 0]['part_name'] = 'wing'
  io.savemat(path, {'anno': content['anno']})
  dataset = datasets.make(
    'pascal_context', data_dir=tmp_path, image_size=(48, 64), tasks=('parts',)
  )
  with pytest.raises(InputError, match="'wing'"):
    dataset.source('train')[0]


@pytest.mark.parametrize(
  'name', ['svhn', 'omniglot', 'taskonomy', 'pascal_context']
)
def test_without_data_it_says_where_to_get_them(name, tmp_path):
  for given in ('', str(tmp_path)):
    with pytest.raises(InputError) as error:
      datasets.make(name, data_dir=given)
    assert error.value.argument == 'data_dir'
    assert 'download' in error.value.do
