"""How a step computes: in which precision, and in how many pieces.

None of it changes what is computed, but for rounding and for BatchNorm, which
takes its statistics from one micro-batch after another.

A step over micro-batches runs the network on one after another, and keeps the
features and predictions of the whole batch and no other activations. What comes
after, losses and balancing, sees the whole batch: a mean over labeled pixels,
the angle between two gradients or the loss of the hardest pixels are what they
are without. On the way back the network runs forward once more, micro-batch by
micro-batch (Chen et al. 2016, arXiv 1604.06174), and memory for activations
shrinks with their number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.precision import as_dtype, with_dtype

PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


class Computation(NamedTuple):
  """How a step computes.

  Attributes:
    dtype: that networks compute in; None for that of their parameters.
    accumulate: micro-batches of a step.
    unrolled: whether the program has no loop over them. XLA's CPU backend takes
      ten times as long for convolutions in a loop; without one, it keeps all
      activations, and micro-batches save no memory there.
  """

  dtype: Any = None
  accumulate: int = 1
  unrolled: bool = False


PLAIN = Computation()


def make_computation(
  precision: str, accumulate: int, *, device_batch: int
) -> Computation:
  """Checks how a step is to compute.

  Args:
    precision: of `PRECISIONS`.
    accumulate: micro-batches of a step.
    device_batch: samples of a batch on one device.

  Raises:
    InputError: an unknown precision, one that the devices lack, or a batch that
      cannot be split so.
  """
  if precision not in PRECISIONS:
    raise InputError(
      expected=f'one of {", ".join(PRECISIONS)}',
      found=repr(precision),
      argument='precision',
      do="'bfloat16' computes in half precision, and needs no scaling of losses"
      ' as float16 does',
    )
  if PRECISIONS[precision] is not None and (lacking := _lacks_bfloat16()):
    raise InputError(
      expected='devices that compute in bfloat16: TPUs, GPUs of compute '
      'capability 8.0 and up, or CPUs',
      found=lacking,
      argument='precision',
      do="set it to 'float32'",
    )
  is_count = isinstance(accumulate, int) and accumulate >= 1
  if not is_count or device_batch % accumulate:
    raise InputError(
      expected=f'a divisor of {device_batch}, the samples of a batch on each '
      'device',
      found=repr(accumulate),
      argument='accumulate',
      do='change it, or the batch size',
    )
  return Computation(
    PRECISIONS[precision],
    accumulate,
    unrolled=accumulate > 1 and jax.devices()[0].platform == 'cpu',
  )


def run_network(
  call: Callable[[Any, Any, jax.Array], tuple[Any, Any]],
  variables: dict[str, Any],
  inputs: Any,
  key: jax.Array,
  *,
  computation: Computation,
) -> tuple[Any, Any]:
  """Runs a network on a batch, micro-batch by micro-batch.

  Args:
    call: (variables, inputs, key) -> (outputs, collections), where `variables`
      and `inputs` are in the dtype of the computation. Outputs are arrays
      [b ...].
    variables: {'params', and other collections, which `call` updates}.
    inputs: pytree of arrays [b ...].
    key: PRNG key; every micro-batch gets one of its own.
    computation: how.

  Returns:
    Outputs of the batch, and the collections after it.
  """
  dtype, n, unrolled = computation

  def run(params, collections, inputs, key):
    ready = with_dtype({'params': params, **collections}, dtype)
    return call(ready, as_dtype(inputs, dtype), key)

  params = variables['params']
  collections = {k: x for k, x in variables.items() if k != 'params'}
  if n == 1:
    return run(params, collections, inputs, key)
  # In a loop, the compiler cannot share what is computed twice.
  again = jax.checkpoint(run, prevent_cse=False)

  def body(collections, piece):
    i, inputs = piece
    outputs, updated = again(
      params, collections, inputs, jax.random.fold_in(key, i)
    )
    return jax.lax.stop_gradient({**collections, **updated}), outputs

  pieces = (jnp.arange(n), jax.tree.map(lambda x: _split(x, n), inputs))
  collections, outputs = jax.lax.scan(
    body,
    jax.lax.stop_gradient(collections),
    pieces,
    unroll=n if unrolled else 1,
  )
  return jax.tree.map(_joined, outputs), collections


def _split(x, n):
  """[b ...] to [n b/n ...]; every micro-batch has samples of every device."""
  return jnp.swapaxes(x.reshape(-1, n, *x.shape[1:]), 0, 1)


def _joined(x):
  """Undoes `_split`."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _lacks_bfloat16() -> str:
  """The device that does not compute in bfloat16, or ''."""
  device = jax.devices()[0]
  capability = getattr(device, 'compute_capability', '')
  if device.platform != 'gpu' or not capability:
    return ''
  try:
    old = float(capability) < 8
  except ValueError:  # ROCm names architectures instead
    return ''
  return f'{device.device_kind}, of {capability}' if old else ''
