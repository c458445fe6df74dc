"""Checkpoints of one stage: the last two, and the best.

    <directory>/last/<step>   written asynchronously while training goes on
    <directory>/best/<step>   a copy of the one with the highest score

A checkpoint is written to a temporary folder that is renamed, so that a run
killed at any moment leaves whole checkpoints only. For damage that comes later
(a flipped bit reads back as another number) it carries checksums of its arrays
and of its files. In a bucket, the checksums come last (checkpoint_bucket.py).

Three cases are distinguished. Where checksums fail, a checkpoint is damaged:
training sets it aside and falls back to an earlier one. A sound checkpoint of
another state is a mismatch, and one that a library cannot read is an error too;
neither changes anything. And where the machine fails (memory, permission, disk
or network), that error is raised, and changes nothing either.
"""

from collections.abc import Callable, Mapping
import os
from typing import TYPE_CHECKING, Any
import warnings

import jax
import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.checkpoint_files import (
  DamagedError,
  newest,
  read_info,
)
from mtl_kd_jax.runtime.checkpoint_io import (
  checksum,
  open_manager,
  read_state,
  read_unknown,
  save_args,
)
from mtl_kd_jax.runtime.log_filters import without_warnings
from mtl_kd_jax.runtime.mismatch import describe_mismatch, shapes_by_name
from mtl_kd_jax.runtime.parallel import any_process, is_main_process

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

__all__ = [
  'Checkpoints',
  'checksum',
  'has_best',
  'is_finished',
  'latest_step',
  'read_variables',
]

_LAST, _BEST = 'last', 'best'
# How many of the latest checkpoints stay: one, and one to fall back to.
_KEPT = 2
_FALLBACK = {_LAST: 'an earlier one', _BEST: 'the newest'}


class Checkpoints:
  """Saves and restores the training state of one stage."""

  def __init__(self, directory: str | os.PathLike):
    """Opens the folder, making it when needed.

    A best checkpoint whose score is damaged is set aside, as in `restore_last`.

    Args:
      directory: the stage's folder.

    Raises:
      InputError: the folder cannot be made, or the score cannot be read,
        although it may be sound.
      OSError: the machine cannot read the score.
    """
    self._directory = _path(directory)
    self._last = open_manager(self._directory / _LAST, max_to_keep=_KEPT)
    self._best = open_manager(self._directory / _BEST, max_to_keep=1)
    best = self._newest_sound(_BEST, read_info)
    self._best_score = best.get('score') if best else None

  @property
  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, None when there is none."""
    return self._last.latest_step()

  @property
  def finished(self) -> bool:
    """Whether the newest checkpoint is the end of its stage."""
    self._last.wait_until_finished()
    return is_finished(self._directory)

  def save(self, step: int, state: Any, *, finished: bool = False) -> None:
    """Saves the newest state; returns once it is copied to the host.

    Args:
      step: number of optimizer steps taken.
      state: pytree of global arrays. The next step may overwrite it.
      finished: whether the stage ends here.
    """
    with without_warnings():  # that the one before took long
      self._last.save(step, args=save_args(state, finished=finished))

  def save_if_best(self, step: int, state: Any, score: float) -> None:
    """Keeps `state` as the best when `score` is the highest so far.

    A step that is the best already is not written again: a run that continues
    may score it once more. The main process decides for all, which write
    together.
    """
    if any_process(is_main_process() and self._is_best(step, score)):
      with without_warnings():
        self._best.save(step, args=save_args(state, score=score), force=True)
      self._best_score = score

  def _is_best(self, step, score) -> bool:
    if np.isnan(score) or step in self._best.all_steps():
      return False
    return self._best_score is None or score > self._best_score

  def wait(self) -> None:
    """Waits until everything saved is on disk; all processes together."""
    self._wait()
    if buckets.is_bucket(self._directory):
      any_process(False)  # the main process writes alone

  def _wait(self):
    self._last.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits, and gives the threads back."""
    self._wait()
    self._last.close()
    self._best.close()

  def restore_last(self, like: Any) -> Any | None:
    """The newest state that can be read, or None when there is none.

    A damaged checkpoint is warned about, moved to `<directory>/damaged` (never
    deleted), and the one before it is tried.

    Args:
      like: pytree of arrays or jax.ShapeDtypeStruct with shardings: structure,
        shapes and placement of the result.

    Raises:
      InputError: a checkpoint is of another structure or of other shapes or
        dtypes, or cannot be read, although it may be sound; it stays where it
        is.
      OSError, MemoryError, jax.errors.JaxRuntimeError: the machine cannot read
        a checkpoint, which stays where it is.
    """
    return self._newest_sound(_LAST, lambda path: read_state(path, like))

  def restore_best(self, like: Any) -> Any | None:
    """The state with the highest score; the newest where there is none.

    A damaged one is set aside as in `restore_last`, which describes argument
    and errors.
    """
    best = self._newest_sound(_BEST, lambda path: read_state(path, like))
    return self.restore_last(like) if best is None else best

  def _newest_sound(self, kind, read: Callable[['Path'], Any]):
    """What is read of the newest checkpoint that is not damaged, or None."""
    manager = self._last if kind == _LAST else self._best
    for step in sorted(manager.all_steps(), reverse=True):
      directory = self._directory / kind / str(step)
      result, problem = None, ''
      try:
        result = read(directory)
      except DamagedError as error:
        problem = f'{error}'
      if not any_process(bool(problem)):
        return result
      if is_main_process():
        problem = problem or 'another process cannot read it'
        self._set_aside(directory, problem, _FALLBACK[kind])
      any_process(False)  # nobody looks again before it is moved
      manager.reload()
    return None

  def _set_aside(self, directory, problem, fallback):
    damaged = self._directory / 'damaged'
    in_bucket = buckets.is_bucket(directory)
    if not in_bucket:
      damaged.mkdir(exist_ok=True)
    name = f'{directory.parent.name}-{directory.name}'
    target, n = damaged / name, 1
    while target.exists():
      n += 1
      target = damaged / f'{name}-{n}'
    warnings.warn(
      f'checkpoint {directory} is damaged ({problem}); moved it to {target}, '
      f'and falling back to {fallback}, if there is one',
      stacklevel=4,
    )
    if in_bucket:
      buckets.move(directory, target)
    else:
      directory.rename(target)


