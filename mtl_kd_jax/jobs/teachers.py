"""Single-task networks that another run trained, or an import brought."""

import pathlib
from typing import Any

from mtl_kd_jax.config.build import Experiment
from mtl_kd_jax.reports.results import checkpoint_dir
from mtl_kd_jax.runtime.checkpointing import read_variables
from mtl_kd_jax.training.stage import Stage


def read_teacher(experiment: Experiment, stage: Stage) -> dict[str, Any]:
  """Reads the variables of a teacher's stage in `config.teacher.workdir`.

  Raises:
    InputError: there is no such finished stage, or its network is another one.
  """
  workdir = pathlib.Path(experiment.config.teacher.workdir)
  return read_variables(
    checkpoint_dir(workdir, stage),
    stage.like().variables,
    best=experiment.config.select == 'best',
  )
