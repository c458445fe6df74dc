"""Folders in a bucket (gs://, s3://, az://), beside those of this machine.

  path_of('runs/a')         a pathlib.Path, used as ever
  path_of('gs://b/runs/a')  an etils.epath.Path, with most of the same methods

Small files are read from a bucket and written to it as they are. A bucket has
neither folders nor locks, and its objects can be neither renamed nor appended
to: they are written whole, and everybody sees the old one or the new one. What
libraries read and write for themselves, such as checkpoints, and what is read
many times, such as data, goes through copies (bucket_copies.py).
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mtl_kd_jax.errors import InputError

if TYPE_CHECKING:
  from etils import epath
  import fsspec

  Path: TypeAlias = pathlib.Path | epath.Path

# scheme -> the package that fsspec reaches such buckets with
SCHEMES = {'gs': 'gcsfs', 's3': 's3fs', 'az': 'adlfs'}
# Those that raise errors of their own.
_PACKAGES = (
  *(f'{package}.' for package in SCHEMES.values()),
  *('aiohttp.', 'azure.', 'botocore.', 'google.api_core.', 'google.auth.'),
)
# pathlib.Path('gs://b/a') makes one slash of two.
_URL = re.compile(rf'({"|".join(SCHEMES)}):/+', re.IGNORECASE)


def is_bucket(path: str | os.PathLike) -> bool:
  """Whether a path is one in a bucket."""
  if isinstance(path, pathlib.Path) and path.is_absolute():
    return False  # the common case, fast
  return _URL.match(os.fspath(path)) is not None


def path_of(path: str | os.PathLike) -> 'Path':
  """A path with the methods of pathlib, on this machine or in a bucket.

  Nothing is looked up.
  """
  text = os.fspath(path)
  if not (match := _URL.match(text)):
    return pathlib.Path(text)
  from etils import epath  # not for those who have no bucket

  # epath would import TensorFlow for buckets where that is installed.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  return epath.Path(f'{match[1].lower()}://{text[match.end() :]}')


def absolute(path: 'Path') -> 'Path':
  """The path from the root; that of a bucket is one anyway."""
  # epath would put it below the current folder.
  return path if is_bucket(path) else path.absolute()


def make_folder(path: 'Path') -> None:
  """Makes a folder with those above it; a bucket has none to be made.

  Raises:
    OSError: it cannot be made.
  """
  if not is_bucket(path):
    path.mkdir(parents=True, exist_ok=True)


def filesystem(path: 'Path') -> 'fsspec.AbstractFileSystem':
  """What reaches the bucket of a path: an fsspec file system.

  Raises:
    ImportError: the package for such buckets is not installed.
  """
  import fsspec

  # gcsfs would look up the kind of every bucket, for which few accounts have
  # permission, and warn.
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  for names in (('gs', 'gcs'), ('s3', 's3a'), ('az', 'abfs')):
    for name in names:
      # Other hosts write, too.
      fsspec.config.conf.setdefault(name, {}).setdefault(
        'use_listings_cache', False
      )
  return fsspec.core.url_to_fs(os.fspath(path))[0]


def check_access(path: 'Path', *, argument: str, write: bool = False) -> None:
  """Checks, with a request or two, that a bucket can be used.

  Does nothing for a path of this machine.

  Args:
    path: need not exist, but its bucket has to.
    argument: names it in errors.
    write: whether to write a small object there, and remove it.

  Raises:
    InputError: the package for such buckets is not installed, there is no such
      bucket, or it cannot be read or written.
  """
  if not is_bucket(path):
    return
  scheme = os.fspath(path).partition(':')[0]
  package = SCHEMES[scheme]
  try:
    # A file system may also have been registered by hand.
    files = filesystem(path)
  except (ImportError, ValueError) as error:
    raise InputError(
      expected=f'the package {package}, which reaches {scheme}:// buckets',
      found=f'{error}',
      argument=argument,
      do=f"pip install {package}, or in a clone: pip install -e '.[{scheme}]'",
    ) from error
  what = 'written' if write else 'read'
  try:
    if write:
      probe = f'{path}/.access-{secrets.token_hex(8)}'
      files.pipe_file(probe, b'')
      files.rm_file(probe)
    elif not files.exists(path):
      # Another error than that there is nothing yet.
      files.ls(_bucket_of(path), detail=False)
  except Exception as error:  # each package has its own
    raise InputError(
      expected=f'a bucket that can be {what}',
      found=_reason(error),
      where=f'{path}',
      argument=argument,
      do='correct the name of the bucket, or get permission for it: log in on '
      'this machine (gs://: gcloud auth application-default login), or give '
      'its service account the role of a user of objects',
    ) from error


def _bucket_of(path) -> str:
  scheme, _, rest = os.fspath(path).partition('://')
  return f'{scheme}://{rest.partition("/")[0]}'


def _reason(error) -> str:
  text = ' '.join(f'{error}'.split()) or 'no reason given'
  return f'{type(error).__name__}: {text[:200]}'


def is_of_bucket(error: BaseException | None) -> bool:
  """Whether a bucket, or the way to it, is the reason of an error."""
  while error is not None:
    of_package = f'{type(error).__module__}.'.startswith(_PACKAGES)
    if isinstance(error, BucketError) or of_package:
      return True
    error = error.__cause__ or error.__context__
  return False


# ---- Objects -----------------------------------------------------------------


class BucketError(OSError):
  """A bucket cannot be reached, or refuses."""


class Object(NamedTuple):
  """What is known of an object.

  Attributes:
    size: in bytes.
    version: differs after every change.
  """

  size: int
  version: str


@contextlib.contextmanager
def as_os_errors(path: 'Path') -> Iterator[None]:
  """Turns the many errors of packages into those of a file system."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    raise BucketError(errno.EIO, _reason(error), f'{path}') from error


