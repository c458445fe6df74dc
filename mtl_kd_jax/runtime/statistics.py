"""Recalibrated statistics of a stage's network, beside its checkpoints.

They belong to certain parameters: for others they count as absent.
"""

from collections.abc import Mapping
import io
from typing import TYPE_CHECKING, Any
import zipfile

from flax import traverse_util
import jax
import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.checkpointing import checksum
from mtl_kd_jax.runtime.files import write_bytes_atomically

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

STATISTICS = 'batch_stats'  # BatchNorm's collection
_FILE = 'statistics.npz'
_PARAMS, _BATCHES = 'checksum of params', 'number of batches'


def write_statistics(
  directory: 'Path', variables: Mapping[str, Any], *, num_batches: int
) -> None:
  """Writes down all collections but the parameters.

  Args:
    directory: of the stage.
    variables: {'params', and other collections}.
    num_batches: that the statistics were computed over.
  """
  others = {k: v for k, v in variables.items() if k != 'params'}
  arrays = traverse_util.flatten_dict(jax.device_get(others), sep='/')
  arrays[_PARAMS] = np.uint32(checksum(variables['params']))
  arrays[_BATCHES] = np.int32(num_batches)
  file = io.BytesIO()
  np.savez(file, **arrays)
  write_bytes_atomically(directory / _FILE, file.getvalue())


def with_statistics(
  directory: 'Path', variables: Mapping[str, Any]
) -> tuple[dict[str, Any], int | None]:
  """The variables with recalibrated statistics, if there are any for them.

  Args:
    directory: of the stage.
    variables: {'params', and other collections}.

  Returns:
    The variables; and the number of batches that their statistics were computed
    over: 0 for running means, None without BatchNorm.

  Raises:
    InputError: the file cannot be read.
  """
  if not variables.get(STATISTICS):
    return dict(variables), None
  path = directory / _FILE
  if not path.exists():
    return dict(variables), 0
  try:
    with np.load(io.BytesIO(path.read_bytes())) as file:
      arrays = dict(file)
    params, num_batches = arrays.pop(_PARAMS), int(arrays.pop(_BATCHES))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise InputError(
      expected='recalibrated statistics of a network',
      found=f'{error}',
      where=f'{path}',
      do='remove the file: training writes it anew, and without it running '
      'means are used',
    ) from error
  if params != checksum(variables['params']):
    return dict(variables), 0
  return {**variables, **traverse_util.unflatten_dict(arrays, sep='/')}, (
    num_batches
  )
