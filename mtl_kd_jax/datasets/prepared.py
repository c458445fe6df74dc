"""Datasets that TFDS keeps in ArrayRecord files once they are prepared.

TFDS writes beside the folder, and moves it there in one step at the end: a
preparation that ends early, however it ends, leaves nothing that counts as
ready. What it left is cleared away by the next one.
"""

from collections.abc import Callable, Mapping
import contextlib
import pathlib
import pickle
import shutil
from typing import Any

import tensorflow_datasets as tfds

from mtl_kd_jax.datasets.base import Sample
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.log_filters import without_warnings

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None


class Records:
  """One split; picklable, and safe to read from threads and processes."""

  def __init__(self, records: Any, decode: Callable[[Mapping], Sample]):
    """Takes TFDS's random access to a split, and what makes samples of it.

    Args:
      records: from `as_data_source`.
      decode: record -> sample with arrays of its own; picklable.
    """
    self._records, self._decode = records, decode

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    return self._decode(self._records[index])

  # TFDS makes its builder anew in the process that receives the source.
  def __getstate__(self):
    return pickle.dumps((self._records, self._decode))

  def __setstate__(self, state):
    with without_warnings():
      self._records, self._decode = pickle.loads(state)


def prepare(
  make_builder: Callable[[], tfds.core.DatasetBuilder],
  write: Callable[[tfds.core.DatasetBuilder], None],
  *,
  what: str,
  again: str,
  folder: str,
  data_dir: str | None,
  megabytes: int,
) -> tfds.core.DatasetBuilder:
  """The builder, with its files on disk and complete.

  Args:
    make_builder: makes it, of the files there are if there are any.
    write: called with a builder without files; gives it what it needs and
      calls `write_files`.
    what: is prepared: 'the rendered scenes'.
    again: what the next run does after the folder is deleted: 'the next run
      renders the scenes again'.
    folder: where they are in TFDS's directory, for messages.
    data_dir: `config.data.data_dir`, for messages.
    megabytes: they need on disk.

  Raises:
    InputError: the folder cannot be used, or what is in it is damaged.
  """

  def damaged(folder, found):
    return InputError(
      expected=f'{what}, complete and as they were written',
      found=found,
      where=f'{folder}',
      do=f'delete that folder; {again}',
    )

  def open_builder():
    try:
      return make_builder()
    except (OSError, InputError):
      raise
    except Exception as error:  # what stands in TFDS's files cannot be read
      where = f'{folder} in config.data.data_dir = {data_dir!r}'
      raise damaged(where, f'{error}') from error

  try:
    builder = open_builder()
    if not builder.data_path.exists():
      with _alone(builder.data_path):
        if not builder.data_path.exists():
          write(builder)
      builder = open_builder()
    elif not builder.is_prepared():
      raise damaged(builder.data_dir, 'some of the files that TFDS writes')
  except OSError as error:
    raise InputError(
      expected=f'a folder to keep {what} in',
      found=f'{type(error).__name__}: {error}',
      where=f'config.data.data_dir = {data_dir!r}',
      do='name a folder that you may read and write, on a disk with '
      f'{megabytes} MB to spare',
    ) from error
  for split, info in builder.info.splits.items():
    try:
      source = builder.as_data_source(split)
      found, _ = len(source), source[info.num_examples - 1]
    except Exception as error:  # TFDS and array_record raise many kinds
      raise damaged(builder.data_dir, f'{error}') from error
    if found != info.num_examples:
      raise damaged(builder.data_dir, f'{found} records in the split {split}')
  return builder


def write_files(builder: tfds.core.DatasetBuilder) -> None:
  """Writes all files of a dataset, or none."""
  tfds.disable_progress_bar()  # it draws several that tear up a terminal
  try:
    builder.download_and_prepare(file_format='array_record')
  except OSError:
    # Where files cannot be locked, of several processes that prepare the same
    # dataset at once all but the first end up here.
    if not builder.is_prepared():
      raise
  except RuntimeError as error:
    if 'write() failed' in str(error):  # ArrayRecord's, when the disk is full
      raise OSError(f'{error}') from error
    raise


@contextlib.contextmanager
def _alone(folder):
  """Waits for other processes that prepare `folder`, then clears up.

  The lock falls with the process that holds it, even if that is killed.
  """
  folder = pathlib.Path(folder)
  if fcntl is None:
    yield
    return
  folder.parent.mkdir(parents=True, exist_ok=True)
  with open(folder.parent / f'.{folder.name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for left in folder.parent.glob(f'incomplete.*_{folder.name}'):
      shutil.rmtree(left, ignore_errors=True)
    yield
