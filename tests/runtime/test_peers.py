"""Processes of which another one is gone end, and say so within a minute."""

import threading
import time

import jax
import pytest

from mtl_kd_jax.runtime import coordinator, peers
from mtl_kd_jax.runtime.preemption import Stopped


class Store:
  """JAX's key-value store, as far as it is used; processes are threads."""

  def __init__(self):
    self.signs = {}
    self.gone = threading.Event()  # whether it does not answer any more
    self.shutdowns = []

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    if self.gone.is_set():
      threading.Event().wait()  # as where the host has no power
    self.signs[key] = value

  def key_value_dir_get(self, folder):
    return [(k, v) for k, v in self.signs.items() if k.startswith(folder)]

  def shutdown(self):
    self.shutdowns.append(time.monotonic())


class Process:
  """Process 0 of three, with a fast clock; the others only give signs."""

  def __init__(self, monkeypatch):
    for name, value in {
      '_EVERY': 0.01,
      '_PATIENCE': 0.3,
      '_GRACE': 0.1,
    }.items():
      monkeypatch.setattr(peers, name, value)
    monkeypatch.setattr(peers, '_end', self._end)
    self.store, self.found = Store(), []
    self.ended = threading.Event()
    self._others = {1: self._count, 2: self._count}
    threading.Thread(target=self._give_signs, daemon=True).start()
    self.watch = peers._Watch(self.store, 0, 3)
    monkeypatch.setattr(peers, '_watch', self.watch)

  def _end(self, found, process, count):
    self.found.append(found)
    assert (process, count) == ('0', 3)
    self.watch._stop.set()
    self.ended.set()

  def _count(self):
    return str(time.monotonic())

  def _give_signs(self):
    while not self.ended.is_set():
      for index, sign in self._others.items():
        if text := sign():
          self.store.signs[f'{peers._FOLDER}/{index}'] = text
      time.sleep(0.01)

  def set(self, index, sign):
    """From now on, this is the sign of another process; '' for none."""
    self._others[index] = lambda: sign

  def end_of(self):
    """How this process ends."""
    assert self.ended.wait(60)
    return self.found[0]


@pytest.fixture
def process(monkeypatch):
  process = Process(monkeypatch)
  yield process
  process.ended.set()
  process.watch._stop.set()


def test_a_process_without_signs_of_life_is_named(process):
  process.set(2, '')
  assert 'no sign of life of process 2' in process.end_of()


def test_a_process_that_never_gave_a_sign_is_named(process):
  process.set(1, '')
  process.store.signs.clear()
  assert 'no sign of life of process 1' in process.end_of()


def test_a_process_that_has_failed_is_named_and_can_leave(process):
  process.set(1, peers._FAILED)
  assert process.end_of() == 'process 1 has failed'
  assert process.store.shutdowns  # which the other one waits for


def test_a_failure_is_noticed_while_python_ends(process, monkeypatch):
  """It then starts no threads (3.12)."""

  def start(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

  monkeypatch.setattr(threading.Thread, 'start', start)
  process.set(1, peers._FAILED)
  assert process.end_of() == 'process 1 has failed'


def test_a_store_that_does_not_answer_is_noticed(process):
  process.store.gone.set()
  assert 'no connection to process 0' in process.end_of()


def test_a_run_that_ended_everywhere_ends_well(process, monkeypatch):
  monkeypatch.setattr(peers, '_PATIENCE', 1.0)
  process.set(1, peers._ENDED)
  threading.Timer(1.3, process.set, [2, peers._ENDED]).start()
  with peers.watched():
    pass  # longer than the patience: those that ended are not missed
  assert process.store.signs == {
    f'{peers._FOLDER}/{i}': peers._ENDED for i in range(3)
  }
  assert not process.found


def test_who_has_ended_still_watches_the_others(process):
  process.set(1, peers._ENDED)
  process.set(2, '')
  process.watch.end(failed=False)
  assert 'process 2' in process.end_of()


@pytest.mark.parametrize(
  'error, sign',
  [
    (KeyError('mine'), peers._FAILED),
    (KeyboardInterrupt(), peers._FAILED),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: mine'), peers._FAILED),
    (Stopped('by a signal', 15), peers._ENDED),
  ],
)
def test_others_are_told_how_a_process_ends(error, sign, process, monkeypatch):
  monkeypatch.setattr(peers, '_PATIENCE', 3600.0)
  for index in (1, 2):
    process.set(index, peers._ENDED)
  with pytest.raises(type(error)), peers.watched():
    raise error
  assert process.store.signs[f'{peers._FOLDER}/0'] == sign
  assert not process.found


def test_an_error_of_a_connection_waits_for_the_reason(process, monkeypatch):
  monkeypatch.setattr(peers, '_EVERY', 0.2)
  monkeypatch.setattr(peers, '_PATIENCE', 1.0)
  process.set(1, '')
  with pytest.raises(KeyError), peers.watched():
    try:
      raise ValueError('UNKNOWN: Gloo AllReduce failed: Connection reset')
    except ValueError as error:
      raise KeyError('of the library between') from error
  assert 'no sign of life of process 1' in process.end_of()


def test_a_process_that_was_suspended_does_not_blame_others(
  process, monkeypatch
):
  monkeypatch.setattr(peers, '_PATIENCE', 10.0)
  real, jump = time.monotonic, 100.0
  time.sleep(0.1)
  monkeypatch.setattr(peers.time, 'monotonic', lambda: real() + jump)
  process.set(1, '')
  time.sleep(0.2)
  assert not process.found
  monkeypatch.setattr(peers.time, 'monotonic', lambda: real() + jump + 4.9)
  time.sleep(0.1)
  monkeypatch.setattr(peers.time, 'monotonic', lambda: real() + jump + 9.8)
  time.sleep(0.1)
  monkeypatch.setattr(peers.time, 'monotonic', lambda: real() + jump + 14.7)
  assert 'process 1' in process.end_of()


def test_however_a_process_goes_the_others_end_within_a_minute():
  # One that is silent; one that waits for the reason of its error, and fails.
  noticed = peers._EVERY + peers._PATIENCE + peers._EVERY
  waited = peers._PATIENCE + 4 * peers._EVERY
  told = 2 * peers._EVERY + peers._GRACE + peers._LEAVE
  connected = 5  # seconds to try, after those for joining
  assert max(noticed, waited + told, peers.JOIN_TIMEOUT + connected) < 60
  assert coordinator._LINGER > noticed + peers._EVERY
