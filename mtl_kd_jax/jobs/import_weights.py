"""Makes finished networks of a run from a file of PyTorch weights."""

from collections.abc import Sequence
import pathlib

from ml_collections import ConfigDict

from mtl_kd_jax import methods
from mtl_kd_jax.config import get_config
from mtl_kd_jax.config.build import build
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import import_variables, read_state_dict
from mtl_kd_jax.interop.torch_names import SINGLE, describe
from mtl_kd_jax.jobs.train import describe_plan
from mtl_kd_jax.methods.plan import Plan
from mtl_kd_jax.run import Run, write_run
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage


def default_config(workdir: pathlib.Path | None) -> ConfigDict:
  """The networks of the paper's code were made for NYU-v2."""
  del workdir
  return get_config('nyuv2')


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  torch: str | None,
  stage: str | None = None,
  network: str | None = None,
) -> Run:
  """Writes the network of one stage or of all single tasks; needs no data.

  Args:
    config: names the networks; see config/defaults.py.
    workdir: where they go. The run then counts these stages as finished, and so
      does another one whose config.teacher.workdir it is.
    torch: the file of weights, .pth or .safetensors.
    stage: name of the stage; None for the networks of all single tasks, each
      with its own head of the file.
    network: in place of `config.model.backbone`.

  Returns:
    The run.

  Raises:
    InputError: the file cannot be read or does not fit the network, or the
      workdir holds another run, or a checkpoint of the stage already.
  """
  if not torch:
    raise InputError(
      expected='a file of PyTorch weights',
      found='none',
      where='--torch',
      do='name it: --job=import --torch=FILE.pth --network=segnet',
    )
  if network:
    config.model.backbone = network
  # --- Read and check everything ---------------------------------------------
  experiment = build(config, data=False)
  plan = methods.plan(experiment)
  weights = read_state_dict(torch)
  networks, ignored = {}, {}
  for target in _targets(plan, stage, describe(weights).channels):
    networks[target.name], ignored[target.name] = _imported(
      target, weights, torch
    )

  # --- Write -----------------------------------------------------------------
  written = write_run(workdir, config.to_dict(), networks)
  workdirs.write_plan(workdir, describe_plan(plan))
  writer = MetricWriter(workdir, enabled=is_main_process())
  for name, names in ignored.items():
    writer.print(
      f'{name}: {len(weights) - len(names)} of {len(weights)} entries of '
      f'{torch} used' + (f', ignored: {_summary(names)}' if names else '')
    )
  writer.print(
    f'written to {workdir}; teach with it: --config.teacher.workdir={workdir}'
  )
  return written


def _targets(plan: Plan, name: str | None, heads) -> Sequence[Stage]:
  if name is not None:
    if name not in plan.names:
      raise InputError(
        expected=f'a stage: {", ".join(plan.names)}',
        found=repr(name),
        where='--stage',
        do='correct the name, or leave it out for the networks of all tasks',
      )
    return [plan[name]]
  stages = [s for s in plan.stages if s.row == SINGLE_TASK]
  # A head without a number is identified by its channels.
  fit = []
  for stage in stages:
    (channels,) = stage.network.channels.values()
    if heads.get(SINGLE, channels) == channels:
      fit.append(stage)
  return fit or stages


def _imported(stage: Stage, weights, where) -> tuple[TrainedNetwork, list[str]]:
  like = stage.abstract_state.variables
  try:
    variables, ignored = import_variables(weights, like, where=where)
  except InputError as error:
    raise InputError(
      expected=error.expected,
      found=error.found,
      where=error.where,
      do='correct --network, config.model.width or config.tasks, or name '
      'another file with --torch=FILE',
    ) from error
  network = TrainedNetwork(
    name=stage.name,
    network=stage.network,
    variables=variables,
    tasks=stage.tasks,
    image_size=stage.data.image_size,
  )
  return network, ignored


def _summary(names: list[str]) -> str:
  shown = ', '.join(names[:4])
  return f'{shown} and {len(names) - 4} more' if len(names) > 4 else shown
