"""Weights from PyTorch: the paper's networks, and torchvision's ResNets.

Files are read without running code, and every entry of a file is used or named.
Which entry goes where stands in torch_names.py.
"""

from collections.abc import Iterable, Iterator, Mapping
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.torch_names import (
  SINGLE,
  describe,
  is_ignored,
  torch_name,
)
from mtl_kd_jax.runtime.mismatch import describe_mismatch, shapes_by_name

Weights = Mapping[str, np.ndarray]


class Imported(NamedTuple):
  """What became of a file.

  Attributes:
    variables: {'params', 'batch_stats'} of NumPy arrays.
    ignored: names of the entries that were not needed.
  """

  variables: dict[str, Any]
  ignored: list[str]


def import_variables(weights: Weights, like: Any, *, where: str) -> Imported:
  """Gives a network the weights of a file.

  Args:
    weights: name -> array in PyTorch's axes, from `read_state_dict`.
    like: {'params', 'batch_stats'} of arrays or their shapes, of a network.
      Convolutions [o i h w] become kernels [h w i o], and 1x1 convolutions
      [o i 1 1] matrices [i o] where the network has these.
    where: what the weights are from, for messages.

  Raises:
    InputError: an entry is missing, unexpected or of another shape; or there is
      a layer that the table does not have.
  """
  names = _names(shapes_by_name(like), weights)
  expected = _torch_shapes(like, names)
  ignored = _left_over(weights, expected)
  found = {n: x.shape for n, x in weights.items() if n not in ignored}
  if difference := describe_mismatch(expected, found):
    raise InputError(
      expected='the weights of the network that was asked for',
      found=f'{difference}; of {len(weights)} entries',
      where=f'{where} (it looks like {describe(weights)})',
      argument='weights',
      do='correct the backbone, its width and the tasks, or the file',
    )
  variables = jax.tree_util.tree_map_with_path(
    lambda path, x: _converted(weights[names[_joined(path)]], x), like
  )
  return Imported(variables, ignored)


def torch_shapes(
  like: Any, *, single: bool = False
) -> dict[str, tuple[int, ...]]:
  """What a PyTorch file of a network would hold, as name -> shape.

  Args:
    like: {'params', 'batch_stats'} of arrays or their shapes.
    single: whether the names are those of a single-task MTAN.
  """
  paths = shapes_by_name(like)
  return _torch_shapes(like, {p: torch_name(p, single=single) for p in paths})


def read_backbone(path: pathlib.Path | str, like: Any) -> dict[str, Any]:
  """The variables of a network's backbone, from a file.

  Args:
    path: a file of weights, e.g. torchvision's ImageNet weights of a ResNet.
    like: {'params', 'batch_stats'} of the network, each with 'backbone'.

  Returns:
    {'params', 'batch_stats'} of the backbone alone.

  Raises:
    InputError: the file cannot be read, or is of another network.
  """
  backbone = {kind: {'backbone': like[kind]['backbone']} for kind in like}
  weights = read_state_dict(path)
  variables, _ = import_variables(weights, backbone, where=f'{path}')
  return {kind: variables[kind]['backbone'] for kind in variables}


