"""Kills runs again and again, and compares how they end with one left alone.

    python benchmarks/kill.py --kills=50

A run is started and killed (SIGKILL), and started again in the same workdir.
Every second kill comes at a random time, every other one at a moment of
`MOMENTS`, of which the rarest so far is awaited. All the while another process
opens the workdir and reads it. A run that ends is compared with the one that
was left alone: variables of all networks, tables and the log must be the same
bit for bit, and no checkpoint may have been set aside. The next kills are of a
new run with new data. The kills are counted by stage and moment.

From a clone: the tiny network is that of the tests.
"""

import argparse
import collections
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
ARGUMENTS = (
  '--config=tests/fixtures/tiny_config.py',
  '--config.epochs=2',
  '--config.batch_size=2',
  '--config.data.scenes.image_size=(32, 32)',
  '--config.data.scenes.num_train=12',
  '--config.data.scenes.num_val=5',
  '--config.data.val_fraction=0.33',
  '--config.select=best',
  '--config.recalibrate=2',
  '--config.balancing.observe_every=1',
  '--config.checkpoint.every_steps=1',
  '--config.report.average_epochs=1',
  '--config.report.images=2',
)
MOMENTS = {
  'imports': 'until the data are opened',
  'prepares': 'renders the data',
  'starts': 'makes stages and checks the data',
  'trains': 'compiles, restores or takes steps',
  'saves': 'trains, while a checkpoint is being written',
  'selects': 'trains, and scores its state',
  'recalibrates': "computes BatchNorm's statistics",
  'evaluates': 'scores a network that is trained',
  'reports': 'writes tables and figures, and ends',
}
# launch.py, which says in the file TRACE what it is doing, on what stage.
TRACED = """
import functools, os, runpy
from mtl_kd_jax.datasets import prepared
from mtl_kd_jax.jobs import train
from mtl_kd_jax.training.stage import Stage

FILE = os.open(os.environ['TRACE'], os.O_WRONLY | os.O_CREAT)
NOW = ['imports -']

def enter(what):
  NOW[0] = what
  os.pwrite(FILE, what.ljust(80).encode(), 0)

def trace(owner, name, moment, inside=None, after=None):
  function = getattr(owner, name)
  @functools.wraps(function)
  def traced(*args, **kwargs):
    before, what = NOW[0], moment
    if inside and before.startswith('trains'):
      what = inside
    stage = args[0].name if args and isinstance(args[0], Stage) else '-'
    enter(f'{what} {stage}')
    try:
      return function(*args, **kwargs)
    finally:
      enter(f'{after} -' if after else before)
  setattr(owner, name, traced)

trace(prepared, 'write_files', 'prepares')
trace(train, 'build', 'imports', after='starts')
trace(train, 'run_stage', 'trains')
trace(Stage, 'recalibrate', 'recalibrates')
trace(Stage, 'evaluate', 'evaluates', inside='selects')
trace(train, 'report_results', 'reports', after='reports')
runpy.run_path('launch.py', run_name='__main__')
"""
READER = """
import pathlib, sys, time, warnings
sys.path.append('tests')
import mtl_kd_jax as mtl
from fixtures.backbones import Tiny
mtl.models.BACKBONES['tiny'] = Tiny
folder, count = pathlib.Path(sys.argv[1]), 0
while not (folder / 'done').exists():
  time.sleep(0.05)
  workdir = max(folder.glob('killed_???'), default=folder)
  if (workdir / 'config.json').exists():
    run = mtl.load(workdir)
    for name in run:
      run[name].variables
    run.metrics, run.plan, run.log
    count += 1
print(count)
"""


