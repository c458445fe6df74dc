"""One run at a time in a workdir."""

import contextlib
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


def start_holder(program, workdir):
  process = subprocess.Popen(
    [sys.executable, '-c', program, workdir],
    cwd=REPOSITORY,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  return process


@pytest.fixture
def holder(tmp_path):
  with start_holder(HOLDER, tmp_path) as process:
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


FAR = {
  'host': 'far',
  'pid': 7,
  'kernel': 'another',
  'since': '2026-01-01 00:00:00',
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """Writes the record of a run on another host; returns what counts it up."""
  monkeypatch.setattr(lock, '_PATIENCE', 0.4)

  def write(count):
    text = json.dumps(FAR | {'count': count})
    (tmp_path / '.lock').write_bytes(text.encode().ljust(lock._SIZE))

  write(3)
  return write


@pytest.fixture(params=[True, False], ids=['locks', 'no_locks'])
def warned(request, monkeypatch):
  """Whether there are locks; what has to be warned of where there are none."""
  if request.param:
    return contextlib.nullcontext()

  def flock(file, operation):
    raise OSError(errno.ENOTSUP, 'no locks here')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  return pytest.warns(UserWarning, match='no locks here.*both begin')


def test_a_run_on_another_host_that_counts_is_alive(
  warned, elsewhere, tmp_path
):
  timer = threading.Timer(0.1, elsewhere, [4])
  timer.start()
  with (
    warned,
    pytest.warns(UserWarning, match='process 7 on far'),
    pytest.raises(InputError, match='process 7 on far'),
    exclusive(tmp_path),
  ):
    pass
  timer.join()
  assert _owner(tmp_path) == FAR | {'count': 4}


def test_a_run_on_another_host_that_stands_still_is_dead(
  warned, elsewhere, tmp_path
):
  with (
    warned,
    pytest.warns(UserWarning, match='still runs'),
    exclusive(tmp_path),
  ):
    assert _owner(tmp_path)['pid'] == os.getpid()


def test_a_record_that_cannot_be_read_now_is_not_free(
  elsewhere, tmp_path, monkeypatch
):
  read = iter([FAR | {'count': 3}, {}, {}, FAR | {'count': 4}])
  monkeypatch.setattr(lock, '_read', lambda path: next(read))
  with (
    pytest.warns(UserWarning, match='process 7 on far'),
    pytest.raises(InputError, match='process 7 on far'),
    exclusive(tmp_path),
  ):
    pass


@pytest.mark.parametrize(
  'content, owner',
  [(json.dumps(FAR | {'count': 0}), 'process 7 on far'), ('', 'another')],
  ids=['taken', 'taken_and_left'],
)
def test_an_owner_that_lost_the_folder_ends(content, owner, tmp_path):
  hasty = f'from mtl_kd_jax.runtime import lock; lock._BEAT = 0.1\n{HOLDER}'
  with start_holder(hasty, tmp_path) as process:
    for _ in range(10):  # an owner that has just looked writes over it once
      with open(tmp_path / '.lock', 'r+') as file:
        if content:
          file.write(content.ljust(lock._SIZE))  # over it, as an owner does
        else:
          file.truncate(0)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
        break
    assert process.returncode == lock.EXIT_CODE
    stderr = process.stderr.read()
  assert owner in stderr and 'taken for dead' in stderr
  assert (tmp_path / '.lock').read_text().rstrip() == content  # left as it is


def test_the_record_of_another_owner_is_left(tmp_path):
  with exclusive(tmp_path):
    (tmp_path / '.lock').write_text(json.dumps(FAR))
  assert _owner(tmp_path) == FAR


def test_a_disk_that_is_full_or_away_is_survived(tmp_path, monkeypatch):
  def fail(*unused):
    raise OSError(errno.ESTALE, 'the disk is away')

  with monkeypatch.context() as context:
    context.setattr(lock.os, 'pwrite', fail)
    context.setattr(lock, '_BEAT', 0.01)
    (tmp_path / '.lock').write_text(json.dumps(FAR))  # of a run long dead
    context.setattr(lock, '_PATIENCE', 0.1)
    ended = []
    context.setattr(lock, '_end_without', lambda *args: ended.append(args))
    with (
      pytest.warns(UserWarning, match='still runs'),
      pytest.warns(UserWarning, match='the disk is away.*do not see'),
      exclusive(tmp_path),
    ):
      time.sleep(0.1)
    assert not ended  # what could not be written is not another's


def test_leaving_hides_no_error(tmp_path, monkeypatch):
  def fail(*unused):
    raise OSError(errno.ESTALE, 'the disk is away')

  monkeypatch.setattr(lock.os, 'ftruncate', fail)
  with pytest.raises(KeyError, match='mine'), exclusive(tmp_path):
    raise KeyError('mine')
  with exclusive(tmp_path):  # what is left is of nobody alive
    pass


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