def read_state_dict(path: pathlib.Path | str) -> dict[str, np.ndarray]:
  """Reads a file of weights, without running any code that it may hold.

  Args:
    path: .safetensors; or a file of torch.save: a state dict, or a checkpoint
      that has one under 'state_dict', as the paper's scripts write them. Names
      may begin with 'module.'.

  Returns:
    Name -> array, low precision as float32.

  Raises:
    InputError: the file is missing, damaged, of another kind, or wants to run
      code; PyTorch is needed and not installed; there is no tensor in it; or a
      weight is not finite.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise InputError(
      expected='a file of PyTorch weights, .pth or .safetensors',
      found='a folder' if path.is_dir() else 'no such file',
      argument='path',
      where=f'{path}',
      do='correct the path',
    )
  if path.suffix.lower() == '.safetensors':
    weights = _read_safetensors(path)
  else:
    weights = _read_torch(path)
  if not weights:
    raise InputError(
      expected='a state dict, or a checkpoint with a state_dict',
      found='no tensor with a name',
      argument='path',
      where=f'{path}',
      do='save model.state_dict()',
    )
  weights = {name.removeprefix('module.'): x for name, x in weights.items()}
  for name, x in weights.items():
    if not np.isfinite(x).all():
      raise InputError(
        expected='finite weights',
        found=f'NaN or infinity in {name}',
        argument='path',
        where=f'{path}',
        do='take an earlier checkpoint of that training',
      )
  return weights


def _read_safetensors(path):
  try:
    weights = safetensors.numpy.load_file(path)
  except Exception as error:
    # Beside its own errors, many kinds for what NumPy does not have, as float8.
    raise _unreadable(path, error) from error
  with np.errstate(over='ignore'):  # infinity is found later
    return {
      # NumPy itself does not count bfloat16 among its floating types.
      name: x.astype(np.float32) if jnp.issubdtype(x.dtype, np.floating) else x
      for name, x in weights.items()
    }


def _read_torch(path):
  try:
    import torch  # an extra: only this kind of file needs it
  except ImportError as error:
    raise InputError(
      expected='PyTorch, to read a file that it wrote',
      found='it is not installed',
      argument='path',
      where=f'{path}',
      do="pip install -e '.[torch]', or save the weights as .safetensors",
    ) from error
  try:
    with torch.serialization.safe_globals(_safe_globals()):
      content = torch.load(path, map_location='cpu', weights_only=True)
    return dict(_tensors(content, torch))
  except Exception as error:
    # torch raises many kinds of errors for files that it cannot read.
    if wanted := re.search(r'\bGLOBAL (\S+)', str(error)):
      raise _refused(path, wanted[1]) from error
    raise _unreadable(path, error) from error


def _tensors(content, torch) -> Iterator[tuple[str, np.ndarray]]:
  if not isinstance(content, Mapping):
    return
  if isinstance(content.get('state_dict'), Mapping):
    content = content['state_dict']
  for name, x in content.items():
    if isinstance(x, torch.Tensor):
      x = x.detach()
      yield str(name), (x.float() if x.is_floating_point() else x).numpy()


def _safe_globals():
  """The scalars of NumPy that the paper's scripts store beside the weights."""
  import _codecs

  numbers = [np.dtype(t) for t in (np.float32, np.float64, np.int64)]
  return [
    (np._core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
    np._core.multiarray.scalar,
    np.dtype,
    *(type(dtype) for dtype in numbers),
    _codecs.encode,
  ]


def _refused(path, wanted) -> InputError:
  return InputError(
    expected='a file of weights alone, with no code to run',
    found=f'it asks for {wanted}; it is refused, and nothing of it has run',
    where=f'{path}',
    do='save the bare model.state_dict() in the place that it comes from; if '
    'it holds nothing else, copy the file again',  # it may be cut in a name
  )


def _unreadable(path, error) -> InputError:
  # Of torch's text the cause alone: around it stands advice to load the file
  # without protection.
  cause = str(error).rpartition('WeightsUnpickler error:')[2].strip()
  cause = cause.partition('\n')[0].partition('. ')[0]
  return InputError(
    expected='a whole file of PyTorch weights, without code to run',
    found=f'{type(error).__name__}: {cause or "no reason given"}'[:200],
    where=f'{path}',
    do='copy the file again; if it holds more than weights, save the bare '
    'model.state_dict() in the place that it comes from',
  )


def _names(paths: Iterable[str], weights: Weights) -> dict[str, str]:
  """The name in the file of each variable."""
  if f'{SINGLE}.0.weight' in weights:
    names = {path: torch_name(path, single=True) for path in paths}
    # Several tasks would all get the weights of the one that the file has.
    if len(set(names.values())) == len(names):
      return names
  return {path: torch_name(path) for path in paths}


def _left_over(weights: Weights, expected: Iterable[str]) -> list[str]:
  """What nobody needs: but not a further layer of a head that is wanted."""
  wanted = {_part(name) for name in expected}
  return [
    name
    for name in weights
    if name not in expected
    and is_ignored(name)
    and (name.endswith('.num_batches_tracked') or _part(name) not in wanted)
  ]


def _part(name: str) -> str:
  """The part of a network that is one task's, 'encoder_att.0' or 'pred_task1'.

  Of the other names, which belong to all tasks, it only cuts something off.
  """
  return re.match(r'\w+_att\.\d|\w*', name)[0]


def _joined(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _torch_shapes(like, names) -> dict[str, tuple[int, ...]]:
  shapes = {}
  for path, shape in shapes_by_name(like).items():
    if path.endswith('/kernel'):
      *sides, i, o = shape
      shape = (o, i, *(sides or (1, 1)))
    shapes[names[path]] = shape
  return shapes


def _converted(x: np.ndarray, like) -> np.ndarray:
  if x.ndim == 4:
    x = x.transpose(2, 3, 1, 0)
  return np.ascontiguousarray(x.reshape(like.shape), like.dtype)
