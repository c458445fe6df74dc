"""TensorBoard: <workdir>/tensorboard/<stage>/.

In a bucket, every minute and at the end: event files grow, and objects cannot.
"""

from collections.abc import Sequence
import time

from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.bucket_copies import temporary_folder, upload
from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker

_SECONDS = 60.0  # between two uploads


class TensorBoard(Tracker):
  """Writes event files, one run of TensorBoard a stage."""

  LIBRARY = 'tensorboardX'
  REWINDS = True
  HELP = 'make the folder tensorboard/ of the workdir writable'

  def __init__(self, about: Description, run_id: str | None):
    """Makes the folder; `begin` opens a file in it."""
    folder = about.workdir / 'tensorboard'
    self._bucket = folder if buckets.is_bucket(folder) else None
    if self._bucket is not None:
      folder = temporary_folder(self)
    self._folder = folder
    self._folder.mkdir(parents=True, exist_ok=True)
    self.run_id, self.where = '', f'{self._bucket or self._folder}'
    self._uploaded = time.monotonic()

  def begin(self, stage: str, step: int) -> None:
    """Opens a file whose first step makes TensorBoard forget later ones."""
    # Imports PyTorch where that is installed, which takes seconds.
    from tensorboardX import SummaryWriter

    self._writer = SummaryWriter(
      str(self._folder / stage),
      purge_step=step + 1,  # the first step to come is purged
    )

  def log(self, lines: Sequence[Line]) -> None:
    """Adds scalars."""
    for line in lines:
      for name, x in line.values.items():
        self._writer.add_scalar(f'{line.kind}/{name}', x, line.step)
    is_due = time.monotonic() - self._uploaded > _SECONDS
    if self._bucket is not None and is_due:
      self._writer.flush()
      self._upload()

  def end(self, stage: str) -> None:
    """Writes what is left, and closes the file."""
    self._writer.close()
    self._upload()

  def _upload(self) -> None:
    if self._bucket is not None:
      upload(self._folder, self._bucket)
      self._uploaded = time.monotonic()