def write(path: 'Path', content: bytes, *, new: bool = False) -> None:
  """Writes an object: the whole of it, or nothing.

  Args:
    path: of the object.
    content: of the object.
    new: whether it may not exist. Of several processes that write it, one
      succeeds, where the service keeps such a condition (some copies of S3
      do not).

  Raises:
    FileExistsError: it exists, and should be new.
    OSError: it cannot be written.
  """
  options = {'mode': 'create'} if new else {}
  with as_os_errors(path):
    try:
      filesystem(path).pipe_file(os.fspath(path), content, **options)
    except FileExistsError:
      raise
    except Exception as error:
      # What a condition that does not hold is called differs.
      if new and filesystem(path).exists(path):
        raise FileExistsError(errno.EEXIST, 'exists', f'{path}') from error
      raise


def read(path: 'Path') -> bytes | None:
  """The content of an object; None where there is none.

  Raises:
    OSError: it cannot be read.
  """
  with as_os_errors(path):
    try:
      return filesystem(path).cat_file(os.fspath(path))
    except FileNotFoundError:
      return None


def objects(path: 'Path') -> dict[str, Object]:
  """The objects below a folder, or the one of that name, which is then ''.

  Returns:
    Name in the folder, with slashes -> what is known of it.

  Raises:
    OSError: the bucket cannot be listed.
  """
  with as_os_errors(path):
    files = filesystem(path)
    root = files._strip_protocol(os.fspath(path)).rstrip('/')
    found = {}
    for name, info in files.find(os.fspath(path), detail=True).items():
      info = info or files.info(name)  # fsspec's own `find`, of one object
      if name.endswith('/') or info['type'] != 'file':
        continue  # what consoles make so that a folder is shown
      found[name[len(root) :].lstrip('/')] = _described(info)
    return found


def _described(info: dict[str, Any]) -> Object:
  keys = ('generation', 'etag', 'ETag', 'md5Hash', 'LastModified', 'mtime')
  version = next((f'{info[key]}' for key in keys if info.get(key)), '')
  return Object(int(info['size']), version)


def remove(path: 'Path') -> None:
  """Removes the objects below a folder, or the one of that name.

  Raises:
    OSError: one cannot be removed.
  """
  with as_os_errors(path):
    files = filesystem(path)
    for name in objects(path):
      with contextlib.suppress(FileNotFoundError):
        files.rm_file(f'{path}/{name}' if name else f'{path}')


def move(folder: 'Path', target: 'Path') -> None:
  """Copies the objects of a folder to another one, then removes them.

  Raises:
    OSError: an object cannot be copied or removed; none is lost.
  """
  with as_os_errors(folder):
    files = filesystem(folder)
    for name in objects(folder):
      files.cp_file(f'{folder}/{name}', f'{target}/{name}')
  remove(folder)
