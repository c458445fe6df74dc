"""The other processes of a run: when one is gone, the rest end and say so.

Programs on several hosts wait for each other. Where one has died the others
would wait for as long as JAX's heartbeat lets them (100 s), and then be aborted
with a stack trace in C++; or for good, where the process lives and hangs.
"""

from collections.abc import Iterator
import contextlib
import os
import sys
import threading
import time

import jax

# JAX has no public interface to its key-value store.
from jax._src import distributed

EXIT_CODE = 4

_FOLDER = 'mtl_kd_jax/alive'
_ENDED, _FAILED = 'ended', 'failed'
_EVERY = 3.0  # seconds between two signs of life
_PATIENCE = 40.0  # seconds without any
_GRACE = 10.0  # seconds to run into what another process has failed of


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Ends this process where another one of the run is gone; with `EXIT_CODE`.

  That is one that gave no sign of life for 40 s, or failed. Nothing is cleaned
  up: what is saved is whole at any moment. Does nothing for a single process.
  """
  if jax.process_count() == 1:
    yield
    return
  ended, outcome = threading.Event(), [_FAILED]
  thread = threading.Thread(target=_watch, args=(ended, outcome), daemon=True)
  thread.start()
  try:
    yield
    outcome[0] = _ENDED
  except jax.errors.JaxRuntimeError:
    # Most likely a connection to a process that is gone: the thread will say.
    time.sleep(_PATIENCE + 2 * _EVERY)
    raise
  finally:
    ended.set()
    thread.join()


def _watch(ended, outcome) -> None:
  client = distributed.global_state.client
  me, count = str(jax.process_index()), 0
  seen: dict[str, str] = {}
  heard = {str(i): time.monotonic() for i in range(jax.process_count())}
  while True:
    done = ended.wait(_EVERY)
    now, count = time.monotonic(), count + 1
    try:
      sign = outcome[0] if done else str(count)
      client.key_value_set(f'{_FOLDER}/{me}', sign, allow_overwrite=True)
      signs = dict(client.key_value_dir_get(_FOLDER))
    except jax.errors.JaxRuntimeError:
      signs = {}  # the store is process 0's
    if done:
      return
    for key, sign in signs.items():
      process = key.rpartition('/')[2]
      if sign == _ENDED or sign != seen.get(process):
        heard[process], seen[process] = now, sign
    failed = [p for p, sign in seen.items() if sign == _FAILED]
    if failed and all(now - heard[p] > _GRACE for p in failed):
      _end(f'process {", ".join(failed)} has failed')
    silent = [p for p, last in heard.items() if now - last > _PATIENCE]
    if silent:
      gone = '0' if me in silent else ', '.join(silent)
      _end(f'no sign of life of process {gone} for {_PATIENCE:.0f} s')


def _end(found) -> None:
  print(
    f'error: expected all {jax.process_count()} processes of the run\n'
    f'  found:  {found}\n'
    f'  where:  process {jax.process_index()}\n'
    '  to do:  see the output of that process; run the same command on all '
    'hosts again to continue',
    file=sys.stderr,
    flush=True,
  )
  os._exit(EXIT_CODE)
