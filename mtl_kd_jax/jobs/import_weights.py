"""Makes finished networks of a run from a file of PyTorch weights."""

import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mtl_kd_jax.config.build import Experiment, build
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import import_variables, read_state_dict
from mtl_kd_jax.interop.torch_names import SINGLE, describe
from mtl_kd_jax.reports.results import checkpoint_dir
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_writer import Reporter
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.training.stage import Stage
from mtl_kd_jax.training.state import TrainState


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  torch_file: str | None,
  stage: str | None,
) -> None:
  """Writes the checkpoint of one stage or of all teachers; needs no data.

  Args:
    config: names the networks; see configs/common.py.
    workdir: where the checkpoints go. The run then counts these stages as
      finished, and so does another one whose config.teacher.workdir it is.
    torch_file: weights, .pth or .safetensors.
    stage: 'teacher_<task>', 'uniform' or 'distilled'; None for the teachers of
      all tasks, each with its own head of the file.

  Raises:
    InputError: the file cannot be read or does not fit the network, or the
      workdir holds another run, or a checkpoint of the stage already.
  """
  if not torch_file:
    raise InputError(
      expected='a file of PyTorch weights',
      found='none',
      where='--torch',
      do='name it: --job=import --torch=FILE.pth --network=segnet',
    )
  # --- Read and check everything ---------------------------------------------
  experiment = build(config, data=False)
  weights = read_state_dict(torch_file)
  states, ignored = {}, {}
  for target in _stages(experiment, stage, describe(weights).channels):
    directory = checkpoint_dir(workdir, target)
    if directory.exists():
      raise InputError(
        expected=f'a workdir without a stage {target.name}',
        found='a checkpoint of it, which is left as it is',
        where=f'{directory}',
        do='import into another folder: --workdir=FOLDER',
      )
    states[directory], ignored[target.name] = _imported(
      target, weights, torch_file
    )

  # --- Write -----------------------------------------------------------------
  workdirs.claim(workdir, config.to_dict())
  reporter = Reporter(workdir, enabled=is_main_process())
  for directory, state in states.items():
    checkpoints = Checkpoints(directory)
    checkpoints.save(int(state.step), state, finished=True)
    checkpoints.close()
  for name, names in ignored.items():
    reporter.print(
      f'{name}: {len(weights) - len(names)} of {len(weights)} entries of '
      f'{torch_file} used' + (f', ignored: {_summary(names)}' if names else '')
    )
  reporter.print(
    f'written to {workdir}; teach with it: --config.teacher.workdir={workdir}'
  )


def _stages(experiment: Experiment, name: str | None, heads) -> list[Stage]:
  teachers = {f'teacher_{task}': task for task in experiment.tasks}
  if name is None:
    # A head without a number is told by its channels.
    fit = [
      task
      for task, part in experiment.tasks.items()
      if heads.get(SINGLE, part.channels) == part.channels
    ]
    return [experiment.teacher(task) for task in fit or experiment.tasks]
  if name in teachers:
    return [experiment.teacher(teachers[name])]
  students = {'uniform': experiment.baseline, 'distilled': experiment.student}
  if name not in students:
    raise InputError(
      expected=f'a stage: {", ".join([*teachers, *students])}',
      found=repr(name),
      where='--stage',
      do='correct the name, or leave it out for the teachers of all tasks',
    )
  return [students[name]()]


def _imported(stage, weights, where) -> tuple[TrainState, list[str]]:
  """The state of a finished stage; nothing but its variables is ever read."""
  shapes = jax.eval_shape(stage.init)
  variables, ignored = import_variables(weights, shapes.variables, where=where)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  state = state.replace(
    params=state.params | variables['params'],
    batch_stats=variables['batch_stats'],
  )
  return stage.parallel.replicate(state), ignored


def _summary(names: list[str]) -> str:
  shown = ', '.join(names[:4])
  return f'{shown} and {len(names) - 4} more' if len(names) > 4 else shown
