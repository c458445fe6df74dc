"""Measures a network of a run against its single-task networks."""

import os
import pathlib
import platform

import jax
from ml_collections import ConfigDict

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting.latency import Measured, measure, only
from mtl_kd_jax.interop.fold_norms import cpu_device
from mtl_kd_jax.jobs import predict
from mtl_kd_jax.reports.latency import report_latency
from mtl_kd_jax.run import Run
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.stage import SINGLE_TASK

default_config = predict.default_config


def run(
  config: ConfigDict, workdir: pathlib.Path, *, network: str | None = None
) -> dict[str, Measured]:
  """Writes latency.md, latency.json and latency.png of a run.

  Both sides are measured on the CPU, and on the first accelerator where there
  is one. The machine should do nothing else.

  Args:
    config: of the run; nothing is read from it.
    workdir: of the run.
    network: name of the stage; None for the last one of those that predict the
      most tasks.

  Returns:
    The name of a side -> what was measured.

  Raises:
    InputError: there is no such run or network, or it has a single task.
  """
  del config
  source = Run(workdir)
  student = predict.choose_network(source, network)
  if len(student.tasks) < 2:
    raise InputError(
      expected='a network of several tasks',
      found=f'{student.name}, which predicts {", ".join(student.tasks)}',
      where='--network',
      do='name another one',
    )
  singles, what = _single_task(source, student)
  sides = {what: singles, student.name: [student]}
  devices = {'CPU': cpu_device()}
  accelerator = jax.local_devices()[0]
  if accelerator.platform != 'cpu':
    devices[accelerator.device_kind] = accelerator
  print(f'measuring {student.name} and {what} on {", ".join(devices)}')
  measured = measure(sides, devices=devices)
  text = report_latency(
    measured,
    workdir,
    image_size=student.image_size,
    about={
      'jax': jax.__version__,
      'processor': platform.processor() or platform.machine(),
      'cores': os.cpu_count(),
      'measurements': min(
        timing.rounds
        for timings in measured[student.name].timings.values()
        for timing in timings.values()
      ),
    },
  )
  print(f'\n{text}\nwritten to {workdir / "latency.md"}')
  return measured


def _single_task(
  source: Run, student: TrainedNetwork
) -> tuple[list[TrainedNetwork], str]:
  """A network for every task of the student, and what they are called."""
  found: dict[str, TrainedNetwork] = {}
  for name, about in source.plan.items():
    elsewhere = about.get('trained_in')
    if about['row'] != SINGLE_TASK:
      continue
    try:
      opened = (Run(elsewhere) if elsewhere else source)[name]
    except InputError:  # not finished, or moved
      continue
    if opened.image_size == student.image_size:
      found |= dict.fromkeys(opened.tasks, opened)
  count = len(student.tasks)
  if all(task in found for task in student.tasks):
    return [found[t] for t in student.tasks], f'{count} single-task networks'
  networks = [only(student, task) for task in student.tasks]
  return networks, f'{count} networks like {student.name}'
