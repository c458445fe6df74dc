"""Writes and reads the arrays of checkpoints; the only file with orbax."""

from collections.abc import Callable
import functools
import pathlib
from typing import TYPE_CHECKING, Any
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.bucket_copies import fetched
from mtl_kd_jax.runtime.checkpoint_bucket import BucketManager
from mtl_kd_jax.runtime.checkpoint_files import (
  ChecksumError,
  read_info,
  reading,
)
from mtl_kd_jax.runtime.damage import write_checksums
from mtl_kd_jax.runtime.log_filters import (
  patient_event_loops,
  without_warnings,
)
from mtl_kd_jax.runtime.mismatch import (
  describe_dtypes,
  describe_mismatch,
  shapes_by_name,
)

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

# ---- Writing -----------------------------------------------------------------


def open_manager(
  directory: 'Path', *, max_to_keep: int
) -> ocp.CheckpointManager | BucketManager:
  """Opens a folder of checkpoints, making it when needed.

  Raises:
    InputError: the folder cannot be made.
  """
  # Managers that save in the same step would wait at each other's barriers.
  prefix = '_'.join(directory.parts[-2:])
  if buckets.is_bucket(directory):
    # What the main process writes alone, it uploads.
    alone = ocp.options.MultiprocessingOptions(
      active_processes={0}, barrier_sync_key_prefix=prefix
    )
    return BucketManager(
      directory,
      max_to_keep=max_to_keep,
      open_local=functools.partial(
        _open_local, max_to_keep=max_to_keep, processes=alone
      ),
    )
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
  return _open_local(
    directory,
    max_to_keep=max_to_keep,
    processes=ocp.options.MultiprocessingOptions(
      barrier_sync_key_prefix=prefix
    ),
  )


def _open_local(
  directory: pathlib.Path,
  *,
  max_to_keep: int,
  processes: ocp.options.MultiprocessingOptions,
  on_written: Callable[[pathlib.Path], None] | None = None,
) -> ocp.CheckpointManager:
  """Opens a folder of this machine, which exists.

  Args:
    directory: the folder.
    max_to_keep: number of checkpoints.
    processes: which processes save.
    on_written: called with the folder of a checkpoint, before it has its name.
  """
  return ocp.CheckpointManager(
    directory,
    options=ocp.CheckpointManagerOptions(
      max_to_keep=max_to_keep,
      create=False,
      cleanup_tmp_directories=True,
      multiprocessing_options=processes,
      # In the main process and the thread that writes, when all files are
      # there and before the folder gets its name: checkpoints have checksums
      # from the beginning.
      async_options=ocp.AsyncOptions(
        post_finalization_callback=functools.partial(
          _write_checksums, directory, on_written
        )
      ),
    ),
    item_names=('state', 'info'),
  )


def save_args(state: Any, **info: Any) -> ocp.args.Composite:
  """What a manager saves: a copy of the state, and what is known of it."""
  # Owned by the host: what is on the device is overwritten by the next step.
  # All arrays are on their way before the first one is waited for.
  fetched = jax.device_get(state)
  state = jax.tree.map(
    lambda x, y: x.copy() if isinstance(x, np.ndarray) else np.asarray(y),
    state,
    fetched,
  )
  return ocp.args.Composite(
    state=ocp.args.StandardSave(state),
    info=ocp.args.JsonSave(_Info(state, **info)),
  )


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


def _write_checksums(directory, on_written):
  for unfinished in directory.glob('*.orbax-checkpoint-tmp'):
    write_checksums(unfinished)
    if on_written is not None:
      on_written(unfinished)


# ---- Reading -----------------------------------------------------------------


def read_state(directory: 'Path', like: Any) -> Any:
  """The state of a checkpoint; it is compared before arrays are read.

  Args:
    directory: the checkpoint.
    like: pytree of arrays or jax.ShapeDtypeStruct with shardings.

  Raises:
    InputError: it is another state, or cannot be read although it may be sound.
    DamagedError, OSError, MemoryError, jax.errors.JaxRuntimeError: as
      `checkpoint_files.reading`.
  """
  like = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)

  def placed_like(written):
    difference = describe_mismatch(
      shapes_by_name(like), shapes_by_name(written)
    ) or describe_dtypes(like, written)
    if difference:
      raise InputError(
        expected='the checkpoint of the stage as it is now',
        found=difference,
        where=f'{directory}',
        do='continue with the settings and the version that it was started '
        'with, or choose another workdir; it is left as it is',
      )
    return like

  return _read(directory, placed_like)


def read_unknown(
  directory: 'Path', sharding: jax.sharding.Sharding | None
) -> Any:
  """The state of a checkpoint as nested dictionaries.

  Args:
    directory: the checkpoint.
    sharding: of all arrays; None for the first device.

  Raises:
    InputError, DamagedError, OSError, MemoryError, jax.errors.JaxRuntimeError:
      as `checkpoint_files.reading`.
  """
  sharding = sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )

  def placed(written):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      written,
    )

  return _read(directory, placed)


def _read(directory, like_of: Callable[[Any], Any]):
  expected = read_info(directory).get('checksum')
  with (
    reading(directory),
    patient_event_loops(),
    without_warnings(errors=True),
    fetched(directory / 'state') as folder,
    ocp.StandardCheckpointer() as checkpointer,
  ):
    metadata = checkpointer.metadata(folder).item_metadata
    if metadata is None:  # orbax has logged why
      raise ValueError('orbax does not find what it holds')
    state = checkpointer.restore(folder, like_of(metadata.tree))
    if checksum(state) != expected:
      raise ChecksumError('its numbers do not match its checksum')
  return state
