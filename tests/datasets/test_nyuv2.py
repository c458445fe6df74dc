"""The .npy dump of NYU-v2: exact samples, and errors that name the cause."""

from concurrent import futures
import hashlib
import io
import pathlib
import subprocess
import sys
import time

from fixtures.bucket import upload
import numpy as np
import pytest
from rich.console import Console

from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.datasets.nyuv2 import npy as nyuv2
from mtl_kd_jax.errors import InputError

SIZE = (64, 96)
KEYS = {
  'image': 'image',
  'label': 'semantic',
  'depth': 'depth',
  'normal': 'normals',
}


def make_frame(seed, size=SIZE):
  """Contents of the four files of a frame, as in the published dump."""
  rng = np.random.default_rng(seed)
  normal = rng.normal(size=(*size, 3))
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  depth = rng.uniform(0.5, 9, (*size, 1))
  missing = rng.random(size) < 0.1
  normal[missing], depth[missing] = 0, 0
  return {
    'image': rng.random((*size, 3)).astype(np.float32),
    'label': rng.integers(-1, 13, size).astype(np.float32),
    'depth': depth.astype(np.float32),
    'normal': normal.astype(np.float32),
  }


def write_frame(split: pathlib.Path, name, frame):
  for folder, array in frame.items():
    (split / folder).mkdir(parents=True, exist_ok=True)
    np.save(split / folder / f'{name}.npy', array)


@pytest.fixture
def folder(tmp_path):
  """Two training frames and one of 'val', all good."""
  write_frame(tmp_path / 'train', 0, make_frame(0))
  write_frame(tmp_path / 'train', 1, make_frame(1))
  write_frame(tmp_path / 'val', 0, make_frame(2))
  return tmp_path


def read(folder, index=1, split='train'):
  return nyuv2.make(data_dir=str(folder)).source(split)[index]


def check(folder):
  console = Console(file=io.StringIO())
  check_dataset(
    nyuv2.make(data_dir=str(folder)), ('train', 'val'), console=console
  )


def assert_helpful(error: InputError, path: pathlib.Path):
  """The message names the file or folder, and says what to do."""
  assert str(path) in error.where
  assert error.where in str(error)
  assert len(error.do) > 15
  assert error.do in str(error)


