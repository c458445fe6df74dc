"""Multi-task learning by knowledge distillation, in JAX and Flax.

  import mtl_kd_jax as mtl

  config = mtl.get_config('quickstart')
  run = mtl.train(config, 'runs/quickstart')     # as launch.py does
  run = mtl.load('runs/quickstart')              # any later day
  run['distilled'].predict('kitchen.jpg').depth

or, step by step, `mtl.Trainer`. What is named here is the public interface;
everything else may change. Submodules are imported when they are first used.
"""

import importlib
import os
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` returns, for editors and type checkers
  from ml_collections import ConfigDict

  from mtl_kd_jax import (
    balancing,
    datasets,
    distillation,
    hub,
    methods,
    models,
    reports,
    tasks,
    training,
  )
  from mtl_kd_jax.config import get_config
  from mtl_kd_jax.errors import InputError, NotFiniteError
  from mtl_kd_jax.exporting import (
    ExportedFolder,
    ExportedNetwork,
    export,
    load,
  )
  from mtl_kd_jax.prediction import Prediction, Predictions
  from mtl_kd_jax.reports.compare import Comparison
  from mtl_kd_jax.reports.tables import table
  from mtl_kd_jax.run import Run, write_run
  from mtl_kd_jax.runtime.preemption import Stopped
  from mtl_kd_jax.teaching import Distill, distill
  from mtl_kd_jax.trained import TrainedNetwork
  from mtl_kd_jax.trainer import Trainer
  from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm

__version__ = '0.1.0'

_NAMES = {
  'Distill': 'teaching',
  'ExportedFolder': 'exporting',
  'ExportedNetwork': 'exporting',
  'ExtraNetwork': 'training.loss_terms',
  'InputError': 'errors',
  'LossTerm': 'training.loss_terms',
  'NotFiniteError': 'errors',
  'Prediction': 'prediction',
  'Predictions': 'prediction',
  'Run': 'run',
  'Stopped': 'runtime.preemption',
  'TrainedNetwork': 'trained',
  'Trainer': 'trainer',
  'distill': 'teaching',
  'export': 'exporting',
  'get_config': 'config',
  'load': 'exporting',
  'table': 'reports.tables',
  'write_run': 'run',
}
_SUBMODULES = (
  'balancing',
  'datasets',
  'distillation',
  'hub',
  'methods',
  'models',
  'reports',
  'tasks',
  'training',
)

# Spelled out: type checkers read it.
__all__ = [
  'Distill',
  'ExportedFolder',
  'ExportedNetwork',
  'ExtraNetwork',
  'InputError',
  'LossTerm',
  'NotFiniteError',
  'Prediction',
  'Predictions',
  'Run',
  'Stopped',
  'TrainedNetwork',
  'Trainer',
  '__version__',
  'balancing',
  'compare',
  'datasets',
  'distill',
  'distillation',
  'evaluate',
  'export',
  'get_config',
  'hub',
  'load',
  'methods',
  'models',
  'reports',
  'table',
  'tasks',
  'train',
  'training',
  'write_run',
]


def train(config: 'ConfigDict', workdir: 'str | os.PathLike[str]') -> 'Run':
  """Trains what a config says, or continues it; as launch.py does.

  Args:
    config: from `get_config`.
    workdir: folder of the run.

  Returns:
    The `Run`.

  Raises:
    InputError: config, data or workdir cannot be used; before any training.
    NotFiniteError: training diverged.
    Stopped: a signal asked for it; everything is saved.
  """
  return _job('train').run(config, _path(workdir))


def compare(
  config: 'ConfigDict',
  workdir: 'str | os.PathLike[str]',
  *,
  cells: str = 'all',
) -> 'Comparison':
  """Trains the variations of a comparison, and reports; as launch.py does.

  Args:
    config: from `get_config('compare/quickstart')`, or made by
      `config.comparison.get_config`.
    workdir: folder of the comparison.
    cells: 'all', 'none' to report what is there, or a share such as '2/8'.

  Returns:
    The `Comparison`.

  Raises:
    InputError: config or folder cannot be used; before any training.
    Stopped: a signal asked for it; everything is saved.
  """
  return _job('compare').run(config, _path(workdir), cells=cells)


def evaluate(
  workdir: 'str | os.PathLike[str]',
  *,
  split: str | None = None,
  all: bool = False,
) -> 'Run':
  """Scores the finished networks of a run again; prints and writes the table.

  Args:
    workdir: folder of the run.
    split: the split to score; None for the one that the run reported.
    all: whether tables have all metrics, such as the IoU of every class.

  Returns:
    The `Run`.

  Raises:
    InputError: there is no such run, or its data cannot be opened.
  """
  job = _job('evaluate')
  config = job.default_config(_path(workdir))
  return job.run(config, _path(workdir), split=split, all=all)


if not TYPE_CHECKING:  # or a type checker would allow any name

  def __getattr__(name: str) -> Any:
    if name in _NAMES:
      module = importlib.import_module(f'{__name__}.{_NAMES[name]}')
      return getattr(module, name)
    if name in _SUBMODULES:
      return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted(__all__)


def _job(name: str) -> Any:
  return importlib.import_module(f'{__name__}.jobs.{name}')


def _path(workdir: 'str | os.PathLike[str]') -> pathlib.Path:
  paths = importlib.import_module(f'{__name__}.datasets.paths')
  return paths.expand(workdir, argument='workdir')
