"""What XLA is told when it compiles a step, for each kind of device."""

import functools

import jax

_OPTIONS = {
  # YNNPACK is given convolutions, products and sums. Its convolutions are
  # slower than XLA's own, above all their weight gradients; its products and
  # sums are faster.
  'cpu': {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    ',LIBRARY_FUSION_TYPE_REDUCE',
    # XLA's default runs what is independent side by side, in up to 1.4 times
    # the memory. On two cores a step is no faster for it.
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
  },
  # With products by Triton, XLA ends the process while it compiles the
  # evaluation of a ResNet (jax 0.11.2, H100: triton_tiling_propagation.cc,
  # "Check failed: subdim_size_accumulator == dim_size (96 vs. 24)").
  'gpu': {'xla_gpu_enable_triton_gemm': False},
}


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool]:
  """The `compiler_options` of `jax.jit` for programs on these devices.

  Args:
    platform: of the devices: 'cpu', 'gpu' or 'tpu'.

  Returns:
    {} where nothing is to be said, or where this version of XLA does not have
    these options.
  """
  options = _OPTIONS.get(platform, {})
  try:
    # For another kind of device, XLA may not know them.
    device = jax.local_devices(backend=platform)[0]
  except RuntimeError:
    device = None  # there is none of this kind
  try:
    with jax.default_device(device):
      jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
  except Exception:
    # Whatever XLA says of an option that it does not have: on a CPU it only
    # costs time.
    return {}
  return options
