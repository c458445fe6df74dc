"""Datasets that TFDS prepares once and keeps in ArrayRecord files.

TFDS writes into a temporary folder and renames it at the end: an interrupted
preparation leaves nothing that counts as complete. What it leaves is deleted by
the next one.

In a bucket, a dataset is kept for all machines: TFDS writes to and reads from
copies of it on each of them.
"""

from collections.abc import Callable, Mapping
import contextlib
import errno
import os
import pathlib
import pickle
import shutil
from typing import Any

import tensorflow_datasets as tfds

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.base import Sample
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import bucket_copies, buckets
from mtl_kd_jax.runtime.hosts import main_process_first
from mtl_kd_jax.runtime.log_filters import without_warnings

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

_INFO = 'dataset_info.json'  # which comes last into a bucket
# Errors of file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Records:
  """One split; picklable, and safe to read from threads and processes."""

  def __init__(self, records: Any, decode: Callable[[Mapping], Sample]):
    """Wraps TFDS's random access to a split.

    Args:
      records: from `as_data_source`.
      decode: record -> sample with new arrays; picklable.
    """
    self._records, self._decode = records, decode

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    return self._decode(self._records[index])

  # TFDS builds its builder again in the process that receives the source, and
  # logs while it does.
  def __getstate__(self):
    return pickle.dumps((self._records, self._decode))

  def __setstate__(self, state):
    with without_warnings():
      self._records, self._decode = pickle.loads(state)


def prepare(
  make_builder: Callable[[Any], tfds.core.DatasetBuilder],
  write: Callable[[tfds.core.DatasetBuilder], None],
  *,
  content: str,
  remedy: str,
  folder: str,
  data_dir: str | os.PathLike | None,
  megabytes: int,
) -> tfds.core.DatasetBuilder:
  """Returns the builder with all of its files on disk, writing them if needed.

  Of several processes, the main one is the first.

  Args:
    make_builder: makes the builder with a directory of TFDS, from its files if
      they exist.
    write: called with a builder without files; sets it up and calls
      `write_files`.
    content: what the files hold, for messages: 'the rendered scenes'.
    remedy: what happens once the folder is deleted: 'the next run renders the
      scenes again'.
    folder: where the files are in TFDS's directory, for messages.
    data_dir: TFDS's directory as the caller was given it, for messages.
    megabytes: size of the files.

  Raises:
    InputError: the folder cannot be used, or its files are damaged.
  """

  def damaged(folder, found):
    return InputError(
      expected=f'{content}, complete and as they were written',
      found=found,
      where=f'{folder}',
      do=f'delete that folder; {remedy}',
    )

  def open_builder():
    try:
      return make_builder(root)
    except (OSError, InputError):
      raise
    except Exception as error:  # TFDS cannot parse its own files
      where = f'{folder} in {data_dir or "the default directory of TFDS"}'
      raise damaged(where, f'{error}') from error

  def on_disk():
    builder = open_builder()
    if not builder.data_path.exists():
      with _exclusive(builder.data_path):
        if not builder.data_path.exists():
          write(builder)
      builder = open_builder()
    elif not builder.is_prepared():
      raise damaged(builder.data_dir, 'some of the files that TFDS writes')
    return builder

  named = data_dir or tfds.core.constants.DATA_DIR
  try:
    with main_process_first():
      if not buckets.is_bucket(named):
        root = data_dir
        builder = on_disk()
      else:
        bucket = paths.expand(named, argument='data_dir')
        root = f'{bucket_copies.copy_of(bucket)}'
        place = bucket / open_builder().data_path.relative_to(root)
        there = is_there(place)
        if there:
          paths.local(place, argument='data_dir')
        else:
          buckets.check_access(place, argument='data_dir', write=True)
        builder = on_disk()
        if not there:
          folder_ = pathlib.Path(builder.data_dir)
          bucket_copies.upload(folder_, place, last=_INFO)
  except OSError as error:
    raise InputError(
      expected=f'a folder to keep {content} in',
      found=f'{type(error).__name__}: {error}',
      argument='data_dir',
      where=data_dir or '',
      do='name a folder that you can read and write, on a disk with '
      f'{megabytes} MB to spare',
    ) from error
  _check_records(builder, damaged)
  return builder


def is_there(folder: 'buckets.Path') -> bool:
  """Whether a dataset was written to a folder, which may be damaged since."""
  if buckets.is_bucket(folder):
    return (folder / _INFO).exists()
  return folder.exists()


def _check_records(builder, damaged) -> None:
  """Reads the last record of every split; raises `damaged`'s error."""
  for split, info in builder.info.splits.items():
    try:
      source = builder.as_data_source(split)
      found, _ = len(source), source[info.num_examples - 1]
    except Exception as error:  # TFDS and array_record raise many types
      raise damaged(builder.data_dir, f'{error}') from error
    if found != info.num_examples:
      raise damaged(builder.data_dir, f'{found} records in the split {split}')


def write_files(builder: tfds.core.DatasetBuilder) -> None:
  """Writes all files of a dataset, or none."""
  tfds.disable_progress_bar()  # several bars would garble the terminal
  try:
    builder.download_and_prepare(file_format='array_record')
  except OSError:
    # Without file locks, several processes may prepare the same dataset at
    # once: all but the first one end up here.
    if not builder.is_prepared():
      raise
  except RuntimeError as error:
    if 'write() failed' in str(error):  # ArrayRecord's, when the disk is full
      raise OSError(f'{error}') from error
    raise


@contextlib.contextmanager
def _exclusive(folder):
  """Waits for other processes that prepare `folder`, and deletes remains.

  The lock is released with the process that holds it, even if it is killed.
  Where there are no locks (Windows, some network disks), several
  processes may do the same work; the first to finish it keeps it, and remains
  stay, because they may be those of a process that is at it.
  """
  if fcntl is None:
    yield
    return
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with open(folder.parent / f'.{folder.name}.lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
    else:
      for remains in folder.parent.glob(f'incomplete.*_{folder.name}'):
        shutil.rmtree(remains, ignore_errors=True)
    yield
