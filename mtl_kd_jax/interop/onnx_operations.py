"""The operations of JAX that can be written in ONNX, by name.

Each is a function (graph, aval, operands, params) -> value, of the shape and
dtype of the result, its operands, and the parameters of the operation in JAX.
"""

import math

import numpy as np

from mtl_kd_jax.interop.onnx_elementwise import ELEMENTWISE
from mtl_kd_jax.interop.onnx_graph import Value, full, unknown

_END = np.iinfo(np.int64).max


def _same(graph, aval, operands, params):
  del graph, params
  return operands[0]._replace(aval=aval)


def _broadcast(graph, aval, operands, params):
  (x,) = operands
  kept = params['broadcast_dimensions']
  new = [axis for axis in range(len(aval.shape)) if axis not in kept]
  name = full(graph, x) if x.name is None else x.name
  if new:
    name = graph.add('Unsqueeze', [name, _ints(graph, new)])
  aligned = [1] * len(aval.shape)
  for axis, side in zip(kept, x.aval.shape, strict=True):
    aligned[axis] = side
  narrow = x.narrow or tuple(aligned) != tuple(aval.shape)
  return Value(aval, name, narrow=narrow)


def _reshape(graph, aval, operands, params):
  if params.get('dimensions') is not None:
    raise unknown('reshape', 'with a transposition')
  sides = [side if isinstance(side, int) else -1 for side in aval.shape]
  if sides.count(-1) > 1:
    raise unknown('reshape', f'to {aval.shape}')
  inputs = [full(graph, operands[0]), _ints(graph, sides)]
  return Value(aval, graph.add('Reshape', inputs))


def _squeeze(graph, aval, operands, params):
  axes = _ints(graph, params['dimensions'])
  return Value(aval, graph.add('Squeeze', [full(graph, operands[0]), axes]))


def _transpose(graph, aval, operands, params):
  name = _transposed(graph, operands[0], params['permutation'])
  return Value(aval, name)


def _concatenate(graph, aval, operands, params):
  names = [full(graph, x) for x in operands]
  return Value(aval, graph.add('Concat', names, axis=params['dimension']))


def _stack(graph, aval, operands, params):
  axis = params['axis']
  axes = _ints(graph, [axis])
  names = [graph.add('Unsqueeze', [full(graph, x), axes]) for x in operands]
  return Value(aval, graph.add('Concat', names, axis=axis))


def _slice(graph, aval, operands, params):
  (x,) = operands
  starts, limits = params['start_indices'], params['limit_indices']
  steps = params['strides'] or [1] * len(starts)
  ends = []
  for start, limit, side in zip(starts, limits, x.aval.shape, strict=True):
    to_the_end = limit is side or limit == side
    if not isinstance(start, int) or not (to_the_end or isinstance(limit, int)):
      raise unknown('slice', f'from {start} to {limit} of {side}')
    ends.append(_END if to_the_end else limit)
  return Value(aval, _sliced(graph, full(graph, x), starts, ends, steps))


def _reverse(graph, aval, operands, params):
  axes = params['dimensions']
  inputs = [full(graph, operands[0])]
  for value in (-1, -_END, axes, -1):
    values = value if value is axes else [value] * len(axes)
    inputs.append(_ints(graph, values))
  return Value(aval, graph.add('Slice', inputs))


def _pad(graph, aval, operands, params):
  x, value = operands
  low, high, inner = zip(*params['padding_config'], strict=True)
  if any(inner) or min(*low, *high) < 0:
    raise unknown('pad', f'by {params["padding_config"]}')
  inputs = [full(graph, x), _ints(graph, [*low, *high]), full(graph, value)]
  return Value(aval, graph.add('Pad', inputs, mode='constant'))


