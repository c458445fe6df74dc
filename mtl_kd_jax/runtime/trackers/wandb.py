"""Weights & Biases; with WANDB_MODE=offline, in the workdir alone."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import secrets

from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker

_PICTURES = ('.png',)
# Seconds after which rows are on the disk. A process that is killed loses later
# ones: by default, those of 15 seconds.
_FLUSH = 'x_transaction_log_flush_interval'
_EXIT_CODES = {'finished': 0, 'stopped': 1, 'failed': 1}


class WeightsAndBiases(Tracker):
  """A run of W&B; the steps of a stage are the x-axis of its charts.

  WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and WANDB_DIR are W&B's own.
  """

  LIBRARY = 'wandb'
  HELP = 'log in (wandb login), or set WANDB_MODE=offline'

  def __init__(self, about: Description, run_id: str | None):
    """Opens a run; W&B's own output is not shown."""
    import wandb

    self._wandb = wandb
    self.run_id = run_id or secrets.token_hex(4)
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT') or 'mtl_kd_jax',
      id=self.run_id,
      resume='allow',
      name=about.name,
      group=about.group or None,
      config=dict(about.config),
      allow_val_change=True,  # of what may change when a run continues
      dir=_folder(about.workdir),
      reinit='create_new',  # beside one that the caller may have open
      settings=wandb.Settings(**_settings(wandb)),
    )
    self._next = self._run.step  # W&B refuses smaller numbers of rows
    folder = pathlib.Path(self._run.dir).parent
    self.where = str(folder if self._run.offline else self._run.url)

  def begin(self, stage: str, step: int) -> None:
    """Makes the steps of the stage the x-axis of what is logged of it."""
    self._run.define_metric(_axis(stage), hidden=True)
    self._run.define_metric(f'{stage}/*', step_metric=_axis(stage))

  def log(self, lines: Sequence[Line]) -> None:
    """Adds a row of the history for each line."""
    for line in lines:
      row = {f'{line.stage}/{line.kind}/{k}': x for k, x in line.values.items()}
      # By itself, W&B counts from 0 again where a run continues offline.
      number = max(line.number, self._next)
      self._next = number + 1
      self._run.log({**row, _axis(line.stage): line.step}, step=number)

  def report(
    self, results: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Adds to the summary, which is replaced when it is written again."""
    self._run.summary.update(dict(results))
    for path in files:
      if path.suffix in _PICTURES:
        self._run.summary[path.stem] = self._wandb.Image(str(path))

  def close(self, status: str) -> None:
    """Waits until everything is sent, or written."""
    self._run.finish(exit_code=_EXIT_CODES[status])


def _folder(workdir) -> str | None:
  """Where W&B writes; None for its own choice, also beside a bucket."""
  if os.environ.get('WANDB_DIR') or buckets.is_bucket(workdir):
    return None
  return str(workdir)


def _settings(wandb):
  settings = {'silent': True, 'console': 'off'}
  if _FLUSH in getattr(wandb.Settings, 'model_fields', ()):  # a newer version
    settings[_FLUSH] = 1.0
  return settings


def _axis(stage: str) -> str:
  return f'{stage}/step'
