"""Several processes, as on several hosts: two with two devices each."""

import re
import signal
import socket
import time

from fixtures.backbones import Tiny
from fixtures.figures import LAUNCH as WITHOUT_FIGURES
from fixtures.launching import TINY, start, start_python
from fixtures.levels import LEVELS, learned_at_each_level
from fixtures.xla_flags import AS_TEXT as FAST
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.runtime import buckets, parallel, peers
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.training.stage import single_task_name

SHORT = (
  *(flag for flag in TINY if not flag.startswith('--config.tasks')),
  "--config.tasks=('depth',)",
  '--config.baseline=False',
  # Two samples of each device, one after another. The gradients of a task and
  # of its alignment, which are combined, are of all samples.
  '--config.batch_size=8',
  '--config.accumulate=2',
  '--config.balancing.name=mgda',
  '--config.balancing.distillation=objective',
  '--config.balancing.grad_wrt=features',
  '--config.checkpoint.every_steps=1',
  '--config.data.scales=(1.0,)',
  '--config.balancing.observe_every=0',
)
# launch.py, less patient.
IMPATIENT = """
from mtl_kd_jax.runtime import peers
peers._EVERY, peers._PATIENCE, peers._GRACE = 0.5, 6.0, 1.0
# Arrays of tiny networks are worth sharing.
from mtl_kd_jax.runtime import parallel
parallel._MIN_SHARED = 4
"""
WITH_BUCKETS = """
import os, sys
sys.path.append('tests')
from fixtures import bucket
bucket.install(os.environ['BUCKETS'])
"""


def devices(count):
  flag = f'--xla_force_host_platform_device_count={count}'
  return {'XLA_FLAGS': f'{FAST} {flag}'}


