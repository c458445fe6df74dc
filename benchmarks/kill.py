"""Kills a run again and again, and compares how it ends with one left alone.

    python benchmarks/kill.py --kills=50

Each time the run is started anew and killed (SIGKILL) at a moment drawn at
random: while it imports, prepares data, compiles, trains, saves, evaluates or
reports. All the while another process opens the workdir and reads it. At the
end, variables of all networks, tables and the log must be those of the run
that was left alone, bit for bit.

From a clone: the tiny network is that of the tests.
"""

import argparse
import json
import pathlib
import random
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
READER = """
import pathlib, sys, time, warnings
sys.path.append('tests')
import mtl_kd_jax as mtl
from fixtures.backbones import Tiny
mtl.models.BACKBONES['tiny'] = Tiny
workdir, count = pathlib.Path(sys.argv[1]), 0
while not (workdir / 'done').exists():
  time.sleep(0.05)
  if (workdir / 'config.json').exists():
    run = mtl.load(workdir)
    for name in run:
      run[name].variables
    run.metrics, run.plan, run.log
    count += 1
print(count)
"""


def start(workdir, data):
  return subprocess.Popen(
    [
      sys.executable,
      'launch.py',
      *ARGUMENTS,
      f'--config.data.data_dir={data}',
      f'--workdir={workdir}',
    ],
    cwd=REPOSITORY,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(workdir, data):
  begun = time.monotonic()
  _, stderr = (process := start(workdir, data)).communicate()
  if process.returncode:
    sys.exit(f'exit code {process.returncode}\n{stderr}')
  return time.monotonic() - begun


def kill_at_random(workdir, data, longest, draw):
  """Returns whether the run was still going; it must not fail by itself."""
  process = start(workdir, data)
  try:
    _, stderr = process.communicate(timeout=draw.uniform(0, longest))
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    return True
  if process.returncode:
    sys.exit(f'exit code {process.returncode}\n{stderr}')
  return False


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
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--folder', type=pathlib.Path)
  options = parser.parse_args()
  draw = random.Random(options.seed)
  folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix='kill_'))
  alone, killed = folder / 'alone', folder / 'killed'
  finish(alone, folder / 'data_alone')  # compiles
  seconds = finish(folder / 'second', folder / 'data_alone')
  print(f'left alone: {seconds:.0f} s, in {folder}', flush=True)
  killed.mkdir(parents=True)
  reader = subprocess.Popen(
    [sys.executable, '-c', READER, killed],
    cwd=REPOSITORY,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  kills = rounds = 0
  try:
    while kills < options.kills and rounds < 4 * options.kills:
      rounds += 1
      data = folder / f'data_{kills // 10}'  # prepared anew at times
      kills += kill_at_random(killed, data, 0.6 * seconds, draw)
      print(f'\r{kills} kills', end='', flush=True)
    finish(killed, folder / 'data_last')
  finally:
    (killed / 'done').touch()
    read, stderr = reader.communicate()
  if reader.returncode:
    sys.exit(f'the reader failed\n{stderr}')
  one, other = outcome(alone), outcome(killed)
  different = [part for part in one if one[part] != other[part]]
  print(
    f'\n{kills} kills in {rounds} starts, read {read.strip()} times; '
    + (f'DIFFERENT: {", ".join(different)}' if different else 'all the same')
  )
  sys.exit(bool(different))


if __name__ == '__main__':
  main()
