"""Checkpoints of one stage: the last two, and the best; the only orbax file.

    <directory>/last/<step>   written asynchronously while training goes on
    <directory>/best/<step>   a copy of the one with the highest score

Orbax writes to a temporary folder and renames it, so that a run killed at any
moment leaves whole checkpoints only. What orbax does not notice is damage that
comes later (a flipped bit reads back as another number): every checkpoint
carries a checksum of its arrays, which is verified when it is read.

Three cases are distinguished. A checkpoint that is broken, or whose checksum
fails, is damaged: training sets it aside and falls back to an earlier one. A
sound checkpoint of another state is a mismatch, an error that changes nothing.
And where the machine fails (memory, permission, disk or network), the
checkpoint may be sound: that error is raised, and changes nothing either.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import pathlib
from typing import Any
import warnings
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.damage import is_of_machine, read_all
from mtl_kd_jax.runtime.log_filters import (
  patient_event_loops,
  without_warnings,
)
from mtl_kd_jax.runtime.mismatch import describe_mismatch, shapes_by_name
from mtl_kd_jax.runtime.parallel import any_process, is_main_process

_LAST, _BEST = 'last', 'best'
# How many of the latest checkpoints stay: one, and one to fall back to.
_KEPT = 2
_FALLBACK = {_LAST: 'an earlier one', _BEST: 'the newest'}


class _DamagedError(Exception):
  """A checkpoint that cannot be read as it was written."""


class Checkpoints:
  """Saves and restores the training state of one stage."""

  def __init__(self, directory: pathlib.Path | str):
    """Opens the folder, making it when needed.

    Args:
      directory: the stage's folder.

    Raises:
      InputError: the folder cannot be made.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._last = _manager(self._directory / _LAST, _KEPT)
    self._best = _manager(self._directory / _BEST, 1)
    self._best_score = None
    if (step := self._best.latest_step()) is not None:
      self._best_score = _read_info(
        self._directory / _BEST / str(step), 'score'
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
    return _read_info(self._directory / _LAST / str(step), 'finished') is True

  def save(self, step: int, state: Any, *, finished: bool = False) -> None:
    """Saves the newest state; returns once it is copied to the host.

    Args:
      step: number of optimizer steps taken.
      state: pytree of global arrays. The next step may overwrite it.
      finished: whether the stage ends here.
    """
    with without_warnings():  # that the one before took long
      self._last.save(step, args=_save_args(state, finished=finished))

  def save_if_best(self, step: int, state: Any, score: float) -> None:
    """Keeps `state` as the best when `score` is the highest so far.

    A step that is the best already is not written again: a run that continues
    may score it once more. The main process decides for all, which write
    together.
    """
    if any_process(is_main_process() and self._is_best(step, score)):
      with without_warnings():
        self._best.save(step, args=_save_args(state, score=score), force=True)
      self._best_score = score

  def _is_best(self, step, score) -> bool:
    if np.isnan(score) or step in self._best.all_steps():
      return False
    return self._best_score is None or score > self._best_score

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
    deleted), and the one before it is tried.

    Args:
      like: pytree of arrays or jax.ShapeDtypeStruct with shardings: structure,
        shapes and placement of the result.

    Raises:
      InputError: a checkpoint is sound, but of another structure or of other
        shapes; it stays where it is.
      OSError, MemoryError, jax.errors.JaxRuntimeError: the machine cannot read
        a checkpoint, which stays where it is.
    """
    return self._restore(self._last, _LAST, like)

  def restore_best(self, like: Any) -> Any | None:
    """The state with the highest score; the newest where there is none.

    A damaged one is set aside as in `restore_last`, which describes argument
    and errors.
    """
    best = self._restore(self._best, _BEST, like)
    return self.restore_last(like) if best is None else best

  def _restore(self, manager, kind, like):
    like = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
    for step in sorted(manager.all_steps(), reverse=True):
      directory = self._directory / kind / str(step)
      state, problem = None, ''
      try:
        state = _read(directory, like)
      except _DamagedError as error:
        problem = f'{error}'
      if not any_process(bool(problem)):
        return state
      if is_main_process():
        problem = problem or 'another process cannot read it'
        self._set_aside(directory, problem, _FALLBACK[kind])
      any_process(False)  # nobody looks again before it is moved
      manager.reload()
    return None

  def _set_aside(self, directory, problem, fallback):
    damaged = self._directory / 'damaged'
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
    directory.rename(target)


def read_variables(
  directory: pathlib.Path | str, like: Mapping[str, Any], *, best: bool
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
      have other names or shapes.
    OSError, MemoryError, jax.errors.JaxRuntimeError: the machine cannot read
      it.
  """
  directory = pathlib.Path(directory).absolute()
  newest = _newest(directory / _LAST)
  if newest is None or _read_info(newest, 'finished') is not True:
    raise InputError(
      expected='a finished stage',
      found=f'an unfinished one, at step {newest.name}' if newest else 'none',
      where=f'{directory}',
      do='name the workdir of a run that has ended, or of an import',
    )
  chosen = (_newest(directory / _BEST) if best else None) or newest
  leaf = jax.tree.leaves(like)[0]
  try:
    state = _read_unknown(chosen, getattr(leaf, 'sharding', None))
  except _DamagedError as error:
    raise InputError(
      expected='a checkpoint that can be read',
      found=f'{error}',
      where=f'{chosen}',
      do='train or import that network again',
    ) from error
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