def _reduce(kind):
  def write(graph, aval, operands, params):
    name, axes = full(graph, operands[0]), [*params['axes']]
    if kind == 'ReduceSum':  # the others have it so from opset 18 on
      inputs = [name, _ints(graph, axes)]
      return Value(aval, graph.add(kind, inputs, keepdims=0))
    return Value(aval, graph.add(kind, [name], axes=axes, keepdims=0))

  return write


def _arg(kind):
  def write(graph, aval, operands, params):
    (axis,) = params['axes']
    name = graph.add(kind, [full(graph, operands[0])], axis=axis, keepdims=0)
    return Value(
      aval, graph.add('Cast', [name], to=graph.type_of(params['index_dtype']))
    )

  return write


def _dot(graph, aval, operands, params):
  a, b = operands
  (contract_a, contract_b), (batch_a, batch_b) = params['dimension_numbers']
  inputs = [full(graph, a), full(graph, b)]
  last = len(a.aval.shape) - 1
  if (
    (tuple(contract_a), tuple(contract_b)) == ((last,), (0,))
    and not batch_a
    and len(b.aval.shape) == 2
  ):
    return Value(aval, graph.add('MatMul', inputs))
  letters = iter('abcdefghijklmnopqrstuvwxyz')
  of_a = [next(letters) for _ in a.aval.shape]
  of_b = [next(letters) for _ in b.aval.shape]
  for axis_a, axis_b in (
    *zip(batch_a, batch_b, strict=True),
    *zip(contract_a, contract_b, strict=True),
  ):
    of_b[axis_b] = of_a[axis_a]
  free_a = [x for i, x in enumerate(of_a) if i not in (*batch_a, *contract_a)]
  free_b = [x for i, x in enumerate(of_b) if i not in (*batch_b, *contract_b)]
  out = [of_a[i] for i in batch_a] + free_a + free_b
  equation = f'{"".join(of_a)},{"".join(of_b)}->{"".join(out)}'
  return Value(aval, graph.add('Einsum', inputs, equation=equation))


def _convolve(graph, aval, operands, params):
  x, kernel = operands
  numbers = params['dimension_numbers']
  padding = params['padding']
  if max(params['lhs_dilation']) > 1 or params['batch_group_count'] > 1:
    raise unknown('conv_general_dilated', 'a transposed one')
  if min(min(pair) for pair in padding) < 0:
    raise unknown('conv_general_dilated', f'with the padding {padding}')
  name = graph.add(
    'Conv',
    [
      _transposed(graph, x, numbers.lhs_spec),
      _transposed(graph, kernel, numbers.rhs_spec),
    ],
    strides=params['window_strides'],
    pads=[low for low, _ in padding] + [high for _, high in padding],
    dilations=params['rhs_dilation'],
    group=params['feature_group_count'],
  )
  back = [int(axis) for axis in np.argsort(numbers.out_spec)]
  return Value(aval, graph.add('Transpose', [name], perm=back))


def _pool(kind):
  def write(graph, aval, operands, params):
    (x,) = operands
    window, rank = params['window_dimensions'], len(aval.shape)
    if window[0] != 1 or window[-1] != 1 or max(params['base_dilation']) > 1:
      raise unknown('reduce_window', f'with the window {window}')
    dilation = params['window_dilation'][1:-1]
    padding = params['padding'][1:-1]
    attributes = {
      'kernel_shape': window[1:-1],
      'strides': params['window_strides'][1:-1],
      'pads': [low for low, _ in padding] + [high for _, high in padding],
    }
    if kind == 'AveragePool':
      if max(dilation) > 1:
        raise unknown('reduce_window_sum', f'with the dilation {dilation}')
      attributes['count_include_pad'] = 1
    else:
      attributes['dilations'] = dilation
    first = _transposed(graph, x, (0, rank - 1, *range(1, rank - 1)))
    name = graph.add(kind, [first], **attributes)
    name = graph.add('Transpose', [name], perm=[0, *range(2, rank), 1])
    if kind == 'AveragePool':
      count = graph.store(np.asarray(math.prod(window), aval.dtype))
      name = graph.add('Mul', [name, count])
    return Value(aval, name)

  return write


