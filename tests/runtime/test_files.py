"""Small files are written whole or not at all, by any number of processes."""

import locale
import os
import pathlib
import socket
import sys

import pytest

from mtl_kd_jax.runtime.files import write_atomically


def test_writing_atomically_replaces_the_whole_file(tmp_path):
  path = tmp_path / 'results.md'
  write_atomically(path, 'a longer old text')
  write_atomically(path, 'new')
  assert path.read_text() == 'new'
  assert [p.name for p in tmp_path.iterdir()] == ['results.md']


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'results.md'
  write_atomically(path, 'old')
  with pytest.raises(UnicodeEncodeError):
    write_atomically(path, 'new \ud800')  # no text that can be encoded
  assert path.read_text() == 'old'

  def fail(source, target):
    # All of the new text is there before the old one goes.
    assert pathlib.Path(source).read_text() == 'new'
    raise OSError('no space left on device')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='no space'):
    write_atomically(path, 'new')
  assert path.read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['results.md']


@pytest.mark.skipif(sys.flags.utf8_mode, reason='no locale is used')
def test_files_are_utf8_in_every_locale(tmp_path):
  path = tmp_path / 'results.md'
  before = locale.setlocale(locale.LC_CTYPE)
  locale.setlocale(locale.LC_CTYPE, 'C')
  try:
    with pytest.raises(UnicodeEncodeError):
      (tmp_path / 'other').write_text('\u0394MTL \u2191')  # the locale's
    write_atomically(path, '\u0394MTL \u2191')
  finally:
    locale.setlocale(locale.LC_CTYPE, before)
  assert path.read_bytes().decode('utf-8') == '\u0394MTL \u2191'


@pytest.mark.parametrize(
  'module, name, other', [(os, 'getpid', 7), (socket, 'gethostname', 'b')]
)
def test_processes_that_write_at_the_same_time_do_not_disturb_each_other(
  module, name, other, tmp_path, monkeypatch
):
  path, replace = tmp_path / 'config.json', os.replace

  def interrupted(source, target):
    """Another process writes the same file before this one is done."""
    with monkeypatch.context() as patch:
      patch.setattr(module, name, lambda: other)
      patch.setattr(os, 'replace', replace)
      write_atomically(path, 'of the other')
    assert pathlib.Path(source).read_text() == 'of this one'
    replace(source, target)

  monkeypatch.setattr(os, 'replace', interrupted)
  write_atomically(path, 'of this one')
  assert path.read_text() == 'of this one'
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
