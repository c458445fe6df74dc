"""Paths that users give: expanded, looked up, and written in messages."""

import contextlib
import errno
import os
import pathlib
import re
import stat
import unicodedata

from rich.console import Console

from mtl_kd_jax.datasets.progress import show_progress
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.runtime import bucket_copies, buckets

# Endings of one format, which cameras and programs use alike.
SAME_ENDINGS = {
  '.jpeg': '.jpg',
  '.jpe': '.jpg',
  '.jfif': '.jpg',
  '.tiff': '.tif',
}
_LITTLE = 10**7  # bytes that are copied without a word
# Also of a pathlib.Path, which makes one slash of two.
_URL = re.compile(r'[a-z][a-z0-9+.-]+:/', re.IGNORECASE)


def expand(
  path: str | os.PathLike, *, argument: str, kind: str = 'folder'
) -> 'buckets.Path':
  """A path, which need not exist, with ~ for the home directory.

  Args:
    path: of a folder or a file.
    argument: names it in errors.
    kind: what it is the path of, for errors.

  Raises:
    InputError: it is no path, nothing can have that name, or it is in a bucket
      that cannot be read.
  """
  check_type(
    path,
    (str, os.PathLike),
    expected=f'the path of a {kind}',
    argument=argument,
    do='give a string or a pathlib.Path',
  )
  if buckets.is_bucket(path):
    in_bucket = buckets.path_of(path)
    buckets.check_access(in_bucket, argument=argument)
    return in_bucket
  text, found = os.fspath(path), ''
  if _URL.match(text):  # it would become a folder of an odd name
    raise InputError(
      expected=f'a {kind} of this machine, or in a bucket: '
      + ', '.join(f'{scheme}://' for scheme in buckets.SCHEMES),
      found=as_text(path)[:99],
      argument=argument,
      do=f'copy the {kind} to this machine, or mount what it is in',
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


def local(
  path: str | os.PathLike, *, argument: str, kind: str = 'folder'
) -> pathlib.Path:
  """A path to read from, as `expand`; or the copy of what is in a bucket.

  Raises:
    InputError: as `expand`, or what is in the bucket cannot be copied.
  """
  expanded = expand(path, argument=argument, kind=kind)
  if not buckets.is_bucket(expanded):
    return expanded
  with contextlib.ExitStack() as stack:
    show = None

    def progress(done, total):
      nonlocal show
      if total < _LITTLE:
        return
      if show is None:
        title = f'copying {expanded} (MB)'
        shown = show_progress(title, Console(stderr=True))
        show = stack.enter_context(shown)
      show(-(-done // 10**6), -(-total // 10**6))

    return bucket_copies.local(expanded, argument=argument, progress=progress)


def why_no_file(path: 'buckets.Path') -> str:
  """Why no file can be read at a path; '' if there is one."""
  return _why_not(path, stat.S_ISREG, 'file')


def why_no_folder(path: 'buckets.Path') -> str:
  """Why no folder is at a path; '' if there is one."""
  return _why_not(path, stat.S_ISDIR, 'folder')


def _why_not(path, is_wanted, wanted) -> str:
  if buckets.is_bucket(path):
    if not path.exists():
      return f'no such {wanted}'
    kind = stat.S_IFDIR if path.is_dir() else stat.S_IFREG
    return '' if is_wanted(kind) else 'a file or folder of that name'
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


def contents(folder: 'buckets.Path', *, most: int = 5) -> str:
  """What is in a folder, for messages: 'ids, photo'; 'nothing'."""
  try:
    if buckets.is_bucket(folder):
      names = [path.name for path in folder.iterdir()]
    else:
      names = os.listdir(folder)
    names = sorted(n for n in names if not n.startswith('.'))
  except (OSError, ValueError) as error:
    return f'nothing that can be listed ({error})'
  return some([as_text(name) for name in names], most=most) or 'nothing'


def some(names: list[str], *, most: int = 3) -> str:
  """The first of some names, for messages: 'a, b, c ...'."""
  return ', '.join(names[:most]) + (' ...' if len(names) > most else '')


def as_text(path: str | os.PathLike) -> str:
  """A path for messages: what cannot be printed is escaped.

  Of a copy of what is in a bucket, it is the name there.
  """
  path = bucket_copies.name_of(path)
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
