"""Writes a traced JAX function as an ONNX graph.

The graph is written operation by operation, with the batch size left open.
What depends on no input is computed here and stored. Convolutions and pooling
get their channels first, as ONNX has them; onnxruntime removes most of the
transpositions again. onnx_operations.py has the table of operations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.interop.onnx_graph import Graph, Value, full, unknown
from mtl_kd_jax.interop.onnx_operations import OPERATIONS
from mtl_kd_jax.ops.bilinear import DEFINITIONS

OPSET = 17  # of 2022; what runs it is in every distribution
_IR_VERSION = 8


def convert(
  function: Callable[[jax.Array], Mapping[str, jax.Array]],
  image: jax.ShapeDtypeStruct,
  *,
  input_name: str,
  output_names: Sequence[str],
  metadata: Mapping[str, str],
) -> bytes:
  """Writes a function of images as an ONNX model.

  Args:
    function: image -> name -> array.
    image: shape and dtype of the input; its first side is symbolic.
    input_name: what the input is called.
    output_names: of the function, in the order that they are to have.
    metadata: key -> text, stored in the model.

  Returns:
    The model.

  Raises:
    ImportError: the package onnx is not installed.
    InputError: the function has an operation that is not in the table.
  """
  import onnx
  import onnx.numpy_helper

  closed, shapes = jax.make_jaxpr(function, return_shape=True)(image)
  graph = Graph(onnx, input_name)
  inputs = [Value(closed.in_avals[0], input_name)]
  results = _run(graph, closed.jaxpr, closed.consts, inputs)
  names = jax.tree.leaves({name: name for name in shapes})
  for name, value in zip(names, results, strict=True):
    last = full(graph, value)
    graph.nodes.append(graph.helper.make_node('Identity', [last], [name]))

  def describe(name, aval):
    sides = [s if isinstance(s, int) else 'batch' for s in aval.shape]
    return graph.helper.make_tensor_value_info(
      name, graph.type_of(aval.dtype), sides
    )

  outputs = dict(zip(names, closed.out_avals, strict=True))
  model = graph.helper.make_model(
    graph.helper.make_graph(
      graph.nodes,
      'network',
      [describe(input_name, image)],
      [describe(name, outputs[name]) for name in output_names],
      graph.initializers,
    ),
    producer_name='mtl_kd_jax',
    opset_imports=[graph.helper.make_opsetid('', OPSET)],
    ir_version=_IR_VERSION,
  )
  graph.helper.set_model_props(model, dict(metadata))
  onnx.checker.check_model(model)
  return model.SerializeToString()


def _run(graph, jaxpr, constants, inputs) -> list[Value]:
  """Writes the operations of a jaxpr; returns its results."""
  values: dict[Any, Value] = {}

  def read(atom):
    if hasattr(atom, 'val'):  # a literal
      return Value(atom.aval, array=np.asarray(atom.val, atom.aval.dtype))
    return values[atom]

  for variable, constant in zip(jaxpr.constvars, constants, strict=True):
    values[variable] = Value(variable.aval, array=np.asarray(constant))
  values.update(zip(jaxpr.invars, inputs, strict=True))
  for equation in jaxpr.eqns:
    operands = [read(atom) for atom in equation.invars]
    results = _write(graph, equation, operands)
    values.update(zip(equation.outvars, results, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _write(graph, equation, operands) -> list[Value]:
  primitive, params = equation.primitive, equation.params
  inner = params.get('jaxpr', params.get('call_jaxpr', params.get('fun_jaxpr')))
  if inner is not None and hasattr(inner, 'consts'):
    return _run(graph, inner.jaxpr, inner.consts, operands)
  if definition := DEFINITIONS.get(primitive.name):
    structs = [
      jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in operands
    ]
    closed = jax.make_jaxpr(lambda *xs: definition(*xs, **params))(*structs)
    return _run(graph, closed.jaxpr, closed.consts, operands)
  outputs = [variable.aval for variable in equation.outvars]
  known = all(x.array is not None for x in operands)
  if known and all(isinstance(n, int) for x in outputs for n in x.shape):
    found = primitive.bind(*(x.array for x in operands), **params)
    found = found if primitive.multiple_results else [found]
    return [
      Value(a, array=np.asarray(x)) for a, x in zip(outputs, found, strict=True)
    ]
  write = OPERATIONS.get(primitive.name)
  if write is None or len(outputs) != 1:
    raise unknown(primitive.name, 'no such operation in the table')
  return [write(graph, outputs[0], operands, params)]
