"""The other processes of a run: when one is gone, the rest end and say so.

Programs on several hosts wait for each other. Where one has died the others
would wait for as long as JAX's heartbeat lets them (100 s), and then be aborted
with a stack trace in C++; or for good, where the process lives and hangs. Here
each process counts in JAX's key-value store, and all watch whether the others
do. The store outlives process 0 (coordinator.py).
"""

import atexit
from collections.abc import Iterator
import contextlib
import os
import socket
import sys
import threading
import time

import jax

# JAX has no public interface to its key-value store.
from jax._src import distributed

from mtl_kd_jax.runtime import host_log
from mtl_kd_jax.runtime.preemption import Stopped

EXIT_CODE = 4

_FOLDER = 'mtl_kd_jax/alive'
_ENDED, _FAILED = 'ended', 'failed'
# Seconds for all processes to come: those that somebody starts by hand, and
# those of a scheduler, which may have to fetch what they run.
JOIN_TIMEOUT = 50
JOIN_TIMEOUT_OF_SCHEDULERS = 300

# In seconds. However a process goes, the others have ended within a minute.
_EVERY = 2.0  # between two signs of life
_PATIENCE = 36.0  # without any
_GRACE = 6.0  # to run into what another process has failed of
_LEAVE = 3.0  # to say that a process has failed, or goodbye to it

_STATUS_OF_OTHERS = (
  'ABORTED',
  'CANCELLED',
  'DEADLINE_EXCEEDED',
  'FAILED_PRECONDITION',
  'INTERNAL',
  'UNAVAILABLE',
  'UNKNOWN',
)

_watch: '_Watch | None' = None  # of this process


@contextlib.contextmanager
def joining(seconds: float) -> Iterator[None]:
  """Ends this process where the others do not come; with `EXIT_CODE`.

  JAX would abort. While it waits it cannot be interrupted by an exception.

  Args:
    seconds: how long they may take.
  """
  timer = threading.Timer(seconds, _give_up_joining, args=(seconds,))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def watch() -> None:
  """Starts to watch the other processes, which have to do the same.

  To be called as soon as they have joined. From then on, this process ends with
  `EXIT_CODE` where another one gives no sign of life for 36 s, or has failed.
  Nothing is cleaned up: what is saved is whole at any moment.
  """
  global _watch
  if _watch is not None or distributed.global_state.client is None:
    return
  state = distributed.global_state
  if state.num_processes > 1:
    _watch = _Watch(state.client, state.process_id, state.num_processes)
    # Before JAX's own goodbye, at which processes wait for each other.
    atexit.register(_end_watch)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """What ends in here ends well only if it does in all processes of the run.

  The others of a process that raises an error end, too. Does nothing for a
  single process.
  """
  watch()
  if _watch is None:
    yield
    return
  try:
    yield
  except Stopped:  # all of them are
    _watch.end(failed=False)
    raise
  except BaseException as error:
    if _may_be_of_others(error):
      # Most likely a connection to one that is gone: the watch will say.
      time.sleep(_PATIENCE + 4 * _EVERY)
    _watch.end(failed=True)
    raise
  _watch.end(failed=False)


