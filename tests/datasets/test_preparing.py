"""Several processes that want the same data, which are not prepared yet."""

import errno
import hashlib
import json
import signal
import time

from fixtures.datasets import OPTIONS
from fixtures.launching import start_python
import pytest

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets import prepared

# Prints how many records this process prepared, and a digest of what it reads.
_PROGRAM = """
import hashlib, json, pathlib, sys, time
from mtl_kd_jax import datasets

name, options, me = sys.argv[1:]
options, me, done = json.loads(options), pathlib.Path(me), []

def progress(count, total):
  done.append(count)
  if count == 2:
    me.touch()
    while not me.with_name('go').exists():
      time.sleep(0.01)

me.with_suffix('.started').touch()
data = datasets.make(name, progress=progress, **options)
digest = hashlib.sha1()
for split in ('train', 'val'):
  source = data.source(split)
  for i in range(len(source)):
    digest.update(source[i]['image'].tobytes())
print(len(done), digest.hexdigest())
"""


def read(dataset):
  digest = hashlib.sha1()
  for split in ('train', 'val'):
    source = dataset.source(split)
    for i in range(len(source)):
      digest.update(source[i]['image'].tobytes())
  return digest.hexdigest()


def wait_for(path, process):
  deadline = time.monotonic() + 120
  while not path.exists():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize('ends', ['well', 'killed'])
@pytest.mark.parametrize('name', ['scenes', 'cityscapes'])
def test_others_wait_for_the_one_that_prepares(name, ends, tmp_path):
  (tmp_path / 'data').mkdir()
  options = OPTIONS[name](tmp_path / 'data')
  first, *others = ((tmp_path / str(i), json.dumps(options)) for i in range(3))

  def start(path, text):
    process = start_python('-c', _PROGRAM, name, text, path)
    wait_for(path.with_suffix('.started'), process)
    return process

  preparing = start(*first)
  wait_for(first[0], preparing)  # it is in the middle of it
  waiting = [start(*other) for other in others]
  time.sleep(0.3)
  assert not any((path.exists() for path, _ in others))
  assert all(process.poll() is None for process in waiting)
  if ends == 'killed':
    preparing.send_signal(signal.SIGKILL)
    preparing.wait()
  (tmp_path / 'go').touch()
  finished = waiting if ends == 'killed' else [preparing, *waiting]
  counts, digests = [], set()
  for process in finished:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    count, digest = output.split()
    counts.append(int(count))
    digests.add(digest)
  total = {'scenes': 3, 'cityscapes': 4}[name]
  assert sorted(counts, reverse=True) == [total] + [0] * (len(counts) - 1)
  assert digests == {read(datasets.make(name, **options))}
  assert not list((tmp_path / 'data').rglob('incomplete*'))


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_used_without(number, tmp_path, monkeypatch):
  def no_locks(file, operation):
    raise OSError(number, 'no locks available')

  monkeypatch.setattr(prepared.fcntl, 'flock', no_locks)
  others = tmp_path / 'scenes/incomplete.abc_32x48_2+1_seed0'
  others.mkdir(parents=True)  # of a process that may be at work
  dataset = datasets.make('scenes', **OPTIONS['scenes'](tmp_path))
  assert len(dataset.source('train')) == 2 and others.is_dir()
