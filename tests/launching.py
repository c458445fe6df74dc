"""Starts launch.py as a user does: in a process of its own."""

import os
import subprocess
import sys

from conftest import REPOSITORY

# The smallest run that goes through every stage.
TINY = (
  '--config=configs/quickstart.py',
  '--config.epochs=1',
  '--config.batch_size=4',
  '--config.data.scenes.image_size=(32, 32)',
  '--config.data.scenes.num_train=12',
  '--config.data.val_fraction=0.33',  # of which eight are trained on
  '--config.select=best',
  '--config.balancing.observe_every=1',
  '--config.report.average_epochs=1',
  '--config.data.scenes.num_val=5',
  '--config.model.width=0.03125',
  '--config.report.images=2',
)


def start(*arguments, **options):
  environment = os.environ | {
    'COLUMNS': '200',
    # One device, as on a laptop; compiled as fast as in conftest.py.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }
  return subprocess.Popen(
    [sys.executable, 'launch.py', *arguments],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def launch(*arguments):
  """Runs to the end; returns (exit code, stdout, stderr)."""
  process = start(*arguments)
  stdout, stderr = process.communicate(timeout=900)
  return process.returncode, stdout, stderr
