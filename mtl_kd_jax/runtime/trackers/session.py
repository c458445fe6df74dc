"""The trackers of a run: each gets every line once, and fails by itself.

<workdir>/trackers.json   tracker -> the id of its run, and what it was given
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.runtime.metric_log import read_log, values_of, writing
from mtl_kd_jax.runtime.trackers import ALWAYS, TRACKERS
from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

_FILE = 'trackers.json'


class Trackers:
  """Opens, feeds and closes trackers.

  A run that was killed takes the steps after its last checkpoint again. A
  tracker that cannot take them back is not given them twice: what it was given
  is written down when a stage begins and ends; where the process was killed in
  between, metrics.jsonl says it. So a tracker that failed for a while, or is
  named for a run that has begun, is given what it lacks; one that takes steps
  back is given the stages of which it has nothing.
  """

  def __init__(
    self,
    names: Sequence[str],
    about: Description,
    *,
    say: Callable[[str], None],
  ):
    """Opens them.

    Args:
      names: of `TRACKERS`, as `check_trackers` accepts them.
      about: the run.
      say: prints, for what goes wrong later.

    Raises:
      InputError: one cannot be opened for a run that is new to it. For one that
        it knows this is printed, and the run goes on without it.
    """
    self._path, self._say = about.workdir / _FILE, say
    self._open: dict[str, Tracker] = {}
    log = read_log(about.workdir)
    # Of those that take nothing back.
    self._records = _read(self._path)
    for record in self._records.values():
      if record['follows']:  # the process was killed
        _count(record, log)
      record['follows'] = False
    for name in names:
      if name != ALWAYS:
        self._open_one(name, about, log)
    self._write()

  def begin(self, stage: str, step: int) -> None:
    """A stage begins or continues; before its lines are taken from the log."""
    self._each(lambda name, tracker: tracker.begin(stage, step))
    self._write()

  def log(self, line: Mapping[str, Any]) -> None:
    """Gives them a line of metrics.jsonl."""
    self._each(lambda name, tracker: self._give(name, tracker, [line]))

  def end(self, stage: str) -> None:
    """A stage has ended, or was interrupted."""
    self._each(lambda name, tracker: tracker.end(stage))
    self._write()

  def report(
    self, results: Mapping[str, float], files: Sequence['Path'] = ()
  ) -> None:
    """Gives them the results of a run, unless they have the same ones."""
    with _of_this_machine(files) as here:
      for name in [*self._open]:
        record = self._records.get(name, {})
        if record.get('results') != results:
          self._try(name, lambda tracker: tracker.report(results, here))
        if name in self._open and record:
          record['results'] = dict(results)
    self._write()

  def close(self, status: str) -> None:
    """Ends them: 'finished', 'stopped' or 'failed'."""
    self._each(lambda name, tracker: tracker.close(status))
    for name in [*self._open]:
      self._drop(name)
    self._write()

  def _open_one(self, name, about, log) -> None:
    record = self._records.get(name)
    try:
      tracker = TRACKERS[name](about, record and record['id'])
    except Exception as error:
      if record:
        self._warn(name, error)
        return
      raise InputError(
        expected=f'a tracker {name!r} that can be opened',
        found=f'{type(error).__name__}: {error}',
        argument='trackers',
        do=f'{TRACKERS[name].HELP}; or leave {name!r} out',
      ) from error
    self._open[name] = tracker
    if not tracker.REWINDS:
      record = record or {'sent': {}, 'lines': 0, 'results': {}}
      self._records[name] = {**record, 'id': tracker.run_id, 'follows': True}
      self._say(f'{name}: {tracker.where}')
    self._try(name, lambda tracker: self._catch_up(name, tracker, log))

  def _catch_up(self, name, tracker, log) -> None:
    for stage in dict.fromkeys(e['stage'] for e in log):
      lacking = [e for e in log if e['stage'] == stage]
      if tracker.REWINDS:
        lacking = lacking if tracker.lacks(stage) else []
      else:
        record = self._records[name]
        lacking = [e for e in lacking if not _was_given(record, e)]
      if lacking:
        tracker.begin(stage, 0)
        self._give(name, tracker, lacking)
        tracker.end(stage)

  def _give(self, name, tracker, entries) -> None:
    record = self._records.get(name, {'sent': {}, 'lines': 0})
    new = [e for e in entries if not _was_given(record, e)]
    if new:
      tracker.log([_line(e, record['lines'] + i) for i, e in enumerate(new)])
      _count(record, new)

  def _each(self, call) -> None:
    for name in [*self._open]:
      self._try(name, lambda tracker, name=name: call(name, tracker))

  def _try(self, name, call) -> None:
    try:
      call(self._open[name])
    except Exception as error:
      self._drop(name)
      self._warn(name, error)
      self._write()

  def _drop(self, name) -> None:
    del self._open[name]
    if name in self._records:
      self._records[name]['follows'] = False

  def _warn(self, name, error) -> None:
    self._say(
      f'warning: the tracker {name!r} failed, and gets nothing more from this '
      f'process ({type(error).__name__}: {error}); training goes on, and '
      'metrics.jsonl has everything. When the run is started again, the '
      'tracker is given what it lacks'
    )

  def _write(self) -> None:
    if not self._records:
      return
    with writing(self._path.parent):
      write_atomically(self._path, json.dumps(self._records, indent=2))


@contextlib.contextmanager
def _of_this_machine(files: Sequence['Path']) -> Iterator[list[pathlib.Path]]:
  """The files, or copies of those in a bucket, which libraries cannot read."""
  with tempfile.TemporaryDirectory(prefix='mtl_kd_jax-') as temporary:
    here = []
    for path in files:
      if buckets.is_bucket(path):
        copy = pathlib.Path(temporary, path.name)
        copy.write_bytes(path.read_bytes())
        path = copy
      here.append(path)
    yield here


def _line(entry, number) -> Line:
  return Line(
    entry['stage'],
    entry['kind'],
    entry['step'],
    float(entry.get('time') or 0),
    values_of(entry),
    number,
  )


def _was_given(record, entry) -> bool:
  last = record['sent'].get(entry['stage'], {}).get(entry['kind'], -1)
  return entry['step'] <= last


def _count(record, entries) -> None:
  """Notes that a tracker has been given lines."""
  for entry in entries:
    if not _was_given(record, entry):
      record['sent'].setdefault(entry['stage'], {})
      record['sent'][entry['stage']][entry['kind']] = entry['step']
      record['lines'] += 1


def _read(path: 'Path') -> dict[str, dict[str, Any]]:
  """What is known of trackers; {} where that is nothing, or damaged."""
  try:
    records = json.loads(path.read_text(encoding='utf-8'))
    return {n: record for n, record in records.items() if _is_record(record)}
  except (OSError, RecursionError, ValueError):
    return {}
  except (AttributeError, KeyError, TypeError):  # JSON of something else
    return {}


def _is_record(record) -> bool:
  kinds = {'id': str, 'sent': dict, 'lines': int, 'results': dict}
  kinds['follows'] = bool
  return all(isinstance(record[key], kind) for key, kind in kinds.items()) and (
    all(
      isinstance(steps, dict)
      and all(isinstance(step, int) for step in steps.values())
      for steps in record['sent'].values()
    )
  )
