"""The files of a run in a bucket: lock, log, checkpoints, event files."""

import json
import os
import time

from fixtures.bucket import Buckets
from fixtures.checkpoints import assert_identical, make_state, write
from fixtures.tensorboard import scalars
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets, checkpointing, lock, metric_log
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.metric_log import MetricLog, read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter


@pytest.fixture
def workdir(bucket):
  return buckets.path_of(f'{bucket}/run')


def names(folder):
  return {name.partition('/')[0] for name in buckets.objects(folder)}


# ---- One run at a time -------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
  monkeypatch.setattr(lock, '_PATIENCE', 0.2)
  monkeypatch.setattr(lock, '_BEAT', 0.02)


def record(workdir):
  return json.loads(buckets.read(workdir / '.lock') or '{}')


def leave_record(workdir, **changes):
  """As another run, that has ended or not, would have."""
  entry = lock._make_record() | {'host': 'far', 'pid': 7, 'kernel': 'another'}
  entry |= {'processes': 'others'} | changes
  buckets.write(workdir / '.lock', json.dumps(entry).encode())
  return entry


def test_the_owner_counts_and_leaves_nothing(workdir, hasty):
  with exclusive(workdir):
    assert record(workdir)['pid'] == os.getpid()
    with exclusive(workdir):  # of the same thread
      pass
    deadline = time.monotonic() + 10
    while record(workdir)['count'] < 2:
      assert time.monotonic() < deadline
      time.sleep(0.01)
  assert not (workdir / '.lock').exists()


def test_an_owner_that_counts_is_alive(workdir, hasty, monkeypatch):
  entry = leave_record(workdir)
  counts, read = iter(range(100)), lock._read
  monkeypatch.setattr(
    lock, '_read', lambda p: read(p) | {'count': next(counts)}
  )
  with (
    pytest.warns(UserWarning, match='process 7 on far'),
    pytest.raises(InputError, match='process 7 on far') as error,
    exclusive(workdir),
  ):
    pass
  assert error.value.where == f'{workdir}'
  assert record(workdir) == entry


def test_an_owner_that_stands_still_is_dead(workdir, hasty):
  leave_record(workdir)
  with pytest.warns(UserWarning, match='still runs'), exclusive(workdir):
    assert record(workdir)['pid'] == os.getpid()


def test_a_killed_process_of_this_system_is_not_waited_for(workdir):
  leave_record(workdir, pid=2**22 + 1, processes=lock._processes())
  begun = time.monotonic()
  with exclusive(workdir):
    assert time.monotonic() - begun < lock._PATIENCE / 2


def test_of_two_that_start_at_once_one_begins(workdir, monkeypatch):
  """The record of the other one appears after this one has looked."""
  real, calls = buckets.write, []

  def write(path, content, *, new=False):
    calls.append(path)
    if len(calls) == 1:
      leave_record(workdir)
    real(path, content, new=new)

  monkeypatch.setattr(lock, '_PATIENCE', 0.05)
  monkeypatch.setattr(buckets, 'write', write)
  monkeypatch.setattr(lock, '_counts', lambda path, owner: True)
  with (
    pytest.warns(UserWarning),
    pytest.raises(InputError, match='process 7'),
    exclusive(workdir),
  ):
    pass


def test_an_owner_that_lost_the_folder_ends(workdir, hasty, monkeypatch):
  ended = []
  monkeypatch.setattr(lock, '_end_without', lambda *args: ended.append(args))
  with exclusive(workdir):
    entry = leave_record(workdir)
    deadline = time.monotonic() + 10
    while not ended:
      assert time.monotonic() < deadline
      time.sleep(0.01)
  assert record(workdir) == entry == ended[0][1]


# ---- What is logged ----------------------------------------------------------


