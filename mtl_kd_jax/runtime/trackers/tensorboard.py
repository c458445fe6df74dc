"""TensorBoard: <workdir>/tensorboard/<stage>/."""

from collections.abc import Sequence

from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker


class TensorBoard(Tracker):
  """Writes event files, one run of TensorBoard a stage."""

  LIBRARY = 'tensorboardX'
  REWINDS = True
  HELP = 'make the folder tensorboard/ of the workdir writable'

  def __init__(self, about: Description, run_id: str | None):
    """Makes the folder; `begin` opens a file in it."""
    self._folder = about.workdir / 'tensorboard'
    self._folder.mkdir(parents=True, exist_ok=True)
    self.run_id, self.where = '', f'{self._folder}'

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

  def end(self, stage: str) -> None:
    """Writes what is left, and closes the file."""
    self._writer.close()
