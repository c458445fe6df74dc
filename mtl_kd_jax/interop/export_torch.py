"""Weights for PyTorch: the paper's networks, and torchvision's ResNets.

The inverse of import_torch.py, with the same table of names: what is written is
read back bit for bit.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import import_variables, read_state_dict
from mtl_kd_jax.interop.torch_names import torch_names
from mtl_kd_jax.runtime.mismatch import shapes_by_name

# Weights of losses, which the paper's networks have and do not use.
_UNUSED = {'mtan': ('logsigma', 3), 'segnet': ('logsigma_dist', 6)}


def state_dict(
  variables: Any, *, backbone: str, tasks: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """The variables of a network by their names in PyTorch, in its axes.

  Entries that PyTorch has and this project does not are there too, so that
  `load_state_dict` finds all that it expects: counters of batches, which are 0,
  and the unused weights of the paper's losses.

  Args:
    variables: {'params', 'batch_stats'}.
    backbone: of `models.BACKBONES`.
    tasks: of the network.

  Raises:
    InputError: the network has a layer that has no name in PyTorch.
  """
  single = backbone == 'mtan' and len(tasks) == 1
  try:
    names = torch_names(shapes_by_name(variables), single=single)
  except InputError as error:
    raise InputError(
      expected="one of the paper's networks, or a ResNet",
      found=f'{backbone}: {error.found}, which has no name in PyTorch',
      argument='to',
      do="leave out 'safetensors'; 'saved' holds every network",
    ) from error
  state = {}
  for path, x in jax.tree_util.tree_leaves_with_path(variables):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    array = np.asarray(x)
    if path.endswith('/kernel'):
      array = array if array.ndim == 4 else array[None, None]
      array = array.transpose(3, 2, 0, 1)
    state[names[path]] = np.ascontiguousarray(array)
    if path.endswith('/mean'):
      counter = names[path].replace('running_mean', 'num_batches_tracked')
      state[counter] = np.array(0, np.int64)
  for kind, (name, size) in _UNUSED.items():
    if backbone.startswith(kind):
      state[name] = np.zeros(size, np.float32)
  return state


def write_safetensors(
  path: pathlib.Path,
  state: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a file that PyTorch's safetensors reads."""
  everything = {'format': 'pt', **metadata}
  # Its own way of writing files gives rights to nobody else.
  path.write_bytes(safetensors.numpy.save(dict(state), metadata=everything))


def read_safetensors(path: pathlib.Path, like: Any) -> dict[str, Any]:
  """The variables of a network from such a file.

  Args:
    path: the file.
    like: {'params', 'batch_stats'} of shapes, of the network.

  Raises:
    InputError: the file is damaged, or of another network.
  """
  weights = read_state_dict(path)
  return import_variables(weights, like, where=f'{path}').variables
