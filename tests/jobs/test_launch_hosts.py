"""Several processes, as on several hosts: two with two devices each."""

import signal
import socket
import time

from fixtures.backbones import Tiny
from fixtures.launching import TINY, start, start_python
from fixtures.xla_flags import AS_TEXT as FAST
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.runtime import peers

SHORT = (
  *TINY,
  "--config.tasks=('depth',)",
  '--config.baseline=False',
  '--config.batch_size=4',
  '--config.checkpoint.every_steps=1',
)
# launch.py, less patient.
LAUNCH = """
import runpy
from mtl_kd_jax.runtime import peers
peers._EVERY, peers._PATIENCE, peers._GRACE = 0.5, 8.0, 1.0
runpy.run_path('launch.py', run_name='__main__')
"""


def devices(count):
  flag = f'--xla_force_host_platform_device_count={count}'
  return {'XLA_FLAGS': f'{FAST} {flag}'}


def start_two(*arguments):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = devices(2) | {
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': '2',
  }
  return [
    start_python(
      '-c',
      LAUNCH,
      *SHORT,
      *arguments,
      '--config.parallel.multihost=True',
      **environment,
      JAX_PROCESS_ID=str(i),
    )
    for i in range(2)
  ]


def ends(process, code=0):
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == code, stderr
  return stdout, stderr


def kill_in_stage(process, workdir, stage):
  log, deadline = workdir / 'metrics.jsonl', time.time() + 300
  while not (log.exists() and f'"{stage}"' in log.read_text()):
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)


@pytest.fixture
def variables(monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  return lambda workdir: jax.device_get(
    mtl.load(workdir)['distilled'].variables
  )


def test_a_process_is_killed_and_all_start_again(tmp_path, variables):
  data = f'--config.data.data_dir={tmp_path / "tfds"}'
  whole, again, alone = (
    tmp_path / name for name in ('whole', 'again', 'alone')
  )
  first, second = start_two(data, f'--workdir={whole}')
  stdout, _ = ends(first)
  assert 'single-task' in stdout and 'distilled' in stdout
  stdout, _ = ends(second)
  assert 'single-task' not in stdout  # one reports for all

  first, second = start_two(data, f'--workdir={again}')
  kill_in_stage(second, again, 'distilled')
  _, stderr = ends(first, peers.EXIT_CODE)
  assert 'process 1' in stderr and 'run the same command' in stderr
  assert not (again / 'results.json').exists()
  for process in start_two(data, f'--workdir={again}'):
    ends(process)
  jax.tree.map(
    np.testing.assert_array_equal, variables(again), variables(whole)
  )
  assert (again / 'results.md').read_text() == (
    whole / 'results.md'
  ).read_text()

  ends(start(*SHORT, data, f'--workdir={alone}', **devices(4)))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    variables(alone),
    variables(whole),
  )
