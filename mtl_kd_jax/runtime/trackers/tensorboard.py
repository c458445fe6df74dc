"""TensorBoard: <workdir>/tensorboard/<stage>/.

In a bucket, every minute and at the end: event files grow, and objects cannot.
"""

from collections.abc import Sequence
import importlib.abc
import sys
import threading
import time
from typing import Any

from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.bucket_copies import temporary_folder, upload
from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker

_SECONDS = 60.0  # between two uploads
_FLUSH = 10.0  # seconds after which events are on the disk
_VERSION = 'brain.Event:2'


class TensorBoard(Tracker):
  """Writes event files, one run of TensorBoard a stage."""

  LIBRARY = 'tensorboardX'
  REWINDS = True
  HELP = 'make the folder tensorboard/ of the workdir writable'

  def __init__(self, about: Description, run_id: str | None):
    """Makes the folder; `begin` opens a file in it."""
    folder = about.workdir / 'tensorboard'
    self._bucket = folder if buckets.is_bucket(folder) else None
    if self._bucket is not None:
      folder = temporary_folder(self)
    self._folder = folder
    self._folder.mkdir(parents=True, exist_ok=True)
    self.run_id, self.where = '', f'{self._bucket or self._folder}'
    self._uploaded = self._flushed = time.monotonic()

  def lacks(self, stage: str) -> bool:
    """Whether the folder of the stage has no files."""
    return not any(((self._bucket or self._folder) / stage).glob('*'))

  def begin(self, stage: str, step: int) -> None:
    """Opens a file whose first step makes TensorBoard forget later ones."""
    with _NoTorch():
      from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    folder = self._folder / stage
    folder.mkdir(parents=True, exist_ok=True)
    # Not its SummaryWriter: that writes in a thread which ends where the disk
    # is full, and then waits for it forever. The names of files have seconds;
    # with the step, no two of a process are the same.
    self._events: Any = EventsWriter(str(folder / 'events'), f'.{step:09}')
    self._new_event: Any = event_pb2.Event
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    after = {'step': step + 1}  # the first step to come is purged
    self._add(file_version=_VERSION, **after)
    self._add(session_log=start, **after)
    self._events.flush()

  def log(self, lines: Sequence[Line]) -> None:
    """Adds scalars."""
    from tensorboardX.summary import scalar

    for line in lines:
      for name, x in line.values.items():
        summary = scalar(f'{line.kind}/{name}', x)
        self._add(summary=summary, step=line.step, wall_time=line.time)
    now = time.monotonic()
    if now - self._flushed > _FLUSH:
      self._events.flush()
      self._flushed = now
    if self._bucket is not None and now - self._uploaded > _SECONDS:
      self._events.flush()
      self._upload()

  def end(self, stage: str) -> None:
    """Writes what is left, and closes the file."""
    self._events.close()
    self._upload()

  def _add(self, **event) -> None:
    event = {'wall_time': time.time(), **event}
    self._events.write_event(self._new_event(**event))

  def _upload(self) -> None:
    if self._bucket is not None:
      upload(self._folder, self._bucket)
      self._uploaded = time.monotonic()


class _NoTorch(importlib.abc.MetaPathFinder):
  """While entered, this thread imports as if PyTorch were not installed.

  tensorboardX imports it for the name of a type, which takes two seconds.
  """

  def __enter__(self):
    self._thread = threading.get_ident()
    sys.meta_path.insert(0, self)

  def __exit__(self, *unused):
    sys.meta_path.remove(self)

  def find_spec(self, fullname, path=None, target=None):
    if fullname == 'torch' and threading.get_ident() == self._thread:
      raise ImportError('not needed here')
    return None
