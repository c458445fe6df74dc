"""Compiled programs pass from one run of the tests to the next."""

import os
import pathlib

from fixtures import compilation_cache
from jax._src.compilation_cache import compress_executable
import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))


def write(folder, name, size=1000):
  path = pathlib.Path(folder) / f'{name}-cache'
  path.write_bytes(compress_executable(os.urandom(size)))
  return path


def names(folder):
  return {path.name for path in pathlib.Path(folder).iterdir()}


def test_complete_programs_are_kept_and_half_written_ones_are_not(tmp_path):
  complete = write(tmp_path, 'complete')
  half = write(tmp_path, 'half')
  half.write_bytes(half.read_bytes()[:500])
  write(tmp_path, 'empty').write_bytes(b'')
  compilation_cache.keep(tmp_path)
  with compilation_cache.start() as folder:
    assert names(folder) == {'complete-cache'}
    path = pathlib.Path(folder) / complete.name
    assert path.read_bytes() == complete.read_bytes()


def test_the_first_run_begins_with_nothing():
  with compilation_cache.start() as folder:
    assert names(folder) == set()


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
  monkeypatch.setattr(compilation_cache, '_MAX_BYTES', 4500)
  for run, name in enumerate('abcde'):
    folder = tmp_path / name
    folder.mkdir()
    write(folder, name)
    compilation_cache.keep(folder)
    for path in (tmp_path / 'home').rglob(f'{name}-cache'):
      os.utime(path, (run, run))
  with compilation_cache.start() as folder:
    assert names(folder) == {'d-cache', 'e-cache'}


def test_two_runs_at_a_time_share_nothing(tmp_path):
  write(tmp_path, 'kept')
  compilation_cache.keep(tmp_path)
  with compilation_cache.start() as one, compilation_cache.start() as two:
    write(one, 'new')
    assert names(two) == {'kept-cache'}
