"""Checksums of the files of a folder."""

import builtins
import errno

import pytest

from mtl_kd_jax.runtime import damage
from mtl_kd_jax.runtime.damage import (
  find_damage,
  has_checksums,
  is_changed,
  write_checksums,
)


@pytest.fixture
def folder(tmp_path):
  for name in ('a/b/c', 'a/d', 'e'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
  write_checksums(tmp_path)
  return tmp_path


def test_what_is_as_it_was_written_is_not_damaged(folder):
  assert has_checksums(folder) and find_damage(folder) is None
  (folder / 'e').write_text('a file of the folder itself')
  (folder / 'a' / 'new').write_text('')
  assert find_damage(folder) is None


@pytest.mark.parametrize(
  'change, problem',
  [
    (lambda path: path.write_text('a/b/d'), 'is not as it was written'),
    (lambda path: path.write_text(''), 'is not as it was written'),
    (lambda path: path.unlink(), 'is missing'),
    (lambda path: path.rename(path.with_name('x')), 'is missing'),
    (lambda path: (path.unlink(), path.mkdir()), 'is missing'),
    (lambda path: (path.unlink(), path.symlink_to(path)), 'is missing'),
  ],
  ids=['other', 'empty', 'deleted', 'renamed', 'a folder', 'a loop'],
)
def test_what_differs_is_named(change, problem, folder):
  assert not is_changed(folder, 'a/b/c')
  change(folder / 'a' / 'b' / 'c')
  assert find_damage(folder) == f'a/b/c {problem}'
  assert is_changed(folder, 'a/b/c') and not is_changed(folder, 'a/d')


def test_a_folder_that_has_gone_has_no_checksums(folder):
  assert find_damage(folder / 'gone') is None
  assert not is_changed(folder / 'gone', 'a/b/c')


def test_a_file_that_goes_while_it_is_looked_at_is_missing(folder, monkeypatch):
  def vanish(path, mode):
    path.unlink()
    return builtins.open(path, mode)

  monkeypatch.setattr(damage, 'open', vanish, raising=False)
  assert find_damage(folder) == 'a/b/c is missing'


@pytest.mark.parametrize('text', ['', '[]', '{"files": {}, "checksum": 1}'])
def test_checksums_have_a_checksum(text, folder):
  path = folder / 'checksums.json'
  content = path.read_text()
  for broken in (text, content.replace('a/d', 'a/e')):
    path.write_text(broken)
    assert find_damage(folder) == 'checksums.json is not as it was written'
    assert not is_changed(folder, 'a/d')


@pytest.mark.parametrize('listed', [True, False])
def test_a_machine_that_cannot_read_says_nothing_of_damage(
  listed, folder, monkeypatch
):
  def refuse(path, mode):
    raise PermissionError(errno.EACCES, 'Permission denied', path)

  if not listed:
    (folder / 'checksums.json').unlink()
  monkeypatch.setattr(damage, 'open', refuse, raising=False)
  with pytest.raises(PermissionError):
    find_damage(folder)