def is_finished(directory: pathlib.Path | str) -> bool:
  """Whether a stage has been trained to its end; changes nothing."""
  newest = _newest(pathlib.Path(directory) / _LAST)
  return newest is not None and _read_info(newest, 'finished') is True


def latest_step(directory: pathlib.Path | str) -> int | None:
  """The step of a stage's newest checkpoint, or None; changes nothing."""
  newest = _newest(pathlib.Path(directory) / _LAST)
  return None if newest is None else int(newest.name)


def has_best(directory: pathlib.Path | str) -> bool:
  """Whether a stage has a checkpoint that its score has chosen."""
  return _newest(pathlib.Path(directory) / _BEST) is not None


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


def _variables_of(state) -> dict[str, Any]:
  """The network's variables of a state, also of the first layout."""
  if 'collections' in state:
    return {'params': state['params'], **(state['collections'] or {})}
  # Before there were other collections: adaptors stood among the parameters.
  params = {k: p for k, p in state['params'].items() if k != 'adaptors'}
  return {'params': params, 'batch_stats': state['batch_stats']}


def _manager(directory: pathlib.Path, keep: int) -> ocp.CheckpointManager:
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'{directory}',
      argument='workdir',
      do='choose another workdir',
    ) from error
  return ocp.CheckpointManager(
    directory,
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      cleanup_tmp_directories=True,
      # Managers that save in the same step would wait at each other's barriers.
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        barrier_sync_key_prefix='_'.join(directory.parts[-2:])
      ),
    ),
    item_names=('state', 'info'),
  )


class _Info(dict):
  """What is known of a state, with its checksum.

  Orbax reads it in the thread that writes: the checksum does not hold up the
  training.
  """

  def __init__(self, state: Any, **info: Any):
    super().__init__(info, checksum=None)
    self._state = state

  def items(self):
    self['checksum'] = checksum(self._state)
    return super().items()


def _save_args(state, **info):
  # Owned by the host: what is on the device is overwritten by the next step.
  state = jax.tree.map(
    lambda x: x.copy() if isinstance(x, np.ndarray) else np.asarray(x), state
  )
  return ocp.args.Composite(
    state=ocp.args.StandardSave(state),
    info=ocp.args.JsonSave(_Info(state, **info)),
  )


def _read(directory, like):
  """A checkpoint's state; mismatches are reported before arrays are read."""
  with (
    without_warnings(errors=True),
    ocp.StandardCheckpointer() as checkpointer,
  ):
    written = _metadata(checkpointer, directory)
    difference = describe_mismatch(
      shapes_by_name(like), shapes_by_name(written)
    )
    if difference:
      raise InputError(
        expected='the checkpoint of the stage as it is now',
        found=difference,
        where=f'{directory}',
        do='continue with the settings and the version that it was started '
        'with, or choose another workdir; it is left as it is',
      )
    return _restored(checkpointer, directory, like)


def _read_unknown(directory, sharding):
  """A state, as nested dictionaries; on the first device for no sharding."""
  sharding = sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  with (
    without_warnings(errors=True),
    ocp.StandardCheckpointer() as checkpointer,
  ):
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      _metadata(checkpointer, directory),
    )
    return _restored(checkpointer, directory, like)


def _metadata(checkpointer, directory):
  with _noticing_damage(directory):
    metadata = checkpointer.metadata(directory / 'state').item_metadata
    if metadata is None:
      raise _DamagedError('it does not say what it holds')
    return metadata.tree


def _restored(checkpointer, directory, like):
  with _noticing_damage(directory):
    state = checkpointer.restore(directory / 'state', like)
    if checksum(state) != _read_info(directory, 'checksum'):
      raise _DamagedError('its numbers do not match its checksum')
  return state


@contextlib.contextmanager
def _noticing_damage(directory: pathlib.Path) -> Iterator[None]:
  """Raises `_DamagedError` for what broken files make orbax raise."""
  try:
    with patient_event_loops():
      yield
  except Exception as error:
    if is_of_machine(error):
      raise
    # Orbax may have hidden that it could not open a file. Where one has gone,
    # another process may have set the checkpoint aside.
    with contextlib.suppress(FileNotFoundError):
      read_all(directory)
    if isinstance(error, _DamagedError):
      raise
    # Orbax and tensorstore raise many kinds of errors for broken files.
    text = f'{type(error).__name__}: {error}'
    text = text.splitlines()[0].partition('. See full TensorStore details')[0]
    raise _DamagedError(text[:200]) from error


def _newest(directory: pathlib.Path) -> pathlib.Path | None:
  steps = [
    p
    for p in directory.glob('*')
    if p.name.isascii() and p.name.isdigit() and p.is_dir()
  ]
  return max(steps, key=lambda p: int(p.name)) if steps else None


def _read_info(directory: pathlib.Path, key: str):
  try:
    info = json.loads((directory / 'info' / 'metadata').read_text())
    return info[key] if isinstance(info, dict) else None
  except (OSError, ValueError, KeyError, RecursionError):
    return None  # unreadable: the next score counts as the best
