"""A run that is killed, or cannot write, ends as if nothing had been.

Kills while it trains and saves are those of test_launch.py; benchmarks/kill.py
kills at random.
"""

import errno
import json
import os
import signal

from fixtures.backbones import Tiny
from fixtures.launching import job_that, run_python
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.jobs import command_line

# Runs a config once for every moment in which it kills itself or cannot write,
# and to the end; prints the exit codes. Forks, to import everything once.
PROGRAM = """
import ctypes, itertools, os, pathlib, resource, signal, sys
import jax
from fixtures import figures
from fixtures.backbones import Tiny
import mtl_kd_jax as mtl
from mtl_kd_jax.datasets.scenes import dataset as scenes
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import command_line, train
from mtl_kd_jax.runtime import platform
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.training import stage

mtl.models.BACKBONES['tiny'] = Tiny
figures.leave_out(setattr)

def kill(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

def only_one(batches):
  yield next(iter(batches))
  kill()

def kill_in(owner, name, number, batches=None):
  function, calls = getattr(owner, name), itertools.count(1)
  def call(*args, **kwargs):
    if next(calls) == number:
      if batches is None:
        kill()
      args = [*args[:batches], only_one(args[batches]), *args[batches + 1:]]
    return function(*args, **kwargs)
  setattr(owner, name, call)

def fill_disk():
  save = Checkpoints.save
  def full(*args, **kwargs):
    jax.config.update('jax_enable_compilation_cache', False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
    save(*args, **kwargs)
  Checkpoints.save = full

def read_only():
  # For root, who may write everywhere, only without its capabilities.
  os.chmod('killed', 0o555)
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)
  none = (ctypes.c_uint32 * 6)()
  ctypes.CDLL(None).capset(header, none)

MOMENTS = {
  'prepares': lambda: kill_in(scenes, 'render', 7),
  'full disk': fill_disk,
  'selects': lambda: kill_in(stage, 'evaluate', 1, 2),
  'recalibrates': lambda: kill_in(stage, 'recalibrate', 1, 2),
  'read-only': read_only,
  'evaluates': lambda: kill_in(stage, 'evaluate', 1, 2),
  'ends': lambda: None,
}

def run(name, prepare=lambda: None):
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size, config.recalibrate = 1, 4, 2
  config.select, config.data.val_fraction = 'best', 0.5
  config.report.average_epochs, config.report.images = 1, 0
  config.model.backbone = 'tiny'
  config.data.check = False
  config.data.data_dir = f'{name}_data'
  shapes = config.data.scenes
  shapes.image_size, shapes.num_train, shapes.num_val = (16, 16), 16, 8
  pid = os.fork()
  if not pid:
    prepare()
    platform.set_up(multihost=False)
    try:
      mtl.train(config, pathlib.Path(name))
    except InputError as error:
      print('refused:', error.argument or error.where, flush=True)
      os._exit(2)
    except Exception as error:
      resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
      print('failed:', command_line._failed_write(error), flush=True)
      os._exit(3)
    os._exit(0)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

os.chdir(sys.argv[1])
codes = {'alone': run('alone')}
for name, prepare in MOMENTS.items():
  codes[name] = run('killed', prepare)
  if os.path.exists('killed'):
    os.chmod('killed', 0o755)
print('codes:', codes)
"""


def outcome(workdir):
  """All that a run leaves, but for times."""
  run = mtl.load(workdir)
  return {
    'log': [{k: v for k, v in line.items() if k != 'time'} for line in run.log],
    'metrics': run.metrics,
    'results': json.loads((workdir / 'results.json').read_text()),
    'table': (workdir / 'results.md').read_text(),
    'files': sorted(
      str(p.relative_to(workdir))
      for p in (workdir / 'checkpoints').glob('*/*/*')
    ),
  }


@pytest.mark.skipif(
  not hasattr(os, 'pidfd_open'), reason='capabilities are those of Linux'
)
def test_a_run_that_is_killed_or_cannot_write_ends_as_if_left_alone(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  program = "import sys\nsys.path.append('tests')\n" + PROGRAM
  code, stdout, stderr = run_python('-c', program, tmp_path)
  assert code == 0, stderr
  codes = eval(stdout.rpartition('codes: ')[2])
  # Every moment was reached, and no other run failed.
  kill = -signal.SIGKILL
  assert codes == {
    'alone': 0,
    'prepares': kill,
    'full disk': 3,
    'selects': kill,
    'recalibrates': kill,
    'read-only': 2,
    'evaluates': kill,
    'ends': 0,
  }, stdout + stderr
  assert f'failed: {os.strerror(errno.EFBIG)}\n' in stdout
  assert 'refused: workdir\n' in stdout
  for name in ('incomplete*', 'damaged', '*tmp*'):
    assert not list((tmp_path / 'killed').rglob(name))
    assert not list((tmp_path / 'killed_data').rglob(name))
  alone, killed = tmp_path / 'alone', tmp_path / 'killed'
  assert outcome(killed) == outcome(alone)
  one, other = (
    jax.device_get(mtl.load(w)['teacher_depth'].variables)
    for w in (alone, killed)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- What the command line says ----------------------------------------------


def of_tensorstore():
  return ValueError(
    'RESOURCE_EXHAUSTED: Error writing "params/0" in OCDBT database: Failed to '
    "write 244 bytes to file 11: No space left on device [os_error_code='28']"
  )


def end_of(error, monkeypatch):
  """What a job ends with that raises an error."""

  def run(config, workdir):
    raise error

  monkeypatch.setattr(command_line, 'set_up', lambda *, multihost: None)
  with pytest.raises((command_line.Exit, type(error))) as end:
    command_line.run_job(job_that(run), mtl.get_config(), 'runs/a')
  return end.value


@pytest.mark.parametrize('kind', ['plain', 'library', 'hidden'])
def test_a_full_disk_is_one_message(kind, monkeypatch):
  error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  if kind == 'library':
    error = of_tensorstore()
  elif kind == 'hidden':
    error = RuntimeError('Event loop is closed')
    error.__context__ = of_tensorstore()
  end = end_of(error, monkeypatch)
  assert end.code == 2 and 'No space left on device' in f'{end}'
  assert 'run the same command again' in f'{end}'


@pytest.mark.parametrize(
  'error', [KeyError('a bug'), FileNotFoundError(errno.ENOENT, 'No such file')]
)
def test_other_errors_are_not_taken_for_it(error, monkeypatch):
  assert end_of(error, monkeypatch) is error
