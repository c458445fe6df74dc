"""What an ONNX graph is written with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.errors import InputError


class Graph:
  """An ONNX graph that is being written.

  Attributes:
    helper: the module `onnx.helper`.
  """

  def __init__(self, onnx: Any, batch: str):
    """Begins an empty graph; `batch` is the name of its input."""
    self.helper = onnx.helper
    self._onnx = onnx
    self._batch_of = batch
    self._batch: str | None = None
    self.nodes: list[Any] = []
    self.initializers: list[Any] = []
    self._stored: dict[tuple, str] = {}

  def add(self, kind: str, inputs: Sequence[str], **attributes) -> str:
    """Adds an operation with one result; returns the name of the result."""
    name = f'{kind.lower()}_{len(self.nodes)}'
    self.nodes.append(
      self.helper.make_node(kind, [*inputs], [name], name=name, **attributes)
    )
    return name

  def store(self, array: Any) -> str:
    """Stores an array; returns its name."""
    array = np.array(array, order='C')
    key = (array.dtype.str, array.shape, array.tobytes())
    if key not in self._stored:
      name = f'constant_{len(self._stored)}'
      self._stored[key] = name
      tensor = self._onnx.numpy_helper.from_array(array, name)
      self.initializers.append(tensor)
    return self._stored[key]

  def type_of(self, dtype: Any) -> int:
    """The ONNX type of a dtype."""
    return self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

  def shape(self, shape: Sequence[Any]) -> str:
    """A shape as a tensor; symbolic sides are the batch size."""
    if all(isinstance(side, int) for side in shape):
      return self.store(np.array(shape, np.int64))
    if self._batch is None:
      whole = self.add('Shape', [self._batch_of])
      first = self.store(np.array([0], np.int64))
      self._batch = self.add('Gather', [whole, first], axis=0)
    parts = [
      self.store(np.array([side], np.int64))
      if isinstance(side, int)
      else self._batch
      for side in shape
    ]
    return self.add('Concat', parts, axis=0)


class Value(NamedTuple):
  """A value of the traced function.

  Attributes:
    aval: its shape and dtype.
    name: in the graph; None for one that is known.
    array: what it is, where it is known.
    narrow: whether the value in the graph has sides of one where `aval` has
      larger ones, by which it is still to be repeated.
  """

  aval: Any
  name: str | None = None
  array: np.ndarray | None = None
  narrow: bool = False


def full(graph: Graph, value: Value) -> str:
  """The name of a value in its own shape."""
  if value.name is None:
    return graph.store(value.array)
  if value.narrow:
    return graph.add('Expand', [value.name, graph.shape(value.aval.shape)])
  return value.name


def unknown(operation: str, why: str) -> InputError:
  """The error for what cannot be written."""
  return InputError(
    expected='a network of operations that the ONNX writer knows',
    found=f'{operation}: {why}',
    argument='network',
    do='leave out onnx, or add the operation to '
    'mtl_kd_jax/interop/onnx_operations.py',
  )