def of_two_processes():
  """The environment of both, but for their numbers."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  return devices(2) | {
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': '2',
  }


def start_two(*arguments, homes=(None, None), other=(), gs=None):
  """Starts both.

  Args:
    *arguments: of launch.py.
    homes: the home folder of each; None for that of the tests.
    other: further arguments of the second one.
    gs: the folder of buckets that they find as gs://, see fixtures/bucket.py.
  """
  environment = of_two_processes()
  prepared = IMPATIENT
  if gs:
    environment['BUCKETS'] = str(gs)
    prepared += WITH_BUCKETS
  return [
    start_python(
      '-c',
      prepared + WITHOUT_FIGURES,
      *SHORT,
      *arguments,
      '--config.parallel.multihost=True',
      '--config.parallel.fsdp=True',
      *(other if i else ()),
      **environment,
      **({'HOME': str(home)} if home else {}),
      JAX_PROCESS_ID=str(i),
    )
    for i, home in enumerate(homes)
  ]


def ends(process, code=0):
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == code, stderr
  return stdout, stderr


def is_saving(workdir, stage):
  return any((workdir / 'checkpoints' / stage).glob('*/*checkpoint-tmp*'))


def interrupt(process, signum, moment):
  deadline = time.time() + 300
  while not moment():
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.002)
  process.send_signal(signum)


@pytest.fixture
def variables(monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  return lambda workdir: jax.device_get(
    mtl.load(workdir)['distilled'].variables
  )


def test_a_process_is_gone_and_all_start_again(tmp_path, variables):
  data = f'--config.data.data_dir={tmp_path / "tfds"}'
  in_memory = '--config.teacher.cache=memory'
  whole, again, alone = (
    tmp_path / name for name in ('whole', 'again', 'alone')
  )
  first, second = start_two(data, in_memory, f'--workdir={whole}')
  stdout, _ = ends(first)
  assert 'single-task' in stdout and 'distilled' in stdout
  assert '8 frames and their mirror images are computed once' in stdout
  stdout, _ = ends(second)
  assert 'single-task' not in stdout  # one reports for all

  folder = tmp_path / 'prepared'
  other_data = f'--config.data.data_dir={folder}'
  homes = [tmp_path / f'home{i}' for i in range(2)]
  on_disk = (
    '--config.teacher.cache=disk',
    '--config.teacher.cache_dir=~/teachers',
  )

  # One process stands still while data are prepared. The other one, where JAX
  # would run its service, dies while a checkpoint is saved.
  for index, signum, moment in (
    (1, signal.SIGSTOP, lambda: any(folder.rglob('incomplete*'))),
    (0, signal.SIGKILL, lambda: is_saving(again, 'distilled')),
  ):
    processes = start_two(
      other_data, *on_disk, f'--workdir={again}', homes=(homes[0], homes[0])
    )
    interrupt(processes[index], signum, moment)
    _, stderr = ends(processes[1 - index], peers.EXIT_CODE)
    found = f'no sign of life of process {index} for 6 s'
    assert found in stderr and 'run the same command' in stderr
    assert 'stack trace' not in stderr
    assert not (again / 'results.json').exists()
    processes[index].send_signal(signal.SIGKILL)
  # The cache of teachers was in a folder of both. Now one of them has none.
  for process in start_two(
    other_data, *on_disk, f'--workdir={again}', homes=homes
  ):
    ends(process)
  one, other = (list(home.glob('teachers/*/frames.*')) for home in homes)
  assert [file.read_bytes() for file in one] == [other[0].read_bytes()]
  jax.tree.map(
    np.testing.assert_array_equal, variables(again), variables(whole)
  )
  assert (again / 'results.md').read_text() == (
    whole / 'results.md'
  ).read_text()

  ends(start(*SHORT, data, f'--workdir={alone}', figures=False, **devices(4)))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    variables(alone),
    variables(whole),
  )

  with exclusive(again):
    first, second = start_two(
      other_data, *on_disk, f'--workdir={again}', homes=homes
    )
    _, stderr = ends(first, 2)
    assert 'a workdir that no other run is using' in stderr
    _, stderr = ends(second, peers.EXIT_CODE)
    assert 'process 0 has failed' in stderr

  for process in start_two(
    data, f'--workdir={again}', other=['--config.seed=7']
  ):
    _, stderr = ends(process, 2)
    assert 'the same command and code on all hosts' in stderr
    assert 'config.seed is 7, not 0' in stderr
  for i in range(2):
    log = (again / 'logs' / f'process_{i}.txt').read_text()
    assert log.count(f': process {i} of 2 on ') == 5, log
    assert 'config.seed is 7, not 0' in log


def test_one_process_is_told_to_stop_and_all_save_the_same_step(
  tmp_path, bucket
):
  """As schedulers do, when they take away one of the hosts; in a bucket."""
  workdir, stage = buckets.path_of(f'{bucket}/run'), single_task_name('depth')
  processes = start_two(
    f'--config.data.data_dir={tmp_path / "tfds"}',
    f'--workdir={workdir}',
    '--config.epochs=1000',
    '--config.balancing.observe_every=1',
    gs=tmp_path / 'buckets',
  )
  checkpoints = workdir / 'checkpoints' / stage
  interrupt(processes[1], signal.SIGTERM, lambda: buckets.objects(checkpoints))
  steps = []
  for process in processes:
    _, stderr = ends(process, 128 + signal.SIGTERM)
    found = re.search(
      rf'in stage {stage} after step (\d+) of 1000; the', stderr
    )
    steps.append(int(found[1]))
  assert steps[0] == steps[1] == Checkpoints(checkpoints).latest_step
  left = buckets.objects(workdir)
  assert {'logs/process_0.txt', 'logs/process_1.txt'} < left.keys()
  assert '.lock' not in left


STEPS = """
import sys
sys.path.append('tests')
from mtl_kd_jax.runtime import parallel
parallel._MIN_SHARED = 4
from mtl_kd_jax.runtime.platform import set_up
set_up(multihost=True)
from fixtures.levels import learned_at_each_level
import jax, numpy as np
vectors = learned_at_each_level()
if jax.process_index() == 0:
  np.savez(sys.argv[1], *vectors)
"""


def test_steps_of_two_processes_are_those_of_one_at_every_level(
  tmp_path, monkeypatch
):
  """The batch, the state and, in its parts, what a rule compares are shared.

  The runs of launch.py above combine gradients with respect to features.
  """
  monkeypatch.setattr(parallel, '_MIN_SHARED', 4)
  path, environment = tmp_path / 'learned.npz', of_two_processes()
  processes = [
    start_python('-c', STEPS, path, **environment, JAX_PROCESS_ID=str(i))
    for i in range(2)
  ]
  expected = learned_at_each_level()
  for process in processes:
    ends(process)
  with np.load(path) as file:
    vectors = [file[name] for name in file.files]
  for level, vector, same in zip(LEVELS, vectors, expected, strict=True):
    size = np.linalg.norm(same)
    assert size > 1e-3
    # Balancers compute in float32.
    assert np.linalg.norm(vector - same) < 1e-4 * size, level
