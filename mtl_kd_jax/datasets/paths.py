"""Paths that users give: expanded, looked up, and written in messages."""

import errno
import os
import pathlib
import re
import stat
import unicodedata

from mtl_kd_jax.errors import InputError

# Endings of one format, which cameras and programs use alike.
SAME_ENDINGS = {
  '.jpeg': '.jpg',
  '.jpe': '.jpg',
  '.jfif': '.jpg',
  '.tiff': '.tif',
}
# Also of a pathlib.Path, which makes one slash of two.
_BUCKET = re.compile(r'[a-z][a-z0-9+.-]+:/', re.IGNORECASE)


def expand(
  path: str | os.PathLike, *, argument: str, kind: str = 'folder'
) -> pathlib.Path:
  """A path, which need not exist, with ~ for the home directory.

  Args:
    path: of a folder or a file.
    argument: names it in errors.
    kind: what it is the path of, for errors.

  Raises:
    InputError: nothing can have that name, or it is of a bucket, which would
      become a folder of an odd name.
  """
  text, found = os.fspath(path), ''
  if _BUCKET.match(text):
    raise InputError(
      expected=f'a {kind} of this file system',
      found=as_text(path)[:99],
      argument=argument,
      do=f'mount the bucket (gcsfuse, s3fs), and name a {kind} in it',
    )
  try:
    text = os.path.expanduser(text)  # leaves ~nobody as it is
    if text[:1] == '~':
      user = text[1:].split('/')[0]
      found = f'no user {user!r}' if user else 'no home directory'
    os.lstat(text)
  except ValueError as error:  # a zero byte
    found = f'{error}'
  except OSError as error:
    if error.errno == errno.ENAMETOOLONG:
      found = f'{error.strerror}: {len(text)} characters'
  if found:
    raise InputError(
      expected=f'the name of a {kind}',
      found=found,
      where=as_text(path)[:99],
      argument=argument,
      do=f'correct the name of the {kind} in {argument}',
    )
  return pathlib.Path(text)


def why_no_file(path: pathlib.Path) -> str:
  """Why no file can be read at a path; '' if there is one."""
  return _why_not(path, stat.S_ISREG, 'file')


def why_no_folder(path: pathlib.Path) -> str:
  """Why no folder is at a path; '' if there is one."""
  return _why_not(path, stat.S_ISDIR, 'folder')


def _why_not(path, is_wanted, wanted) -> str:
  try:
    mode = os.stat(path).st_mode
  except ValueError as error:  # a zero byte
    return f'{error}'
  except OSError as error:
    if os.path.islink(path):
      return f'a link that leads to no {wanted}: {error.strerror}'
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
      return f'no such {wanted}'
    return f'{error.strerror}'
  if is_wanted(mode):
    return ''
  if stat.S_ISDIR(mode):
    return 'a folder of that name'
  return 'a file' if stat.S_ISREG(mode) else 'not a regular file'


class SimilarNames:
  """Finds names that differ only in what is easily overlooked.

  That is the case of letters, the ending of one format (.jpg and .jpeg), and
  the form of accented letters in Unicode. A folder is listed once.
  """

  def __init__(self):
    self._folders: dict[pathlib.Path, dict[str, str]] = {}

  def __call__(self, path: pathlib.Path) -> str:
    """A name like that of `path` in its folder; '' if there is none."""
    if path.parent not in self._folders:
      try:
        names = os.listdir(path.parent)
      except (OSError, ValueError):
        names = []
      self._folders[path.parent] = {_normalized(name): name for name in names}
    name = self._folders[path.parent].get(_normalized(path.name), '')
    return '' if name == path.name else name


def _normalized(name):
  stem, ending = os.path.splitext(unicodedata.normalize('NFC', name))
  ending = ending.casefold()
  return stem.casefold() + SAME_ENDINGS.get(ending, ending)


def contents(folder: pathlib.Path, *, most: int = 5) -> str:
  """What is in a folder, for messages: 'ids, photo'; 'nothing'."""
  try:
    names = sorted(n for n in os.listdir(folder) if not n.startswith('.'))
  except (OSError, ValueError) as error:
    return f'nothing that can be listed ({error})'
  return some([as_text(name) for name in names], most=most) or 'nothing'


def some(names: list[str], *, most: int = 3) -> str:
  """The first of some names, for messages: 'a, b, c ...'."""
  return ', '.join(names[:most]) + (' ...' if len(names) > most else '')


def as_text(path: str | os.PathLike) -> str:
  """A path for messages: what cannot be printed is escaped."""
  try:
    text = os.fsencode(path).decode('utf-8', 'backslashreplace')
  except UnicodeEncodeError:  # half of a pair, which no file can have
    text = os.fspath(path)
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


def why_no_such_file(path: pathlib.Path) -> str:
  """As `why_no_file`, with the similar name that there is in its place."""
  found = why_no_file(path)
  similar = SimilarNames()(path) if found.startswith('no such') else ''
  return f'{found}, but there is {as_text(similar)}' if similar else found