def snapshot(folder):
  return {
    path: (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns)
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def test_a_good_folder_is_read_back_exactly(folder):
  dataset = nyuv2.make(data_dir=str(folder))
  assert dataset.image_size == SIZE
  assert dataset.labels.keys() == {'semantic', 'depth', 'normals'}
  assert len(dataset.labels['semantic'].classes) == 13
  assert dataset.labels['depth'].unit == 'm'
  for split, seeds in (('train', (0, 1)), ('val', (2,))):
    source = dataset.source(split)
    assert len(source) == len(seeds)
    for i, seed in enumerate(seeds):
      sample, frame = source[i], make_frame(seed)
      assert sample.keys() == set(KEYS.values())
      for name, key in KEYS.items():
        np.testing.assert_array_equal(sample[key], frame[name])
        dtype = np.int32 if key == 'semantic' else np.float32
        assert sample[key].dtype == dtype
        assert sample[key].shape == frame[name].shape


def test_the_dump_may_be_in_a_bucket(folder, bucket):
  for split in ('train', 'val'):
    upload(folder / split, f'{bucket}/nyuv2/{split}')
  for split, index in (('train', 1), ('val', 0)):
    sample, same = (
      read(place, index, split) for place in (f'{bucket}/nyuv2', folder)
    )
    assert sample.keys() == same.keys()
    for name, x in sample.items():
      np.testing.assert_array_equal(x, same[name])


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
  # Frames are identified by their depth, 1 + number.
  for number in range(12):
    frame = make_frame(number, size=(4, 6))
    frame['depth'][:] = 1 + number
    write_frame(tmp_path / 'train', number, frame)
  write_frame(tmp_path / 'val', 0, make_frame(0, size=(4, 6)))
  source = nyuv2.make(data_dir=str(tmp_path)).source('train')
  order = [float(source[i]['depth'][0, 0, 0]) - 1 for i in range(len(source))]
  assert order == list(range(12))


def test_depth_and_label_may_have_a_channel_axis_or_not(folder):
  frame = make_frame(1)
  np.save(folder / 'train/depth/1.npy', frame['depth'][..., 0])
  np.save(folder / 'train/label/1.npy', frame['label'][..., None])
  sample = read(folder)
  np.testing.assert_array_equal(sample['depth'], frame['depth'])
  np.testing.assert_array_equal(sample['semantic'], frame['label'])


@pytest.mark.parametrize('dtype', [np.float64, np.float16])
def test_other_float_types_are_converted(folder, dtype):
  frame = make_frame(1)
  write_frame(
    folder / 'train', 1, {k: x.astype(dtype) for k, x in frame.items()}
  )
  sample = read(folder)
  for name, key in KEYS.items():
    expected = frame[name].astype(dtype).astype(sample[key].dtype)
    np.testing.assert_array_equal(sample[key], expected)
  assert sample['depth'].dtype == sample['image'].dtype == np.float32


def test_whole_classes_are_read_from_integers(folder):
  frame = make_frame(1)
  np.save(folder / 'train/label/1.npy', frame['label'].astype(np.int64))
  np.testing.assert_array_equal(read(folder)['semantic'], frame['label'])


@pytest.mark.parametrize('name', ['label', 'depth', 'normal'])
def test_an_absent_folder_is_a_task_without_labels(folder, name):
  for split in ('train', 'val'):
    for path in (folder / split / name).iterdir():
      path.unlink()
    (folder / split / name).rmdir()
  dataset = nyuv2.make(data_dir=str(folder))
  keys = set(KEYS.values()) - {KEYS[name]}
  assert dataset.labels.keys() == keys - {'image'}
  assert dataset.source('train')[0].keys() == keys
  check(folder)


def test_normals_that_are_all_zero_are_unlabeled(folder):
  np.save(folder / 'train/normal/1.npy', np.zeros((*SIZE, 3), np.float32))
  dataset = nyuv2.make(data_dir=str(folder))
  missing = dataset.labels['normals'].missing(SIZE)
  np.testing.assert_array_equal(read(folder)['normals'], missing)
  check(folder)


@pytest.mark.parametrize('data_dir', ['', 'not there', 'only train'])
def test_the_error_for_a_missing_folder_says_where_to_get_it(
  tmp_path, data_dir
):
  write_frame(tmp_path / 'only train' / 'train', 0, make_frame(0))
  path = str(tmp_path / data_dir) if data_dir else ''
  with pytest.raises(InputError) as error:
    nyuv2.make(data_dir=path)
  message = str(error.value)
  assert error.value.argument == 'data_dir' and path in error.value.where
  for part in (
    'github.com/lorenmt/mtan',  # from where
    '288x384',  # which of them
    'GB',
    'data_dir',  # where to name it
    'train/',
    'val/',
    "'scenes'",  # what needs no download
  ):
    assert part in message, part


def test_the_error_for_the_official_archive_names_its_dataset(tmp_path):
  with pytest.raises(InputError) as error:
    nyuv2.make(data_dir=str(tmp_path))
  assert 'nyuv2_mat' not in error.value.do
  (tmp_path / 'nyu_depth_v2_labeled.mat').touch()
  with pytest.raises(InputError, match="the dataset 'nyuv2_mat';"):
    nyuv2.make(data_dir=str(tmp_path))


def test_an_empty_image_folder_is_named(folder):
  (folder / 'val/image/0.npy').unlink()
  with pytest.raises(InputError) as error:
    nyuv2.make(data_dir=str(folder))
  assert_helpful(error.value, folder / 'val' / 'image')


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', ['label', 'depth', 'normal'])
def test_folders_of_different_frames_are_named(folder, split, name):
  (folder / split / name / '0.npy').unlink()
  with pytest.raises(InputError) as error:
    nyuv2.make(data_dir=str(folder))
  assert_helpful(error.value, folder / split)
  assert f'{name}/' in str(error.value)
  assert '0.npy' in error.value.found


def test_frames_are_matched_by_name_not_by_number(folder):
  (folder / 'train/depth/1.npy').rename(folder / 'train/depth/7.npy')
  with pytest.raises(InputError, match=r'1\.npy, 7\.npy'):
    nyuv2.make(data_dir=str(folder))


def broken(array, value, where=(3, 5)):
  array = array.copy()
  array[where] = value
  return array


# case -> folder, and its array -> a damaged one
DAMAGES = {
  'image, another size': ('image', lambda a: a[:-1]),
  'image, gray': ('image', lambda a: a[..., 0]),
  'image, axes as in PyTorch': ('image', lambda a: a.transpose(2, 0, 1)),
  'image, bytes': ('image', lambda a: (255 * a).astype(np.uint8)),
  'image, 0 to 255': ('image', lambda a: 255 * a),
  'image, negative': ('image', lambda a: broken(a, -0.5)),
  'image, NaN': ('image', lambda a: broken(a, np.nan)),
  'image, strings': ('image', lambda a: np.full(a.shape, 'x')),
  'label, another size': ('label', lambda a: a[:, 1:]),
  'label, one-hot': ('label', lambda a: np.eye(13)[a.astype(int)]),
  'label, class 13': ('label', lambda a: broken(a, 13)),
  'label, 255 for void': (
    'label',
    lambda a: broken(a.astype(np.uint8) % 13, 255),
  ),
  'label, -2': ('label', lambda a: broken(a, -2)),
  'label, blended': ('label', lambda a: broken(a, 2.5)),
  'label, NaN': ('label', lambda a: broken(a, np.nan)),
  'label, booleans': ('label', lambda a: a > 0),
  'depth, another size': ('depth', lambda a: a[:-1]),
  'depth, three channels': ('depth', lambda a: np.repeat(a, 3, -1)),
  'depth, negative': ('depth', lambda a: broken(a, -0.1)),
  'depth, NaN': ('depth', lambda a: broken(a, np.nan)),
  'depth, infinite': ('depth', lambda a: broken(a, np.inf)),
  'depth, complex': ('depth', lambda a: a.astype(complex)),
  'normal, another size': ('normal', lambda a: a[:-1]),
  'normal, colors': ('normal', lambda a: (a + 1) / 2),
  'normal, blended': ('normal', lambda a: broken(a, [0.5, 0, 0])),
  'normal, too long': ('normal', lambda a: broken(a, [1, 1, 0])),
  'normal, NaN': ('normal', lambda a: broken(a, np.nan)),
  'normal, strings': ('normal', lambda a: np.full(a.shape, 'x')),
}


@pytest.mark.parametrize('case', DAMAGES)
def test_a_damaged_file_is_named(folder, case):
  name, damage = DAMAGES[case]
  np.save(folder / f'train/{name}/1.npy', damage(make_frame(1)[name]))
  before = snapshot(folder)
  with pytest.raises(InputError) as error:
    check(folder)
  assert_helpful(error.value, folder / 'train' / name / '1.npy')
  assert 'docs/data.md' in error.value.do
  with pytest.raises(InputError) as again:  # without the check, when read
    read(folder)
  assert str(again.value) == str(error.value)
  assert snapshot(folder) == before


@pytest.mark.parametrize('name', KEYS)
def test_a_truncated_file_is_named(folder, name):
  path = folder / f'train/{name}/1.npy'
  whole = path.read_bytes()
  for length in (0, 5, 60, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(InputError) as error:
      check(folder)
    assert_helpful(error.value, path)


# NumPy evaluates the text of a header, which can fail in many ways.
@pytest.mark.parametrize('at, byte', [(127, b'{'), (50, b'b'), (12, b'\xff')])
def test_a_file_with_a_damaged_header_is_named(folder, at, byte):
  path = folder / 'train/depth/1.npy'
  content = path.read_bytes()
  path.write_bytes(content[:at] + byte + content[at + 1 :])
  with pytest.raises(InputError) as error:
    check(folder)
  assert_helpful(error.value, path)


@pytest.mark.parametrize('name', KEYS)
def test_pickled_objects_are_errors_and_not_unpickled(folder, name):
  path = folder / f'train/{name}/1.npy'
  np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
  with pytest.raises(InputError) as error:
    check(folder)
  assert_helpful(error.value, path)


class Bomb:
  """Fails the test if it is unpickled."""

  def __reduce__(self):
    return pytest.fail, ('code from a data file was run',)


@pytest.mark.parametrize('length', [None, 100], ids=['whole', 'truncated'])
def test_an_npz_with_the_suffix_npy_is_named(folder, length):
  path = folder / 'train/depth/1.npy'
  packed = io.BytesIO()
  np.savez(packed, depth=make_frame(1)['depth'])
  path.write_bytes(packed.getvalue()[:length])
  with pytest.raises(InputError) as error:
    check(folder)
  assert_helpful(error.value, path)


@pytest.mark.parametrize(
  'array',
  [np.zeros(3), np.float64(0), np.zeros((0, 0, 3))],
  ids=['row', 'number', 'empty'],
)
def test_a_damaged_first_image_is_named_when_the_folder_is_opened(
  folder, array
):
  path = folder / 'train/image/0.npy'
  np.save(path, array)
  with pytest.raises(InputError) as error:
    nyuv2.make(data_dir=str(folder))
  assert_helpful(error.value, path)


def test_a_whole_frame_of_another_size_is_named(folder):
  write_frame(folder / 'train', 1, make_frame(1, size=(32, 48)))
  with pytest.raises(InputError) as error:
    check(folder)
  assert_helpful(error.value, folder / 'train/image/1.npy')
  assert '64' in error.value.expected and '96' in error.value.expected
  assert '32' in error.value.found and '48' in error.value.found


def test_check_names_the_first_of_several_bad_files(tmp_path):
  for number in range(12):
    write_frame(tmp_path / 'train', number, make_frame(number, size=(4, 6)))
  write_frame(tmp_path / 'val', 0, make_frame(0, size=(4, 6)))
  for path in ('val/depth/0', 'train/image/11', 'train/depth/9'):
    np.save(tmp_path / f'{path}.npy', np.full((4, 6), -1.0))
  before = snapshot(tmp_path)
  with pytest.raises(InputError) as error:
    check(tmp_path)
  assert_helpful(error.value, tmp_path / 'train/depth/9.npy')
  assert snapshot(tmp_path) == before


def test_check_accepts_a_good_folder_and_does_not_change_it(folder):
  before = snapshot(folder)
  check(folder)
  assert snapshot(folder) == before
  assert len(before) == 12


def test_check_reads_only_the_splits_it_is_given(folder):
  np.save(folder / 'val/depth/0.npy', np.full(SIZE, -1.0))
  dataset = nyuv2.make(data_dir=str(folder))
  check_dataset(dataset, ('train',), console=Console(file=io.StringIO()))
  with pytest.raises(InputError):
    check_dataset(dataset, ('val',), console=Console(file=io.StringIO()))


def test_real_frames_of_the_dump_are_read(shared_data):
  dataset = nyuv2.make(data_dir=str(shared_data / 'fixtures/nyuv2_mtan'))
  assert dataset.image_size == (288, 384)
  train, val = dataset.source('train')[0], dataset.source('val')[0]
  assert not val['normals'].any()
  assert train['normals'].any(-1).mean() > 0.5
  for sample in (train, val):
    assert sample['semantic'].shape == (288, 384)
    assert len(np.unique(sample['semantic'])) > 3
    assert 0.5 < sample['depth'].max() < 10
  check(shared_data / 'fixtures/nyuv2_mtan')


def test_unpacked_real_frames_pass_the_check(shared_data, tmp_path):
  subprocess.run(
    [sys.executable, shared_data / 'unpack.py', tmp_path, '--limit', '4'],
    check=True,
    capture_output=True,
  )
  dataset = nyuv2.make(data_dir=str(tmp_path))
  assert dataset.image_size == (96, 128)
  assert len(dataset.source('train')) == len(dataset.source('val')) == 4
  check(tmp_path)
  for i in range(4):
    for name, key in KEYS.items():
      written = np.load(tmp_path / f'train/{name}/{i}.npy')
      np.testing.assert_array_equal(dataset.source('train')[i][key], written)


def test_headers_are_parsed_by_one_thread_at_a_time(folder, monkeypatch):
  """Up to Python 3.11.4, `ast` fails if several threads use it at once."""
  parse, parsing, counts = np.lib.format.read_magic, [], []

  def counted(*args, **kwargs):
    parsing.append(None)
    time.sleep(1e-3)  # long enough for other threads to get here
    counts.append(len(parsing))
    parsing.pop()
    return parse(*args, **kwargs)

  monkeypatch.setattr(np.lib.format, 'read_magic', counted)
  source = nyuv2.make(data_dir=str(folder)).source('train')
  expected = [source[i]['depth'] for i in range(2)]
  with futures.ThreadPoolExecutor(4) as pool:
    samples = list(pool.map(source.__getitem__, 8 * [0, 1]))
  for i, sample in enumerate(samples):
    np.testing.assert_array_equal(sample['depth'], expected[i % 2])
  assert set(counts) == {1} and len(counts) > 64
