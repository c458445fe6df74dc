"""The official NYU-v2 files: exact samples, and errors that name the cause."""

from concurrent import futures
import functools
import io
import pickle
import shutil

from fixtures.nyu_layout import (
  MAP_40,
  SIZE,
  make_frames,
  write_archive,
  write_map_13,
  write_splits,
)
import h5py
import numpy as np
from PIL import Image
import pytest
from rich.console import Console
import scipy.io

from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.datasets.nyuv2 import maps as nyuv2_maps
from mtl_kd_jax.datasets.nyuv2 import mat as nyuv2_mat
from mtl_kd_jax.datasets.nyuv2 import npy as nyuv2
from mtl_kd_jax.errors import InputError

NAME = 'nyu_depth_v2_labeled.mat'
WHOLE = (0, 480, 0, 640)
FRAMES = make_frames(3)
# As in class13Mapping.mat, from 1.
TO_13 = dict(zip(range(1, 41), nyuv2_maps._TO_13, strict=True))


def open_mat(folder, **changes):
  options = {
    'image_size': (60, 80),
    'classes': 40,
  }
  return nyuv2_mat.make(data_dir=str(folder), **(options | changes))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The official layout with three frames: 1 and 2 to train, 3 to test."""
  path = tmp_path_factory.mktemp('nyu')
  write_archive(path, FRAMES)
  return path


@pytest.fixture
def copy(folder, tmp_path):
  """A copy of it, to be damaged."""
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  return tmp_path


def assert_helpful(error: InputError, path):
  assert str(path) in error.where
  assert len(error.do) > 15
  assert error.where in str(error) and error.do in str(error)


# ---- Samples ---------------------------------------------------------------


def test_full_frames_are_those_of_the_file(folder):
  dataset = open_mat(folder, image_size=SIZE, crop=WHOLE, depth='raw')
  assert dataset.image_size == SIZE
  assert dataset.labels['depth'].unit == 'm'
  for split, frames in (('train', (0, 1)), ('val', (2,))):
    source = dataset.source(split)
    assert len(source) == len(frames)
    for i, frame in enumerate(frames):
      sample = source[i]
      expected = {k: x[frame] for k, x in FRAMES.items()}
      np.testing.assert_allclose(
        sample['image'], expected['images'] / 255, atol=1e-6
      )
      np.testing.assert_array_equal(
        sample['depth'][..., 0], expected['rawDepths']
      )
      ids = expected['labels'].astype(int)
      classes = np.where(ids > 0, MAP_40[ids - 1] - 1, -1)
      np.testing.assert_array_equal(sample['semantic'], classes)


def test_filled_depth_has_no_holes_and_raw_depth_has(folder):
  filled = open_mat(folder, crop=WHOLE, image_size=SIZE).source('val')[0]
  np.testing.assert_array_equal(filled['depth'][..., 0], FRAMES['depths'][2])
  raw = open_mat(folder, depth='raw').source('val')[0]['depth']
  assert 0 < (raw == 0).mean() < 0.5


def test_13_classes_are_the_map_of_the_40(folder):
  size = {'image_size': SIZE, 'crop': WHOLE}
  of_40 = open_mat(folder, **size).source('train')[1]['semantic']
  dataset = open_mat(folder, classes=13, **size)
  of_13 = dataset.source('train')[1]['semantic']
  assert dataset.labels['semantic'].classes == nyuv2.CLASSES
  for i in range(-1, 40):
    expected = TO_13[i + 1] - 1 if i >= 0 else -1
    assert (of_13[of_40 == i] == expected).all()
  assert set(np.unique(of_13)) == set(range(-1, 13))


def test_names_of_both_sets_of_classes_agree():
  same = {
    'television': 'tv',
    'bookshelf': 'furniture',
    'other prop': 'objects',
    'blinds': 'window',
    'desk': 'table',
  }
  for i, name in enumerate(nyuv2_maps.CLASSES_40):
    of_13 = nyuv2.CLASSES[TO_13[i + 1] - 1]
    if name in nyuv2.CLASSES:
      assert of_13 == name
    assert same.get(name, of_13) == of_13
  assert len(set(nyuv2_maps.CLASSES_40)) == 40


def test_the_map_of_13_classes_may_be_absent(copy):
  before = open_mat(copy, classes=13).source('val')[0]['semantic']
  (copy / 'class13Mapping.mat').unlink()
  after = open_mat(copy, classes=13).source('val')[0]['semantic']
  np.testing.assert_array_equal(after, before)


def test_frames_are_cropped_before_they_are_resized(folder):
  crop = (45, 471, 41, 601)
  sample = open_mat(folder, crop=crop, image_size=(426, 560)).source('val')[0]
  cut = np.s_[45:471, 41:601]
  expected = FRAMES['images'][2][cut] / 255
  np.testing.assert_allclose(sample['image'], expected, atol=1e-6)
  depth = FRAMES['depths'][2][cut]
  np.testing.assert_array_equal(sample['depth'][..., 0], depth)
  half = open_mat(folder, crop=crop, image_size=(213, 280)).source('val')[0]
  blocks = expected.reshape(213, 2, 280, 2, 3).mean(axis=(1, 3))
  np.testing.assert_allclose(half['image'], blocks, atol=0.6 / 255)
  np.testing.assert_array_equal(half['depth'][..., 0], depth[1::2, 1::2])


def test_depth_is_not_interpolated(folder):
  depth = open_mat(folder, image_size=(100, 90)).source('train')[0]['depth']
  assert np.isin(depth[..., 0], FRAMES['depths'][0]).all()


def test_normals_are_those_of_the_measured_surface(folder):
  sample = open_mat(folder, image_size=(426, 560)).source('train')[0]
  normals = sample['normals']
  cut = np.s_[45:471, 41:601]
  measured = FRAMES['rawDepths'][0][cut] > 0
  given = normals.any(-1)
  assert not given[~measured].any()  # though depth is filled there
  assert (sample['depth'] > 0).all()
  assert given.sum() > 0.8 * measured.sum()
  # Three points of the plane, through the color camera of the toolbox.
  points = []
  for v, u in ((0, 0), (400, 20), (50, 500)):
    z = float(FRAMES['depths'][0][v, u])
    x, y = (u - 325.5824) / 518.8579, (v - 253.7362) / 519.4696
    points.append(np.array([x, y, 1]) * z)
  normal = np.cross(points[1] - points[0], points[2] - points[0])
  normal *= -np.sign(normal[2]) / np.linalg.norm(normal)
  cosine = normals[given].astype(float) @ normal
  assert np.degrees(np.arccos(np.clip(cosine.min(), -1, 1))) < 0.05


def test_a_preview_agrees_with_the_archive(folder):
  for classes in (13, 40):
    known = nyuv2_mat.preview(image_size=(60, 80), classes=classes)
    opened = open_mat(folder, classes=classes)
    assert known.labels == opened.labels
    assert known.image_size == opened.image_size


def test_many_threads_and_copies_read_at_once(folder):
  source = open_mat(folder).source('train')
  expected = [source[i] for i in range(2)]
  copies = [source, pickle.loads(pickle.dumps(source))]
  with futures.ThreadPoolExecutor(4) as pool:
    jobs = [(i, pool.submit(copies[i // 2 % 2].__getitem__, i % 2))
            for i in range(12)]  # fmt: skip
    for i, job in jobs:
      for key, array in job.result().items():
        np.testing.assert_array_equal(array, expected[i % 2][key])


# ---- Normals of the user ----------------------------------------------------


@functools.cache
def user_normals():
  """Three frames of unit vectors with a hole, float32 [3 480 640 3]."""
  rng = np.random.default_rng(5)
  coarse = rng.normal(size=(3, *SIZE, 3)) * 0.2 - [0, 0, 1]
  normals = coarse / np.linalg.norm(coarse, axis=-1, keepdims=True)
  normals[:, 100:140, 200:300] = 0
  return normals.astype(np.float32)


def write_normals(folder, kind, frames=(0, 1, 2)):
  normals = user_normals()
  for sub in ('normals', 'masks') if kind == 'png' else ('',):
    (folder / sub).mkdir(parents=True, exist_ok=True)
  for i in frames:
    if kind == 'npy':
      np.save(folder / f'{i:04d}.npy', normals[i])
      continue
    colors = np.round((normals[i] + 1) * 127.5).astype(np.uint8)
    Image.fromarray(colors).save(folder / f'normals/{i:04d}.png')
    mask = np.where(normals[i].any(-1), 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(folder / f'masks/{i:04d}.png')


@pytest.mark.parametrize('kind', ['npy', 'png'])
def test_normals_of_a_folder_are_read_instead(folder, tmp_path, kind):
  write_normals(tmp_path, kind)
  dataset = open_mat(
    folder, normals_dir=str(tmp_path), crop=WHOLE, image_size=SIZE
  )
  # Frames are numbered from 0 over the whole archive.
  read, written = dataset.source('val')[0]['normals'], user_normals()[2]
  np.testing.assert_array_equal(read.any(-1), written.any(-1))
  tolerance = 0 if kind == 'npy' else 0.012
  np.testing.assert_allclose(read, written, atol=tolerance)
  length = np.linalg.norm(read[written.any(-1)].astype(float), axis=-1)
  np.testing.assert_allclose(length, 1, atol=1e-6)


def test_a_frame_without_its_normals_is_named(folder, tmp_path):
  write_normals(tmp_path, 'npy', frames=(0, 2))
  with pytest.raises(InputError, match=r'1 of 3 missing, the first 0001\.npy'):
    open_mat(folder, normals_dir=str(tmp_path))


@pytest.mark.parametrize('damage', ['size', 'length', 'mask', 'cut'])
def test_a_damaged_file_of_normals_is_named(folder, tmp_path, damage):
  write_normals(tmp_path, 'png')
  path = tmp_path / 'normals' / '0002.png'
  if damage == 'size':
    Image.new('RGB', (64, 48)).save(path)
  elif damage == 'length':
    Image.new('RGB', SIZE[::-1], (90, 127, 127)).save(path)
  elif damage == 'mask':
    path = tmp_path / 'masks' / '0002.png'
    Image.new('L', (64, 48)).save(path)
  else:
    path.write_bytes(path.read_bytes()[:2000])
  source = open_mat(folder, normals_dir=str(tmp_path)).source('val')
  with pytest.raises(InputError) as error:
    source[0]
  assert_helpful(error.value, path)


# ---- Errors -----------------------------------------------------------------


@pytest.mark.parametrize(
  'key, value',
  [
    ('classes', 894),
    ('label_ids', 'nyu13'),
    ('depth', 'meters'),
    ('image_size', (0, 80)),
    ('image_size', (80,)),
    ('crop', (45, 481, 41, 601)),
    ('crop', (45, 45, 41, 601)),
    ('crop', ()),
  ],
)
def test_an_invalid_option_is_named(folder, key, value):
  with pytest.raises(InputError) as error:
    open_mat(folder, **{key: value})
  assert error.value.argument == key


def test_the_error_for_a_missing_archive_says_where_to_get_it(tmp_path):
  for data_dir in ('', str(tmp_path), str(tmp_path / 'nowhere')):
    with pytest.raises(InputError) as error:
      open_mat(data_dir)
    message = str(error.value)
    for part in (NAME, 'splits.mat', 'horatio.cs.nyu.edu', 'GB', 'data_dir'):
      assert part in message
    assert error.value.argument == 'data_dir'
    assert "'nyuv2';" not in message
  (tmp_path / 'train' / 'image').mkdir(parents=True)
  with pytest.raises(InputError, match="the dataset 'nyuv2';"):
    open_mat(tmp_path)


@pytest.mark.parametrize('name', ['splits.mat', 'classMapping40.mat'])
def test_a_missing_small_file_is_named(copy, name):
  (copy / name).unlink()
  with pytest.raises(InputError, match='no such file') as error:
    open_mat(copy)
  assert_helpful(error.value, copy / name)


@pytest.mark.parametrize(
  'name', ['splits.mat', 'classMapping40.mat', 'class13Mapping.mat']
)
def test_a_small_file_in_another_format_is_named(copy, name):
  whole = (copy / name).read_bytes()
  with h5py.File(copy / 'new.mat', 'w', userblock_size=512):
    pass
  header = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM'
  v73 = header + (copy / 'new.mat').read_bytes()[128:]
  for content in (b'', b'<html>not found</html>', whole[:200], v73):
    (copy / name).write_bytes(content)
    with pytest.raises(InputError) as error:
      open_mat(copy, classes=13)
    assert_helpful(error.value, copy / name)


def save_mat(**fields):
  return lambda path: scipy.io.savemat(path, fields)


DAMAGED_MAPS = {
  'no map': ('classMapping40.mat', save_mat(className=[1])),
  'a short map': ('classMapping40.mat', save_mat(mapClass=MAP_40[:40])),
  'class 41': ('classMapping40.mat', save_mat(mapClass=MAP_40 + 1)),
  'a class missing': (
    'classMapping40.mat',
    save_mat(mapClass=np.maximum(MAP_40, 2)),
  ),
  'text': ('classMapping40.mat', save_mat(mapClass='abc')),
  'no 13': ('class13Mapping.mat', save_mat(other=[1])),
  'other 13': (
    'class13Mapping.mat',
    lambda path: write_map_13(path.parent, np.arange(40) % 13 + 1),
  ),
  'short 13': (
    'class13Mapping.mat',
    lambda path: write_map_13(path.parent, nyuv2_maps._TO_13[:13]),
  ),
  'frame 0': ('splits.mat', lambda p: write_splits(p.parent, (0, 1), (2,))),
  'frame 4': ('splits.mat', lambda p: write_splits(p.parent, (1, 2), (4,))),
  'shared': ('splits.mat', lambda p: write_splits(p.parent, (1, 2), (2, 3))),
  'twice': ('splits.mat', lambda p: write_splits(p.parent, (1, 1), (3,))),
  'none': ('splits.mat', lambda p: write_splits(p.parent, (1, 2), ())),
  'no test': ('splits.mat', save_mat(trainNdxs=[[1], [2]])),
}


@pytest.mark.parametrize('case', DAMAGED_MAPS)
def test_a_wrong_map_or_split_is_named(copy, case):
  name, write = DAMAGED_MAPS[case]
  write(copy / name)
  with pytest.raises(InputError) as error:
    open_mat(copy, classes=13)
  assert_helpful(error.value, copy / name)


FIELDS = ('images', 'labels', 'depths', 'rawDepths')
DAMAGED_FIELDS = {
  'absent': lambda a: None,
  'of another count': lambda a: a[:1],
  'rows before columns': lambda a: a.swapaxes(-1, -2),
  'signed': lambda a: a.astype(np.int16),
  'a number': lambda a: np.float32(0),
}


@pytest.mark.parametrize('damage', DAMAGED_FIELDS)
@pytest.mark.parametrize('field', FIELDS)
def test_a_missing_or_misshapen_field_is_named(copy, field, damage):
  with h5py.File(copy / NAME, 'r+') as file:
    array = DAMAGED_FIELDS[damage](file[field][()])
    del file[field]
    if array is not None:
      file[field] = array
  # The number of frames is that of the images.
  other = field == 'images' and damage == 'of another count'
  with pytest.raises(InputError, match='labels' if other else field) as error:
    open_mat(copy)
  assert_helpful(error.value, copy / NAME)


def test_images_of_16_bits_are_errors(copy):
  with h5py.File(copy / NAME, 'r+') as file:
    images = file['images'][()]
    del file['images']
    file['images'] = images * np.uint16(257)
  with pytest.raises(InputError, match='images of uint8'):
    open_mat(copy)


def test_raw_depth_may_be_absent_if_nothing_needs_it(copy, tmp_path):
  write_normals(tmp_path / 'n', 'npy')
  with h5py.File(copy / NAME, 'r+') as file:
    del file['rawDepths']
  dataset = open_mat(copy, normals_dir=str(tmp_path / 'n'))
  assert dataset.source('val')[0]['normals'].any()


def test_a_truncated_archive_is_named(copy):
  whole = (copy / NAME).read_bytes()
  for length in (0, 100, len(whole) // 2, len(whole) - 1):
    (copy / NAME).write_bytes(whole[:length])
    with pytest.raises(InputError, match='a complete HDF5 file') as error:
      open_mat(copy)
    assert_helpful(error.value, copy / NAME)


def test_a_damaged_frame_is_named(copy):
  with h5py.File(copy / NAME, 'r+') as file:
    labels = file['labels'][()]
    del file['labels']
    packed = file.create_dataset(
      'labels', data=labels, chunks=(1, 640, 480), compression='gzip'
    )
    chunk = packed.id.get_chunk_info(2)
  with open(copy / NAME, 'r+b') as file:
    file.seek(chunk.byte_offset)
    file.write(bytes(chunk.size))
  dataset = open_mat(copy)
  dataset.source('train')[0]
  with pytest.raises(InputError, match='frame 3 of labels') as error:
    check_dataset(
      dataset, ('train', 'val'), console=Console(file=io.StringIO())
    )
  assert_helpful(error.value, copy / NAME)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('labels', 895, 'ids up to 894'),
    ('depths', 2500, 'meters in depths'),  # millimeters
    ('depths', -0.1, 'meters in depths'),
    ('depths', np.nan, 'meters in depths'),
    ('rawDepths', np.inf, 'meters in rawDepths'),
  ],
)
def test_a_wrong_number_is_named_when_its_frame_is_read(
  copy, field, value, message
):
  with h5py.File(copy / NAME, 'r+') as file:
    file[field][1, 200:500, 100:400] = value
  source = open_mat(copy).source('train')
  source[0]
  with pytest.raises(InputError, match=message) as error:
    source[1]
  assert 'frame 2' in error.value.found
  assert_helpful(error.value, copy / NAME)


def test_ids_of_the_other_kind_are_errors(copy):
  with pytest.raises(InputError, match=r"'nyu40'.*\n.*in frame") as error:
    open_mat(copy, label_ids='nyu40').source('val')[0]
  assert 'label_ids' in error.value.do


def test_a_copy_without_the_894_names_is_not_the_official_one(copy):
  with h5py.File(copy / NAME, 'r+') as file:
    del file['names']
  with pytest.raises(InputError, match='0 names') as error:
    open_mat(copy)
  assert "label_ids to 'nyu40'" in error.value.do


# ---- Real frames ------------------------------------------------------------


def test_real_frames_agree_with_the_published_dump(shared_data, tmp_path):
  fixtures = shared_data / 'fixtures'
  archive = fixtures / 'nyu_depth_v2_labeled_2frames.mat'
  (tmp_path / NAME).symlink_to(archive)
  write_splits(tmp_path, (1,), (2,))
  dataset = open_mat(
    tmp_path,
    image_size=(288, 384),
    crop=WHOLE,
    classes=13,
    label_ids='nyu40',
    depth='raw',
  )
  dump = nyuv2.make(data_dir=str(fixtures / 'nyuv2_mtan'))
  for split in ('train', 'val'):
    ours, theirs = dataset.source(split)[0], dump.source(split)[0]
    for key in ('semantic', 'depth'):
      np.testing.assert_array_equal(ours[key], theirs[key])
    assert np.abs(ours['image'] - theirs['image']).mean() < 0.01
  # The dump's axes are x right, y ahead, z up.
  x, y, z = np.moveaxis(dump.source('train')[0]['normals'], -1, 0)
  theirs = np.stack([x, -z, y], -1)
  ours = dataset.source('train')[0]['normals']
  both = ours.any(-1) & theirs.any(-1)
  assert both.mean() > 0.5
  cosine = np.clip((ours * theirs)[both].sum(-1), -1, 1)
  angle = np.degrees(np.arccos(cosine))
  assert np.median(angle) < 2.5
  assert (angle < 11.25).mean() > 0.93
