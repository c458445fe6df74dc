"""Checkpoints of one stage: the last two, and the best; the only orbax file.

    <directory>/last/<step>   written asynchronously while training goes on
    <directory>/best/<step>   a copy of the one with the highest score

Orbax writes to a temporary folder and renames it, so that a run killed at any
moment leaves whole checkpoints only. What orbax does not notice is damage that
comes later (a flipped bit reads back as another number): every checkpoint
carries a checksum of its arrays, which is verified when it is read.
"""

import json
import logging
import pathlib
from typing import Any
import warnings
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.log_filters import without_warnings
from mtl_kd_jax.runtime.mismatch import describe_misfit, shapes_by_name

_CHANGED = 'its numbers do not match its checksum'


class Checkpoints:
  """Saves and restores the train state of one stage."""

  def __init__(self, directory: pathlib.Path | str, *, keep: int = 2):
    """Opens the folder, making it when needed.

    Args:
      directory: the stage's folder.
      keep: how many of the latest checkpoints stay; two, so that there is one
        to fall back to.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._last = _manager(self._directory / 'last', keep)
    self._best = _manager(self._directory / 'best', 1)
    self._best_score = None
    if (step := self._best.latest_step()) is not None:
      self._best_score = _read_info(
        self._directory / 'best' / str(step), 'score'
      )

  @property
  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, None when there is none."""
    return self._last.latest_step()

  @property
  def finished(self) -> bool:
    """Whether the newest checkpoint is the end of its stage."""
    step = self.latest_step
    if step is None:
      return False
    return _read_info(self._directory / 'last' / str(step), 'finished') is True

  def save(self, step: int, state: Any, *, finished: bool = False) -> None:
    """Saves the newest state; returns before it is on disk.

    Args:
      step: number of optimizer steps taken.
      state: pytree of global arrays. It is copied first, so that the next step
        may overwrite it.
      finished: whether the stage ends here.
    """
    self._last.save(step, args=_save_args(state, finished=finished))

  def save_if_best(self, step: int, state: Any, score: float) -> None:
    """Keeps `state` as the best when `score` is the highest so far.

    A step that is the best already is not written again: a run that goes on
    may score it once more.
    """
    if np.isnan(score) or step in self._best.all_steps():
      return
    if self._best_score is None or score > self._best_score:
      self._best.save(step, args=_save_args(state, score=score), force=True)
      self._best_score = score

  def wait(self) -> None:
    """Waits until everything saved is on disk."""
    self._last.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits, and gives the threads back."""
    self.wait()
    self._last.close()
    self._best.close()

  def restore_last(self, like: Any) -> Any | None:
    """The newest state that can be read, or None when there is none.

    A damaged checkpoint is warned about, moved to `<directory>/damaged` (never
    deleted) and the one before it is tried.

    Args:
      like: pytree of arrays or jax.ShapeDtypeStruct with shardings: structure,
        shapes and placement of the result.
    """
    return self._restore(self._last, 'last', like)

  def restore_best(self, like: Any) -> Any | None:
    """The state with the highest score, or the newest when it is unreadable."""
    best = self._restore(self._best, 'best', like)
    return self.restore_last(like) if best is None else best

  def _restore(self, manager, kind, like):
    like = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
    for step in sorted(manager.all_steps(), reverse=True):
      try:
        return _read(manager, step, like)
      except Exception as error:
        # Orbax and tensorstore raise many kinds of errors for broken files.
        self._move_aside(manager, kind, step, error)
    return None

  def _move_aside(self, manager, kind, step, error):
    # Orbax leaves failed reads behind, which would complain at exit.
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    damaged = self._directory / 'damaged'
    damaged.mkdir(exist_ok=True)
    target = damaged / f'{kind}-{step}'
    n = 1
    while target.exists():
      n += 1
      target = damaged / f'{kind}-{step}-{n}'
    warnings.warn(
      f'checkpoint {self._directory / kind / str(step)} is damaged '
      f'({_first_line(error)}); moved it to {target}, and falling back to the '
      'one before',
      stacklevel=4,
    )
    if jax.process_index() == 0:
      (self._directory / kind / str(step)).rename(target)
    manager.reload()


def read_variables(
  directory: pathlib.Path | str, like: Any, *, best: bool
) -> dict[str, Any]:
  """The variables of a finished stage of another run, which stays untouched.

  Unlike a restored state they do not depend on how the stage was optimized.

  Args:
    directory: the stage's folder.
    like: {'params', 'batch_stats'} of arrays or their shapes, with the sharding
      of the result.
    best: whether to take the checkpoint with the highest score, if there is
      one, instead of the last.

  Raises:
    InputError: there is no finished stage, it is damaged, or its variables
      have other names or shapes.
  """
  directory = pathlib.Path(directory).absolute()
  newest = _newest(directory / 'last')
  if newest is None or _read_info(newest, 'finished') is not True:
    raise InputError(
      expected='a finished stage',
      found=f'an unfinished one, at step {newest.name}' if newest else 'none',
      where=f'{directory}',
      do='name the workdir of a run that has ended, or of an import',
    )
  chosen = (_newest(directory / 'best') if best else None) or newest
  try:
    state = _read_unknown(chosen, jax.tree.leaves(like)[0].sharding)
  except Exception as error:
    # Orbax and tensorstore raise many kinds of errors for broken files.
    raise InputError(
      expected='a checkpoint that can be read',
      found=_first_line(error),
      where=f'{chosen}',
      do='train or import that network again',
    ) from error
  variables = {key: state[key] for key in like}
  misfit = describe_misfit(shapes_by_name(like), shapes_by_name(variables))
  if misfit:
    raise InputError(
      expected='the variables of the network that the config names',
      found=misfit,
      where=f'{chosen}',
      do='name the workdir of a run with that network, or correct '
      'config.teacher.model and config.tasks',
    )
  return variables


def _newest(directory: pathlib.Path) -> pathlib.Path | None:
  steps = [p for p in directory.glob('*') if p.name.isdigit()]
  return max(steps, key=lambda p: int(p.name)) if steps else None


def _read_unknown(directory, sharding):
  """A state, as nested dictionaries."""
  # Orbax misses the manager's metadata when it reads one item of a step.
  with without_warnings(), ocp.StandardCheckpointer() as checkpointer:
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      checkpointer.metadata(directory / 'state').item_metadata.tree,
    )
    state = checkpointer.restore(directory / 'state', like)
  if checksum(state) != _read_info(directory, 'checksum'):
    raise ValueError(_CHANGED)
  return state


def _manager(directory: pathlib.Path, keep: int) -> ocp.CheckpointManager:
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'{directory}',
      do='choose another with --workdir=FOLDER',
    ) from error
  return ocp.CheckpointManager(
    directory,
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
    item_names=('state', 'info'),
  )


def _save_args(state, **info):
  info['checksum'] = checksum(state)
  return ocp.args.Composite(
    state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(info)
  )


def _read(manager, step, like):
  read = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(like), info=ocp.args.JsonRestore()
    ),
  )
  if checksum(read.state) != read.info['checksum']:
    raise ValueError(_CHANGED)
  return read.state


def _read_info(directory: pathlib.Path, key: str):
  try:
    return json.loads((directory / 'info' / 'metadata').read_text())[key]
  except (OSError, ValueError, KeyError):
    return None  # unreadable: the next score counts as the best


def checksum(state: Any) -> int:
  """A sum over all arrays of a pytree of the CRC-32 of name and bytes.

  The same for a state and for the nested dictionaries that are read back when
  its structure is not known.
  """
  total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
    name = jax.tree_util.keystr(path, simple=True, separator='/').encode()
    array = np.ascontiguousarray(leaf).view(np.uint8)
    total += zlib.crc32(array.data, zlib.crc32(name))
  return total % 2**32


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {error}'.splitlines()[0][:200]