def _gather(graph, aval, operands, params):
  """What indexing with known integers becomes: slices, rows and columns."""
  x, indices = operands
  numbers, sizes = params['dimension_numbers'], params['slice_sizes']
  if indices.array is None or numbers.operand_batching_dims:
    raise unknown('gather', 'with indices that depend on the input')
  starts, ends = [0] * len(sizes), [_END] * len(sizes)
  grid, rows, squeezed = indices.array, {}, []
  for k, axis in enumerate(numbers.start_index_map):
    values = grid[..., k]
    if (values == values.flat[0]).all():
      starts[axis] = int(values.flat[0])
      ends[axis] = starts[axis] + sizes[axis]
    if axis in numbers.collapsed_slice_dims and grid.ndim == 1:
      squeezed.append(axis)
    elif axis in numbers.collapsed_slice_dims:
      place = len(rows)  # along which side of the grid it changes
      corner = [0] * (grid.ndim - 1)
      corner[place : place + 1] = [slice(None)]
      rows[axis] = values[tuple(corner)]
      starts[axis], ends[axis] = 0, _END
    elif ends[axis] == _END:
      raise unknown('gather', f'{numbers}')
  expected = np.meshgrid(*rows.values(), indexing='ij')
  found = [grid[..., [*numbers.start_index_map].index(axis)] for axis in rows]
  if len(rows) != grid.ndim - 1 or any(
    (a != b).any() for a, b in zip(expected, found, strict=True)
  ):
    raise unknown('gather', f'{numbers}')
  name = _sliced(graph, full(graph, x), starts, ends, [1] * len(sizes))
  for axis, chosen in rows.items():
    name = graph.add('Gather', [name, _ints(graph, chosen)], axis=axis)
  if squeezed:
    name = graph.add('Squeeze', [name, _ints(graph, squeezed)])
    return Value(aval, name)
  offsets = iter(i for i in range(len(aval.shape)) if i not in rows)
  indexed = iter(rows)
  order = [
    next(offsets if i in numbers.offset_dims else indexed)
    for i in range(len(aval.shape))
  ]
  if order != sorted(order):
    name = graph.add('Transpose', [name], perm=order)
  return Value(aval, name)


def _ints(graph, values) -> str:
  return graph.store(np.array([*values], np.int64))


def _sliced(graph, name, starts, ends, steps) -> str:
  axes = [
    i
    for i, cut in enumerate(zip(starts, ends, steps, strict=True))
    if cut != (0, _END, 1)
  ]
  if not axes:
    return name
  chosen = [[values[i] for i in axes] for values in (starts, ends)]
  inputs = [*chosen, axes, [steps[i] for i in axes]]
  return graph.add('Slice', [name, *(_ints(graph, v) for v in inputs)])


def _transposed(graph, value, axes) -> str:
  if value.array is not None:
    return graph.store(value.array.transpose(axes))
  return graph.add('Transpose', [full(graph, value)], perm=[*axes])


OPERATIONS = ELEMENTWISE | {
  'argmax': _arg('ArgMax'),
  'argmin': _arg('ArgMin'),
  'broadcast_in_dim': _broadcast,
  'concatenate': _concatenate,
  'conv_general_dilated': _convolve,
  'copy': _same,
  'dot_general': _dot,
  'gather': _gather,
  'pad': _pad,
  'reduce_max': _reduce('ReduceMax'),
  'reduce_min': _reduce('ReduceMin'),
  'reduce_sum': _reduce('ReduceSum'),
  'reduce_window_max': _pool('MaxPool'),
  'reduce_window_sum': _pool('AveragePool'),
  'reshape': _reshape,
  'rev': _reverse,
  'slice': _slice,
  'squeeze': _squeeze,
  'stack': _stack,
  'stop_gradient': _same,
  'transpose': _transpose,
}