class Started:
  """A run in a process of its own, and what it says it is doing."""

  def __init__(self, workdir, data):
    workdir.parent.mkdir(parents=True, exist_ok=True)
    self._workdir = workdir
    self._trace = workdir.parent / f'{workdir.name}.trace'
    self._trace.unlink(missing_ok=True)
    self._process = subprocess.Popen(
      [
        *(sys.executable, '-c', TRACED, *ARGUMENTS),
        f'--config.data.data_dir={data}',
        f'--workdir={workdir}',
      ],
      cwd=REPOSITORY,
      env=os.environ | {'TRACE': str(self._trace)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  def moment(self):
    """Of `MOMENTS`, and the name of the stage, '-' for none."""
    text = self._trace.read_text().split() if self._trace.exists() else ''
    moment, stage = text or ('imports', '-')
    if moment in ('trains', 'selects'):
      folder = self._workdir / 'checkpoints' / stage
      if any(folder.glob('*/*tmp*')):
        moment = 'saves'
    return moment, stage

  def ends(self, seconds=None):
    """Whether it ends in that time; it must not fail by itself."""
    try:
      _, stderr = self._process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      return False
    if self._process.returncode or 'damaged' in stderr:
      sys.exit(f'exit code {self._process.returncode}\n{stderr}')
    return True

  def comes_to(self, moment):
    """Waits for a moment; False if the run ends without it."""
    while self._process.poll() is None:
      if self.moment()[0] == moment:
        return True
      time.sleep(0.001)
    return not self.ends()

  def kill(self):
    """Returns the moment that it was killed in; None if it had ended."""
    self._process.kill()
    _, stderr = self._process.communicate()
    if self._process.returncode >= 0:
      if self._process.returncode:
        sys.exit(f'exit code {self._process.returncode}\n{stderr}')
      return None
    return self.moment()


def kill_once(started, killed, longest, draw):
  """Kills a run at some moment; None if it has ended before."""
  if killed.total() % 2:
    if started.ends(draw.uniform(0, longest)):
      return None
  else:
    counts = collections.Counter(dict.fromkeys(MOMENTS, 0))
    for (moment, _), count in killed.items():
      counts[moment] += count
    target = min(counts, key=lambda m: (counts[m], draw.random()))
    if not started.comes_to(target):
      return None
    short = target in ('prepares', 'saves', 'recalibrates')
    if started.ends(draw.uniform(0, 0.01 if short else 0.3)):
      return None
  return started.kill()


def outcome(workdir):
  """All that a run leaves, but for times."""
  sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]
  from fixtures.backbones import Tiny
  import jax
  import numpy as np

  import mtl_kd_jax as mtl

  mtl.models.BACKBONES['tiny'] = Tiny
  run = mtl.load(workdir)
  log = [{k: v for k, v in line.items() if k != 'time'} for line in run.log]
  variables = {
    name: jax.tree.map(np.ndarray.tobytes, jax.device_get(run[name].variables))
    for name in run
  }
  results = (workdir / 'results.json').read_text()
  return {
    'variables': variables,
    'log': sorted(json.dumps(line, sort_keys=True) for line in log),
    'metrics': run.metrics,
    'results': json.loads(results) | {'name': ''},
    'set aside': sorted(p.name for p in workdir.rglob('damaged')),
  }


def table(killed):
  """The kills, a line for each stage and a column for each moment."""
  stages = sorted({stage for _, stage in killed})
  lines = [f'{"":18}' + ''.join(f'{m:>13}' for m in MOMENTS)]
  for stage in stages:
    counts = (killed[moment, stage] or '' for moment in MOMENTS)
    lines.append(f'{stage:18}' + ''.join(f'{n:>13}' for n in counts))
  return '\n'.join(lines)


def kill_all(folder, kills, longest, expected, draw):
  """Kills runs in new folders; returns what was killed when, and the runs."""
  killed = collections.Counter()
  for n in itertools.count(1):
    workdir, data = folder / f'killed_{n:03}', folder / f'data_{n:03}'
    while killed.total() < kills:
      moment = kill_once(Started(workdir, data), killed, longest, draw)
      if moment is None:
        break
      killed[moment] += 1
      print(f'kill {killed.total()}, run {n}: {" ".join(moment)}', flush=True)
      if (workdir / 'results.json').exists():
        break
    Started(workdir, data).ends()  # once more, where it has ended
    found = outcome(workdir)
    different = [part for part in expected if found[part] != expected[part]]
    if different:
      sys.exit(f'DIFFERENT in {workdir}: {", ".join(different)}')
    print(f'run {n} has ended as the one left alone', flush=True)
    if killed.total() >= kills:
      return killed, n
    shutil.rmtree(data)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--folder', type=pathlib.Path)
  options = parser.parse_args()
  folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix='kill_'))
  Started(folder / 'first', folder / 'data').ends()  # compiles
  begun = time.monotonic()
  Started(folder / 'alone', folder / 'data').ends()
  seconds = time.monotonic() - begun
  print(f'left alone: {seconds:.0f} s, in {folder}', flush=True)
  reader = subprocess.Popen(
    [sys.executable, '-c', READER, folder],
    cwd=REPOSITORY,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    killed, runs = kill_all(
      folder,
      options.kills,
      seconds,
      outcome(folder / 'alone'),
      random.Random(options.seed),
    )
  finally:
    (folder / 'done').touch()
    read, stderr = reader.communicate()
  print(table(killed))
  print(
    f'{killed.total()} kills of {runs} runs; all ended as the one left alone'
  )
  if reader.returncode:
    sys.exit(f'the reader failed\n{stderr}')
  print(f'read {read.strip()} times')


if __name__ == '__main__':
  main()