def read_variables(
  directory: str | os.PathLike, like: Mapping[str, Any], *, best: bool
) -> dict[str, Any]:
  """The network's variables of a finished stage, which stays untouched.

  They do not depend on how the stage was optimized.

  Args:
    directory: the stage's folder.
    like: {'params', and other collections} of arrays or their shapes; with the
      sharding of the result, if they have one.
    best: whether to take the checkpoint with the highest score, if there is
      one, instead of the last.

  Raises:
    InputError: there is no finished stage, it is damaged, or its variables
      have other names or shapes; or it cannot be read, although it may be
      sound.
    OSError, MemoryError, jax.errors.JaxRuntimeError: the machine cannot read
      it.
  """
  directory = _path(directory)
  leaf = jax.tree.leaves(like)[0]
  while True:
    chosen = _choose(directory, best=best)
    try:
      state = read_unknown(chosen, getattr(leaf, 'sharding', None))
      break
    except (DamagedError, InputError, OSError) as error:
      if not chosen.exists():
        continue  # training has just put another in its place
      if isinstance(error, DamagedError):
        raise _damaged(chosen, error) from error
      raise
  variables = _variables_of(state)
  difference = describe_mismatch(
    shapes_by_name(like), shapes_by_name(variables)
  )
  if difference:
    raise InputError(
      expected='the variables of the requested network',
      found=difference,
      where=f'{chosen}',
      do='name the workdir of a run with that network, or request the network '
      'that it has',
    )
  return {kind: variables.get(kind, {}) for kind in like}


def _path(directory) -> 'Path':
  return buckets.absolute(buckets.path_of(directory))


def _choose(directory: 'Path', *, best: bool) -> 'Path':
  """The checkpoint of a finished stage that is to be read."""
  last = newest(directory / _LAST)
  if last is None or not _says_finished(last):
    raise InputError(
      expected='a finished stage',
      found=f'an unfinished one, at step {last.name}' if last else 'none',
      where=f'{directory}',
      do='name the workdir of a run that has ended, or of an import',
    )
  return (newest(directory / _BEST) if best else None) or last


def is_finished(directory: str | os.PathLike) -> bool:
  """Whether a stage has been trained to its end; changes nothing.

  Raises:
    InputError: its newest checkpoint is damaged, or cannot be read.
    OSError: the machine cannot read it.
  """
  last = newest(_path(directory) / _LAST)
  return last is not None and _says_finished(last)


def latest_step(directory: str | os.PathLike) -> int | None:
  """The step of a stage's newest checkpoint, or None; changes nothing."""
  last = newest(_path(directory) / _LAST)
  return None if last is None else int(last.name)


def has_best(directory: str | os.PathLike) -> bool:
  """Whether a stage has a checkpoint that its score has chosen."""
  return newest(_path(directory) / _BEST) is not None


def _says_finished(directory) -> bool:
  try:
    return read_info(directory).get('finished') is True
  except DamagedError as error:
    raise _damaged(directory, error) from error


def _damaged(directory, error) -> InputError:
  return InputError(
    expected='a checkpoint that is as it was written',
    found=f'a damaged one: {error}',
    where=f'{directory}',
    do='continue its training, which falls back to an earlier checkpoint, or '
    'import that network again',
  )


def _variables_of(state) -> dict[str, Any]:
  """The network's variables of a state, also of the first layout.

  Where their moving average was kept (training/state.py), that.
  """
  opt_state = state.get('opt_state')
  if isinstance(opt_state, Mapping) and opt_state.get('averaged'):
    return opt_state['averaged']
  if 'collections' in state:
    return {'params': state['params'], **(state['collections'] or {})}
  # Before there were other collections: adaptors stood among the parameters.
  params = {k: p for k, p in state['params'].items() if k != 'adaptors'}
  return {'params': params, 'batch_stats': state['batch_stats']}
