"""Weights from PyTorch: the paper's networks, and torchvision's ResNets.

Files are read without running code, and every entry of a file is used or
reported. torch_names.py has the table of names.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.torch_names import (
  SINGLE,
  describe,
  is_ignored,
  torch_name,
  torch_names,
)
from mtl_kd_jax.runtime.mismatch import describe_mismatch, shapes_by_name

Weights = Mapping[str, np.ndarray]


class Imported(NamedTuple):
  """What was made of a file.

  Attributes:
    variables: {'params', 'batch_stats'} of NumPy arrays.
    ignored: names of the entries that were not needed.
  """

  variables: dict[str, Any]
  ignored: list[str]


def import_variables(weights: Weights, like: Any, *, where: str) -> Imported:
  """Converts the weights of a file to the variables of a network.

  Args:
    weights: name -> array in PyTorch's axes, from `read_state_dict`.
    like: {'params', 'batch_stats'} of arrays or their shapes, of a network.
      Convolutions [o i h w] become kernels [h w i o], and 1x1 convolutions
      [o i 1 1] matrices [i o] where the network has these.
    where: the source of the weights, for messages.

  Raises:
    InputError: an entry is missing, unexpected or of another shape; or the
      network has a layer that the table lacks, or two tasks that it has one
      name for.
  """
  with _about('like'):
    names = _names(shapes_by_name(like), weights)
  expected = _torch_shapes(like, names)
  ignored = _left_over(weights, expected)
  found = {n: x.shape for n, x in weights.items() if n not in ignored}
  if difference := describe_mismatch(expected, found):
    raise InputError(
      expected='the weights of the network to import into',
      found=f'{difference}; of {len(weights)} entries',
      where=f'{where} (it looks like {describe(weights)})',
      argument='weights',
      do='correct the backbone, its width and the tasks, or the file; a file '
      'of a resnet alone is for a network to start from (pretrained)',
    )
  variables = jax.tree_util.tree_map_with_path(
    lambda path, x: _converted(weights[names[_joined(path)]], x), like
  )
  return Imported(variables, ignored)


def torch_shapes(
  like: Any, *, single: bool = False
) -> dict[str, tuple[int, ...]]:
  """The entries of a PyTorch file of a network, name -> shape.

  Args:
    like: {'params', 'batch_stats'} of arrays or their shapes.
    single: whether the names are those of a single-task MTAN.

  Raises:
    InputError: the network has a layer that the table lacks, or two tasks that
      it has one name for.
  """
  with _about('like'):
    names = torch_names(shapes_by_name(like), single=single)
  return _torch_shapes(like, names)


def read_backbone(path: pathlib.Path | str, like: Any) -> dict[str, Any]:
  """The variables of a network's backbone, from a file.

  Args:
    path: a file of weights, e.g. torchvision's ImageNet weights of a ResNet.
    like: {'params', 'batch_stats'} of the network.

  Returns:
    Those of them that the backbone has, of the backbone alone.

  Raises:
    InputError: the file cannot be read, or is of another network.
  """
  backbone = {
    kind: {'backbone': parts['backbone']}
    for kind, parts in like.items()
    if 'backbone' in parts
  }
  weights = read_state_dict(path)
  with _about('path'):
    variables, _ = import_variables(weights, backbone, where=f'{path}')
  return {kind: variables[kind]['backbone'] for kind in variables}


def read_state_dict(path: pathlib.Path | str) -> dict[str, np.ndarray]:
  """Reads a file of weights, without running code that it may contain.

  Args:
    path: .safetensors; or a file of torch.save: a state dict, or a checkpoint
      that has one under 'state_dict', as the paper's scripts write them. The
      prefix 'module.' of names is removed.

  Returns:
    Name -> array; floating-point numbers of any precision as float32.

  Raises:
    InputError: the file is missing, damaged, of another format, or contains
      code; PyTorch is needed and not installed; the file has no tensor; or a
      weight is not finite.
  """
  path = paths.local(path, argument='path', kind='file')
  if found := paths.why_no_file(path):
    raise InputError(
      expected='a file of PyTorch weights, .pth or .safetensors',
      found=found,
      argument='path',
      where=paths.as_text(path),
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
        do='use an earlier checkpoint of that training',
      )
  return weights


def _read_safetensors(path):
  try:
    weights = safetensors.numpy.load_file(path)
  except Exception as error:
    # It raises many kinds of errors, e.g. for types that NumPy lacks (float8).
    raise _unreadable(path, error) from error
  with np.errstate(over='ignore'):  # read_state_dict refuses infinity
    return {
      # np.issubdtype does not know bfloat16 as a floating type.
      name: x.astype(np.float32) if jnp.issubdtype(x.dtype, np.floating) else x
      for name, x in weights.items()
    }


def _read_torch(path):
  try:
    import torch  # optional: only this format needs it
  except ImportError as error:
    raise InputError(
      expected='PyTorch, to read a file of torch.save',
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
    expected='a file of weights alone, without code',
    found=f'it calls {wanted}; the file was refused, and none of it was run',
    where=f'{path}',
    argument='path',
    # A truncated file may end within a name.
    do='save only model.state_dict() where the file comes from; if it contains '
    'nothing else, copy the file again',
  )


def _unreadable(path, error) -> InputError:
  # Only the cause: the rest of torch's message advises to load the file without
  # protection.
  cause = str(error).rpartition('WeightsUnpickler error:')[2].strip()
  cause = cause.partition('\n')[0].partition('. ')[0]
  return InputError(
    expected='a complete file of PyTorch weights, without code',
    found=f'{type(error).__name__}: {cause or "no reason given"}'[:200],
    where=f'{path}',
    argument='path',
    do='copy the file again; if it contains more than weights, save only '
    'model.state_dict() where it comes from',
  )


@contextlib.contextmanager
def _about(argument: str) -> Iterator[None]:
  """Input errors inside name this argument of the caller."""
  try:
    yield
  except InputError as error:
    raise InputError(
      expected=error.expected,
      found=error.found,
      where=error.where,
      argument=argument,
      do=error.do,
    ) from error


def _names(variables: Iterable[str], weights: Weights) -> dict[str, str]:
  """The name in the file of each variable."""
  if f'{SINGLE}.0.weight' in weights:
    names = {path: torch_name(path, single=True) for path in variables}
    # Several tasks would all get the weights of the one task of the file.
    if len(set(names.values())) == len(names):
      return names
  return torch_names(variables)


def _left_over(weights: Weights, expected: Iterable[str]) -> list[str]:
  """Entries that may be ignored; not a further layer of a task's head."""
  wanted = {_part(name) for name in expected}
  return [
    name
    for name in weights
    if name not in expected
    and is_ignored(name)
    and (name.endswith('.num_batches_tracked') or _part(name) not in wanted)
  ]


def _part(name: str) -> str:
  """The part of a network that belongs to one task, e.g. 'encoder_att.0'.

  It only tells tasks apart: other names are shortened in no particular way.
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
