"""What a compiled step costs, as XLA counts it."""

from typing import Any


def flops(lowered: Any) -> float:
  """The floating-point operations of one call.

  They are counted before XLA compiles: it does not look into the calls of cuDNN
  and cuBLAS that it then makes of convolutions and products. A multiplication
  with an addition counts as two, and padding is not multiplied.

  Args:
    lowered: of `jax.jit(f).lower(...)`. On the CPU, this project's convolutions
      have forms of fewer operations than on a GPU or TPU.
  """
  return float(_first(lowered.cost_analysis()).get('flops', 0))


def bytes_accessed(compiled: Any) -> float:
  """Bytes that the kernels of a compiled program read and write."""
  return float(_first(compiled.cost_analysis()).get('bytes accessed', 0))


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