def test_a_log_goes_on_in_parts(workdir, monkeypatch):
  monkeypatch.setattr(metric_log, '_PART_BYTES', 200)
  log = MetricLog(workdir, 'a', start=0)
  for step in range(1, 8):
    log.append('a', 'train', {'loss': step}, step=step, epoch=step / 4)
  log.close()
  parts = sorted(names(workdir))
  assert parts[-1] == 'metrics.jsonl' and len(parts) > 2
  assert [line['step'] for line in read_log(workdir)] == [*range(1, 8)]
  # A run that continues after step 3 takes the others again.
  log = MetricLog(workdir, 'a', start=3)
  log.append('a', 'train', {'loss': 4}, step=4, epoch=1)
  log.close()
  assert [line['step'] for line in read_log(workdir)] == [1, 2, 3, 4]


def test_lines_are_written_now_and_then(workdir, monkeypatch):
  log = MetricLog(workdir, 'a', start=0)
  log.append('a', 'train', {'loss': 1}, step=1, epoch=0)
  assert read_log(workdir) == []
  log.append('a', 'eval', {'depth/rmse': 1}, step=1, epoch=0)
  assert len(read_log(workdir)) == 2
  monkeypatch.setattr(metric_log, '_SECONDS', 0)
  log.append('a', 'train', {'loss': 1}, step=2, epoch=0)
  assert len(read_log(workdir)) == 3
  monkeypatch.setattr(Buckets, 'denied', {'write'})
  with pytest.raises(InputError, match='no permission'):
    log.append('a', 'train', {'loss': 1}, step=3, epoch=0)


def test_event_files_are_uploaded(workdir):
  writer = MetricWriter(workdir, enabled=True)
  writer.track(['tensorboard'], name='run', config={})
  with writer.stage('a', start=0, steps=4, steps_per_epoch=2) as stage:
    stage.train([(1, {'loss': 0.5})])
  writer.close()
  assert (1, 'train/loss', 0.5) in scalars(workdir / 'tensorboard' / 'a')


# ---- Checkpoints -------------------------------------------------------------


def test_checkpoints_are_kept_as_on_a_disk(workdir):
  checkpoints = Checkpoints(workdir)
  assert checkpoints.latest_step is None
  for step, score in ((1, 0.1), (2, 0.3), (3, 0.2)):
    checkpoints.save(step, make_state(step), finished=step == 3)
    checkpoints.save_if_best(step, make_state(step), score)
  checkpoints.wait()
  assert checkpoints.latest_step == 3 and checkpoints.finished
  checkpoints.close()
  assert names(workdir / 'last') == {'2', '3'}
  assert names(workdir / 'best') == {'2'}
  checkpoints = Checkpoints(workdir)
  assert checkpoints.latest_step == 3
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(3))
  assert_identical(checkpoints.restore_best(make_state(0)), make_state(2))
  checkpoints.close()


def test_a_damaged_checkpoint_is_set_aside(workdir):
  write(workdir, (1, 2))
  newest = buckets.objects(workdir / 'last' / '2')
  largest = max(newest, key=lambda name: newest[name].size)
  content = bytearray(buckets.read(workdir / 'last' / '2' / largest))
  content[len(content) // 2] ^= 4
  buckets.write(workdir / 'last' / '2' / largest, bytes(content))
  checkpoints = Checkpoints(workdir)
  with pytest.warns(UserWarning, match=f'gs://.*{largest} is not as it was'):
    state = checkpoints.restore_last(make_state(0))
  assert_identical(state, make_state(1))
  checkpoints.close()
  assert names(workdir / 'last') == {'1'}
  assert buckets.objects(workdir / 'damaged' / 'last-2').keys() == newest.keys()


def test_half_a_checkpoint_is_none(workdir, monkeypatch):
  """Of a run that was killed while it uploaded."""
  write(workdir, (1,))
  real, put = [], Buckets.put_file

  def put_file(self, file, path, **options):
    real.append(path)
    if path.endswith('checksums.json'):
      raise OSError('away')
    put(self, file, path, **options)

  with monkeypatch.context() as context:
    context.setattr(Buckets, 'put_file', put_file)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(2, make_state(2))
    with pytest.raises(OSError, match='away'):
      checkpoints.wait()
  assert names(workdir / 'last') == {'1', '2'} and len(real) > 3
  assert checkpointing.latest_step(workdir) == 1
  checkpoints = Checkpoints(workdir)
  assert names(workdir / 'last') == {'1'}
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(1))
  checkpoints.close()
