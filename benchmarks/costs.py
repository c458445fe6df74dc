"""What a compiled step costs, as XLA counts it."""

import re
from typing import Any

import jax
from jaxlib import _jax
import numpy as np

# '%name = f32[2,3]{1,0} opcode(' or '%name = (f32[2,3]{1,0}, u8[0]{0}) opcode('
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?(%\S+) = (\(.*?\)|\S+) ([\w-]+)\(')
_SHAPE = re.compile(r'(pred|[a-z]+\d+)[^\[]*\[([\d,]*)\]')
_LIBRARY_CALL = re.compile(r'custom_call_target="__cu(?:dnn|blas)')


def flops(lowered: Any) -> float:
  """The floating-point operations of one call.

  They are counted before XLA compiles: it does not look into the calls of cuDNN
  and cuBLAS that it then makes of convolutions and products. A multiplication
  with an addition counts as two, and padding is not multiplied.

  Args:
    lowered: of `jax.jit(f).lower(...)`. On the CPU, this project's convolutions
      have forms of fewer operations than on a GPU or TPU.
  """
  cost = lowered.cost_analysis()
  if cost is None:
    # Plug-ins, as that for CUDA, do not count. What is lowered for a GPU stays
    # so, whoever counts it.
    module = lowered.compiler_ir('hlo').as_hlo_module()
    counter = jax.devices('cpu')[0].client
    cost = _jax.hlo_module_cost_analysis(counter, module)
  return float(_first(cost).get('flops', 0))


def bytes_accessed(compiled: Any) -> float:
  """Bytes that the kernels of a compiled program read and write."""
  counted = float(_first(compiled.cost_analysis()).get('bytes accessed', 0))
  return counted + library_bytes(compiled.as_text())


def library_bytes(program: str) -> int:
  """Bytes of all operands and results of calls of cuDNN and cuBLAS.

  XLA's analysis leaves them out.

  Args:
    program: compiled, as text.
  """
  sizes, total = {}, 0
  for line in program.splitlines():
    if found := _INSTRUCTION.match(line):
      name, shape, _ = found.groups()
      sizes[name] = sum(_bytes(*x) for x in _SHAPE.findall(shape))
      if _LIBRARY_CALL.search(line):
        operands = line[found.end() :].partition(')')[0]
        total += sizes[name]
        total += sum(sizes.get(x, 0) for x in re.findall(r'%[\w.-]+', operands))
  return total


def _bytes(dtype, sides):
  bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
  return int(np.prod([int(x) for x in sides.split(',') if x])) * bits // 8


def memory(compiled: Any) -> float:
  """Bytes that a program needs at once, with its inputs and outputs."""
  sizes = compiled.memory_analysis()
  if sizes is None:
    return 0.0
  return float(
    sizes.argument_size_in_bytes
    + sizes.temp_size_in_bytes
    + sizes.output_size_in_bytes
    - sizes.alias_size_in_bytes
  )


def _first(cost):
  """JAX has returned a list of one, a dictionary, and nothing."""
  cost = cost[0] if isinstance(cost, list) else cost
  return cost or {}
