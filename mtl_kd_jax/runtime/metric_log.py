"""The log of a run, <workdir>/metrics.jsonl: one JSON object a line.

A run that continues, tables and figures read it. It is written whatever
trackers there are.

A bucket cannot append. There the log goes on in metrics-0001.jsonl and so on
after every megabyte, and the last of these files is written anew every 10 s,
with the metrics of an evaluation, and at the end: a run that is killed loses
the lines of a few seconds.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import math
import time
from typing import TYPE_CHECKING, Any

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.files import write_bytes_atomically

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

# Kinds of lines with metrics: of the split that checkpoints are chosen on, and
# of the one that is reported, in the last epochs.
SELECTION = 'eval'
REPORTED = 'test'
_LOG = 'metrics.jsonl'
# In a bucket.
_PART, _PARTS = 'metrics-{:04}.jsonl', 'metrics-*.jsonl'
_PART_BYTES = 10**6
_SECONDS = 10.0  # between two writes
# What every line says.
_KEYS = {'stage': str, 'kind': str, 'step': int, 'epoch': int | float}
# What is no value in it.
_NO_VALUES = (*_KEYS, 'time')


class MetricLog:
  """The log while a stage adds to it."""

  def __init__(self, workdir: 'Path', stage: str, *, start: int):
    """Opens it, without what an earlier run logged beyond its last checkpoint.

    Args:
      workdir: of the run.
      stage: whose lines after `start` are taken out.
      start: steps that were taken before.

    Raises:
      InputError: it cannot be written to.
    """
    self._workdir = workdir
    with writing(workdir):
      for path in _files(workdir):
        _forget_after(path, stage, start)
      self._file: Any = (
        _BucketFile(workdir)
        if buckets.is_bucket(workdir)
        else open(workdir / _LOG, 'ab', buffering=0)  # each line at once
      )

  def append(
    self,
    stage: str,
    kind: str,
    values: Mapping[str, float],
    *,
    step: int,
    epoch: float,
  ) -> dict[str, Any]:
    """Adds a line; returns it. Raises InputError where that fails."""
    line = {
      'stage': stage,
      'kind': kind,
      'step': step,
      'epoch': epoch,
      'time': time.time(),
      **{name: _or_none(x) for name, x in values.items()},
    }
    with writing(self._workdir):
      self._file.write(json.dumps(line).encode() + b'\n')
      if kind in (SELECTION, REPORTED):
        self._file.flush()
    return line

  def close(self) -> None:
    """Closes the file; raises InputError where that fails."""
    with writing(self._workdir):
      self._file.close()


class _BucketFile:
  """The end of a log in a bucket."""

  def __init__(self, workdir: 'Path'):
    self._workdir = workdir
    *full, self._path = _files(workdir)
    self._number = len(full)
    self._content = buckets.read(self._path) or b''
    self._is_written, self._written_at = True, time.monotonic()

  def write(self, line: bytes) -> None:
    if len(self._content) >= _PART_BYTES:
      self.flush()
      self._number, self._content = self._number + 1, b''
      self._path = self._workdir / _PART.format(self._number)
    self._content += line
    self._is_written = False
    if time.monotonic() - self._written_at > _SECONDS:
      self.flush()

  def flush(self) -> None:
    if not self._is_written:
      buckets.write(self._path, self._content)
      self._is_written, self._written_at = True, time.monotonic()

  close = flush


def read_log(workdir: 'Path') -> list[dict[str, Any]]:
  """The lines of metrics.jsonl; [] when there is none.

  Lines that cannot be read are left out: the last one may be half written.
  What is no finite number in one is None, as it is written down.

  Raises:
    InputError: the file cannot be read.
  """
  return [
    {name: x if name in _KEYS else _number(x) for name, x in entry.items()}
    for path in _files(workdir)
    for _, entry in _lines(path)
    if entry
  ]


def values_of(line: Mapping[str, Any]) -> dict[str, float]:
  """The values of a line by name, without those that were not finite."""
  return {
    name: float(x)
    for name, x in line.items()
    if name not in _NO_VALUES and isinstance(x, int | float)
  }


@contextlib.contextmanager
def writing(workdir: 'Path') -> Iterator[None]:
  """Raises InputError for what the system says of a folder."""
  try:
    yield
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{workdir}',
      do='make room, or the folder writable; the run continues from its last '
      'checkpoint',
    ) from error


def _files(workdir) -> list[Any]:
  """The files of a log, in order; there need not be any."""
  more = []
  if buckets.is_bucket(workdir):
    more = sorted(workdir.glob(_PARTS), key=lambda path: path.name)
  return [workdir / _LOG, *more]


def _lines(path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """(raw line, parsed) of a log; {} for what is no line of a log."""
  if not path.exists():
    return
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(
      expected='the log of a run',
      found=f'{error}',
      where=f'{path}',
      do='make it a readable file, or remove it',
    ) from error
  for raw in content.splitlines():
    try:
      entry = json.loads(raw)
    except (ValueError, RecursionError):
      entry = None
    yield raw, entry if _is_line(entry) else {}


def _is_line(entry) -> bool:
  return isinstance(entry, dict) and all(
    isinstance(entry.get(key), kind) for key, kind in _KEYS.items()
  )


def _forget_after(path, stage, step):
  """Takes out what an earlier run logged beyond its last checkpoint."""
  lines = list(_lines(path))
  if lines and not lines[-1][1]:
    del lines[-1]  # half written; others are not ours to judge
  kept = [
    raw
    for raw, entry in lines
    if not entry or entry['stage'] != stage or entry['step'] <= step
  ]
  if len(kept) < len(lines) or not buckets.is_bucket(path):
    write_bytes_atomically(path, b''.join(raw + b'\n' for raw in kept))


def _number(x):
  try:
    return _or_none(x) if isinstance(x, int | float) else None
  except OverflowError:  # more digits than a float takes
    return None


def _or_none(x):
  return x if math.isfinite(x) else None  # JSON has no NaN
