"""Paths in a bucket, access to it, its objects, and copies of them."""

import pathlib
import shutil

from fixtures.bucket import Buckets
import pytest

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import bucket_copies, buckets


@pytest.mark.parametrize(
  'given, expected',
  [
    ('gs://b/runs/a', 'gs://b/runs/a'),
    ('GS://b/a', 'gs://b/a'),
    (pathlib.Path('s3://b/a'), 's3://b/a'),  # which is s3:/b/a
    ('az://b', 'az://b'),
  ],
)
def test_a_path_in_a_bucket(given, expected):
  assert buckets.is_bucket(given)
  path = buckets.path_of(given)
  assert str(path) == expected == str(buckets.absolute(path))
  assert str(path / 'c') == f'{expected}/c' and buckets.is_bucket(path / 'c')
  assert buckets.path_of(path) == path


@pytest.mark.parametrize('given', ['a', '/a/gs:/b', './gs://b', 'gs', ''])
def test_a_path_of_this_machine_is_that_of_pathlib(given):
  assert not buckets.is_bucket(given)
  assert buckets.path_of(given) == pathlib.Path(given)
  assert type(buckets.path_of(given)) is type(pathlib.Path())


def test_objects_are_written_whole(bucket):
  folder = buckets.path_of(f'{bucket}/a')
  assert buckets.objects(folder) == {} and not folder.exists()
  buckets.write(folder / 'x', b'one')
  buckets.write(folder / 'y' / 'z', b'three')
  sizes = {name: x.size for name, x in buckets.objects(folder).items()}
  assert sizes == {'x': 3, 'y/z': 5}
  with pytest.raises(FileExistsError):
    buckets.write(folder / 'x', b'two', new=True)
  assert buckets.read(folder / 'x') == b'one'
  buckets.write(folder / 'x', b'two')
  assert buckets.read(folder / 'x') == b'two'
  assert buckets.read(folder / 'nothing') is None
  buckets.move(folder, buckets.path_of(f'{bucket}/b'))
  assert not folder.exists()
  buckets.remove(buckets.path_of(f'{bucket}/b/y'))
  assert [*buckets.objects(buckets.path_of(bucket))] == ['b/x']


@pytest.mark.parametrize('way', ['read', 'write'])
def test_a_bucket_without_permission_is_one_message(bucket, way, monkeypatch):
  monkeypatch.setattr(Buckets, 'denied', {way})
  path = buckets.path_of(f'{bucket}/run')
  with pytest.raises(InputError) as error:
    buckets.check_access(path, argument='workdir', write=way == 'write')
  assert f'no permission to {way} test' in error.value.found
  assert (error.value.where, error.value.argument) == (f'{path}', 'workdir')
  with pytest.raises(OSError, match='no permission'):
    buckets.write(path, b'') if way == 'write' else buckets.read(path)


def test_a_bucket_that_can_be_used(bucket):
  for write in (False, True):
    buckets.check_access(
      buckets.path_of(f'{bucket}/new/run'), argument='workdir', write=write
    )
  assert buckets.objects(buckets.path_of(bucket)) == {}  # nothing is left


@pytest.mark.parametrize(
  'path, found, do',
  [
    ('gs://tets/run', 'bucket tets not found', 'name of the bucket'),
    ('http://test/run', 'http://test/run', 'copy'),
  ],
)
def test_what_is_no_bucket_is_refused(bucket, path, found, do):
  with pytest.raises(InputError) as error:
    paths.expand(path, argument='workdir')
  assert found in error.value.found and do in error.value.do


def test_a_package_that_is_missing_is_named(monkeypatch):
  def missing(path):
    raise ImportError('Install gcsfs to access Google Storage')

  monkeypatch.setattr(buckets, 'filesystem', missing)
  with pytest.raises(InputError, match='pip install gcsfs'):
    paths.expand('gs://test/run', argument='workdir')


# ---- Copies ------------------------------------------------------------------


@pytest.fixture
def data(bucket):
  """A folder with two files."""
  folder = buckets.path_of(f'{bucket}/data')
  buckets.write(folder / 'a.txt', b'one')
  buckets.write(folder / 'sub' / 'b.txt', b'two')
  return folder


def contents(folder):
  files = (p for p in folder.rglob('*') if p.is_file())
  return {p.relative_to(folder).as_posix(): p.read_text() for p in files}


def test_only_what_has_changed_is_copied_again(data, monkeypatch):
  copied, get = [], Buckets.get_file

  def get_file(self, path, to, **options):
    copied.append(path)
    get(self, path, to, **options)

  monkeypatch.setattr(Buckets, 'get_file', get_file)
  copy = bucket_copies.local(data, argument='data_dir')
  assert contents(copy) == {'a.txt': 'one', 'sub/b.txt': 'two'}
  assert paths.as_text(copy / 'sub') == f'{data}/sub'
  (data / 'a.txt').unlink()
  buckets.write(data / 'sub' / 'b.txt', b'new')  # of the same size
  buckets.write(data / 'c.txt', b'three')
  del copied[:]
  done = []
  bucket_copies.local(
    data, argument='data_dir', progress=lambda *numbers: done.append(numbers)
  )
  assert contents(copy) == {'c.txt': 'three', 'sub/b.txt': 'new'}
  assert len(copied) == 2 and done[-1] == (8, 8)
  (copy / 'c.txt').write_text('cut')
  bucket_copies.local(data, argument='data_dir')
  assert contents(copy)['c.txt'] == 'three'
  assert len(copied) == 3


def test_a_copy_that_was_interrupted_goes_on(data, monkeypatch):
  get = Buckets.get_file

  def get_file(self, path, to, **options):
    if 'b.txt' in path:
      raise ConnectionError('away')
    get(self, path, to, **options)

  with monkeypatch.context() as context:
    context.setattr(Buckets, 'get_file', get_file)
    with pytest.raises(InputError, match='away'):
      bucket_copies.local(data, argument='data_dir')
  copy = bucket_copies.local(data, argument='data_dir')
  assert contents(copy) == {'a.txt': 'one', 'sub/b.txt': 'two'}


def test_one_file_and_nothing(data):
  copy = paths.local(f'{data}/a.txt', argument='path', kind='file')
  assert copy.read_text() == 'one'
  nothing = paths.local(f'{data}/c', argument='path')
  assert not nothing.exists() and paths.why_no_folder(nothing)


def test_a_disk_that_is_too_small_is_told_before(data, monkeypatch):
  usage = shutil.disk_usage('/')._replace(free=5)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(InputError, match='MTL_KD_JAX_CACHE') as error:
    bucket_copies.local(data, argument='data_dir')
  assert error.value.argument == 'data_dir'


def test_what_a_folder_in_a_bucket_contains(data):
  assert paths.contents(data) == 'a.txt, sub'
  assert not paths.why_no_folder(data) and not paths.why_no_file(data / 'a.txt')
  assert paths.why_no_folder(data / 'c') == 'no such folder'
  assert paths.why_no_file(data) == 'a file or folder of that name'
