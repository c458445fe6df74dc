"""One run at a time in a workdir."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

from fixtures.paths import REPOSITORY
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import lock
from mtl_kd_jax.runtime.lock import exclusive

HOLDER = """
import pathlib, sys, time
from mtl_kd_jax.runtime.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
  time.sleep(0.2)
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  with subprocess.Popen(
    [sys.executable, '-c', HOLDER, tmp_path],
    cwd=REPOSITORY,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'held\n'
    yield process
    process.kill()


def test_the_second_is_told_who_is_first(holder, tmp_path):
  with pytest.raises(InputError) as error, exclusive(tmp_path):
    pass
  assert f'process {holder.pid} on {os.uname().nodename}' in error.value.found
  assert error.value.where == str(tmp_path)
  holder.stdin.close()
  assert holder.wait() == 0
  with exclusive(tmp_path):
    pass


def test_the_lock_of_a_dead_process_is_taken_over_at_once(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert (tmp_path / '.lock').stat().st_size > 0
  begun = time.monotonic()
  with exclusive(tmp_path):
    assert time.monotonic() - begun < lock._PATIENCE / 2
  assert (tmp_path / '.lock').stat().st_size == 0


def test_a_thread_may_enter_again_and_others_may_not(tmp_path):
  found = []

  def other():
    try:
      with exclusive(tmp_path):
        pass
    except InputError as error:
      found.append(error.found)

  with exclusive(tmp_path):
    with exclusive(tmp_path):
      pass
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
  assert found == ['another thread of this process']
  with exclusive(tmp_path):
    pass


# ---- Where locks are not shared ----------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """Writes the record of a run on another host; returns what counts it up."""
  monkeypatch.setattr(lock, '_PATIENCE', 0.4)
  record = {
    'host': 'far',
    'pid': 7,
    'kernel': 'another',
    'since': '2026-01-01 00:00:00',
    'count': 3,
  }
  path = tmp_path / '.lock'

  def write(count):
    text = json.dumps(record | {'count': count})
    path.write_bytes(text.encode().ljust(lock._SIZE))

  write(3)
  return write


@pytest.mark.parametrize('has_locks', [True, False])
def test_a_run_on_another_host_that_counts_is_alive(
  has_locks, elsewhere, tmp_path, monkeypatch
):
  if not has_locks:
    _without_locks(monkeypatch)
  timer = threading.Timer(0.1, elsewhere, [4])
  timer.start()
  with (
    pytest.warns(UserWarning, match='process 7 on far'),
    pytest.raises(InputError, match='process 7 on far'),
    exclusive(tmp_path),
  ):
    pass
  timer.join()
  assert json.loads((tmp_path / '.lock').read_text())['count'] == 4


@pytest.mark.parametrize('has_locks', [True, False])
def test_a_run_on_another_host_that_stands_still_is_dead(
  has_locks, elsewhere, tmp_path, monkeypatch
):
  if not has_locks:
    _without_locks(monkeypatch)
  with pytest.warns(UserWarning, match='still runs'), exclusive(tmp_path):
    deadline = time.monotonic() + 10
    while _owner(tmp_path).get('pid') != os.getpid():
      assert time.monotonic() < deadline
      time.sleep(0.01)


def test_the_owner_counts(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, '_BEAT', 0.01)
  with exclusive(tmp_path):
    deadline = time.monotonic() + 10
    while _owner(tmp_path).get('count', 0) < 2:
      assert time.monotonic() < deadline
      time.sleep(0.01)


def _owner(workdir):
  try:
    return json.loads((workdir / '.lock').read_text())
  except ValueError:
    return {}


def _without_locks(monkeypatch):
  def flock(file, operation):
    raise OSError(errno.ENOTSUP, 'no locks here')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
