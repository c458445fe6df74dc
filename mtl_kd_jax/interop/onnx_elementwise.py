"""Operations of JAX on single numbers, in ONNX; see onnx_operations.py."""

import numpy as np

from mtl_kd_jax.interop.onnx_graph import Graph, Value, full, unknown


def _elementwise(kind):
  def write(graph, aval, operands, params):
    del params
    return _broadcasting(graph, kind, aval, operands)

  return write


def _broadcasting(graph: Graph, kind, aval, operands, **attributes) -> Value:
  """An operation that repeats operands along sides of one by itself."""
  names = [full(graph, x) if x.name is None else x.name for x in operands]
  shapes = [
    x.aval.shape
    for x in operands
    if not x.narrow and len(x.aval.shape) == len(aval.shape)
  ]
  whole = all(
    any(shape[axis] == side for shape in shapes)
    for axis, side in enumerate(aval.shape)
  )
  return Value(aval, graph.add(kind, names, **attributes), narrow=not whole)


def _rsqrt(graph, aval, operands, params):
  root = _elementwise('Sqrt')(graph, aval, operands, params)
  return _broadcasting(graph, 'Reciprocal', aval, [root])


def _erfc(graph, aval, operands, params):
  erf = _elementwise('Erf')(graph, aval, operands, params)
  one = _known(np.asarray(1, aval.dtype))
  return _broadcasting(graph, 'Sub', aval, [one, erf])


def _expm1(graph, aval, operands, params):
  power = _elementwise('Exp')(graph, aval, operands, params)
  one = _known(np.asarray(1, aval.dtype))
  return _broadcasting(graph, 'Sub', aval, [power, one])


def _log1p(graph, aval, operands, params):
  del params
  one = _known(np.asarray(1, aval.dtype))
  x = _broadcasting(graph, 'Add', aval, [*operands, one])
  return _broadcasting(graph, 'Log', aval, [x])


def _not_equal(graph, aval, operands, params):
  equal = _elementwise('Equal')(graph, aval, operands, params)
  return _broadcasting(graph, 'Not', aval, [equal])


def _square(graph, aval, operands, params):
  del params
  return _broadcasting(graph, 'Mul', aval, operands * 2)


def _integer_pow(graph, aval, operands, params):
  if params['y'] == 2:
    return _square(graph, aval, operands, params)
  exponent = np.asarray(params['y'], aval.dtype)
  return _broadcasting(graph, 'Pow', aval, [*operands, _known(exponent)])


def _clamp(graph, aval, operands, params):
  del params
  low, x, high = operands
  x = _broadcasting(graph, 'Max', aval, [x, low])
  return _broadcasting(graph, 'Min', aval, [x, high])


def _select(graph, aval, operands, params):
  del params
  which, if_false, if_true = operands
  if which.aval.dtype != bool:
    raise unknown('select_n', f'a choice by {which.aval.dtype}')
  return _broadcasting(graph, 'Where', aval, [which, if_true, if_false])


def _convert(graph, aval, operands, params):
  to = graph.type_of(params['new_dtype'])
  return _broadcasting(graph, 'Cast', aval, operands, to=to)


def _known(array) -> Value:
  return Value(array, array=array)


ELEMENTWISE = {
  name: _elementwise(kind)
  for name, kind in {
    **{'add': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div', 'pow': 'Pow'},
    **{'max': 'Max', 'min': 'Min', 'neg': 'Neg', 'abs': 'Abs', 'sign': 'Sign'},
    **{'exp': 'Exp', 'log': 'Log', 'sqrt': 'Sqrt', 'tanh': 'Tanh'},
    **{'logistic': 'Sigmoid', 'erf': 'Erf', 'floor': 'Floor', 'ceil': 'Ceil'},
    **{'eq': 'Equal', 'gt': 'Greater', 'ge': 'GreaterOrEqual'},
    **{'lt': 'Less', 'le': 'LessOrEqual', 'not': 'Not', 'and': 'And'},
    **{'or': 'Or', 'sin': 'Sin', 'cos': 'Cos'},
  }.items()
} | {
  'clamp': _clamp,
  'convert_element_type': _convert,
  'erfc': _erfc,
  'expm1': _expm1,
  'integer_pow': _integer_pow,
  'log1p': _log1p,
  'ne': _not_equal,
  'rsqrt': _rsqrt,
  'select_n': _select,
  'square': _square,
}
