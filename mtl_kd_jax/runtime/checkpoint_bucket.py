"""Checkpoints in a bucket: written on this machine, then uploaded.

In the thread that writes them. Whoever lists the bucket sees a checkpoint when
all of it is there, and no part of one that is being removed.
"""

from collections.abc import Callable
import pathlib
from typing import TYPE_CHECKING, Any

from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.bucket_copies import temporary_folder, upload
from mtl_kd_jax.runtime.checkpoint_files import steps
from mtl_kd_jax.runtime.damage import CHECKSUMS
from mtl_kd_jax.runtime.parallel import is_main_process

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path


class BucketManager:
  """What is used of orbax's manager, for a folder in a bucket."""

  def __init__(
    self,
    directory: 'Path',
    *,
    max_to_keep: int,
    open_local: Callable[..., Any],
  ):
    """Lists the folder; the main process removes what a killed run has left.

    Args:
      directory: the folder.
      max_to_keep: number of checkpoints.
      open_local: (folder, on_written) -> orbax's manager of a folder of this
        machine.

    Raises:
      OSError: the bucket cannot be reached.
    """
    self._directory, self._max_to_keep = directory, max_to_keep
    self._steps = steps(directory)
    self._local = None
    if is_main_process():
      self._remove_unfinished()
      self._local = open_local(temporary_folder(self), on_written=self._upload)

  def all_steps(self) -> list[int]:
    """The steps of all checkpoints, also of one that is being written."""
    return sorted(self._steps)

  def latest_step(self) -> int | None:
    """The newest of them."""
    return max(self._steps, default=None)

  def reload(self) -> None:
    """Lists the folder again."""
    self._steps = steps(self._directory)

  def save(self, step: int, *, args: Any, force: bool = False) -> None:
    """Writes and uploads a checkpoint, in the background."""
    if self._local is not None:
      self._local.save(step, args=args, force=force)
    self._steps = self._kept(self._steps | {step})

  def wait_until_finished(self) -> None:
    """Waits until what this process has saved is in the bucket."""
    if self._local is not None:
      self._local.wait_until_finished()

  def close(self) -> None:
    """Gives the threads back."""
    if self._local is not None:
      self._local.close()

  def _kept(self, every) -> set[int]:
    return set(sorted(every)[-self._max_to_keep :])

  def _upload(self, written: pathlib.Path) -> None:
    step = int(written.name.partition('.')[0])
    place = self._directory / str(step)
    if (place / CHECKSUMS).exists():
      self._remove(step)
    upload(written, place, last=CHECKSUMS)
    every = steps(self._directory)
    for old in every - self._kept(every):
      self._remove(old)

  def _remove(self, step: int) -> None:
    buckets.remove(self._directory / str(step) / CHECKSUMS)
    buckets.remove(self._directory / str(step))

  def _remove_unfinished(self) -> None:
    names = {n.partition('/')[0] for n in buckets.objects(self._directory)}
    for name in names - {str(step) for step in self._steps}:
      buckets.remove(self._directory / name)