class _Watch:
  """Shows that this process lives, and watches whether the others do."""

  def __init__(self, client, index: int, count: int):
    self._client, self._me, self._count = client, str(index), count
    self._seen: dict[str, str] = {}  # process -> its last sign
    self._heard = {str(i): time.monotonic() for i in range(count)}
    self._sign = ''  # the last one of this process, _ENDED or _FAILED
    self._stop = threading.Event()
    # A call to the store may hang, where the host that it is on is gone.
    self._threads = [
      threading.Thread(target=target, daemon=True)
      for target in (self._exchange_signs, self._judge)
    ]
    for thread in self._threads:
      thread.start()

  def end(self, *, failed: bool) -> None:
    """Tells the others how this process ends; waits for them if it did well."""
    if self._stop.is_set():
      return
    self._sign = _FAILED if failed else _ENDED
    if failed:
      self._stop.set()
    for thread in self._threads:
      # A store that hangs must not keep a process that has failed.
      thread.join(_LEAVE if failed else None)
    self._stop.set()

  def _exchange_signs(self) -> None:
    count = 0
    while True:
      last = self._stop.is_set()
      count += 1
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # heard by silence
        key = f'{_FOLDER}/{self._me}'
        sign = self._sign or str(count)
        self._client.key_value_set(key, sign, allow_overwrite=True)
        self._note(dict(self._client.key_value_dir_get(_FOLDER)))
      if last or self._all_ended():
        return
      self._stop.wait(_EVERY)

  def _note(self, signs) -> None:
    for key, sign in signs.items():
      process = key.rpartition('/')[2]
      if sign == _ENDED or sign != self._seen.get(process):
        self._heard[process] = time.monotonic()
        self._seen[process] = sign

  def _all_ended(self) -> bool:
    ended = [process for process, sign in self._seen.items() if sign == _ENDED]
    return len(ended) == self._count

  def _judge(self) -> None:
    now = time.monotonic()
    while not (self._all_ended() or self._stop.wait(_EVERY)):
      before, now = now, time.monotonic()
      if now - before > _PATIENCE / 2:  # this process was suspended itself
        self._heard = dict.fromkeys(self._heard, now)
      if found := self._missing(now):
        _end(found, self._me, self._count)
        return

  def _missing(self, now) -> str:
    """What is wrong with other processes, or ''."""
    failed = [p for p, sign in self._seen.items() if sign == _FAILED]
    if failed and all(now - self._heard[p] > _GRACE for p in failed):
      self._say_goodbye()
      return f'process {", ".join(failed)} has failed'
    silent = [p for p, at in self._heard.items() if now - at > _PATIENCE]
    if self._me in silent:
      return f'no connection to process 0 for {_PATIENCE:.0f} s'
    if silent:
      gone = ', '.join(silent)
      return f'no sign of life of process {gone} for {_PATIENCE:.0f} s'
    return ''

  def _say_goodbye(self) -> None:
    """A process that has failed waits for this, at its end."""
    goodbye = threading.Thread(target=self._client.shutdown, daemon=True)
    # At its own end, Python 3.12 starts no thread.
    with contextlib.suppress(RuntimeError):
      goodbye.start()
      goodbye.join(_LEAVE)


def _end_watch() -> None:
  # At the end of the interpreter; where `watched` was not used.
  if _watch is not None:
    _watch.end(failed=hasattr(sys, 'last_value'))


def _may_be_of_others(error) -> bool:
  """Whether what another process does may be the reason of an error."""
  while error is not None:
    # XLA's errors begin with a status, and are not all of one type.
    if str(error).startswith(_STATUS_OF_OTHERS):
      return True
    error = error.__cause__ or error.__context__
  return False


def _give_up_joining(seconds) -> None:
  state = distributed.global_state
  address = state.coordinator_address or ''
  host, _, port = address.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
    found = f'process 0 answers at {address}, but others are missing'
  except (OSError, ValueError) as error:
    found = f'process 0 does not answer at {address}: {error}'
  _end(
    f'{found}, after {seconds:.0f} s',
    state.process_id,
    state.num_processes,
    do='start the same command on all hosts, with the same '
    'JAX_COORDINATOR_ADDRESS; where they need longer to come, set '
    'JAX_INITIALIZATION_TIMEOUT=SECONDS; for a process by itself, set '
    'multihost to False',
  )


def _end(found, process, count, *, do='') -> None:
  do = do or (
    'see the output of that process; run the same command on all hosts again '
    'to continue'
  )
  print(
    f'error: expected all {count} processes of the run\n'
    f'  found:  {found}\n'
    f'  where:  process {process}\n'
    f'  to do:  {do}',
    file=sys.stderr,
    flush=True,
  )
  host_log.flush()
  os._exit(EXIT_CODE)
