"""Frozen networks that teach: their outputs, and nothing that flows back."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Output

BATCH_NORM_MODES = ('running', 'batch')


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network whose variables are given to the step, and never change.

  Attributes:
    network: called as `Network` is, for an `Output`.
    batch_norm: 'running' evaluates it with its frozen statistics; 'batch' with
      the statistics of the student's own batch, as the paper's code does, which
      never switches its teachers to evaluation.
  """

  network: nn.Module
  batch_norm: str = 'running'

  def __post_init__(self):
    if self.batch_norm not in BATCH_NORM_MODES:
      raise InputError(
        expected=f'one of {", ".join(BATCH_NORM_MODES)}',
        found=repr(self.batch_norm),
        argument='batch_norm',
        do="'running' is the sound choice, 'batch' is what the paper's code "
        'does',
      )

  def outputs(
    self, variables: Any, image: jax.Array, *, key: jax.Array | None = None
  ) -> Output:
    """Predictions and features of a batch; no gradient flows back.

    Args:
      variables: 'params' and the other collections of the network. In mode
        'batch' what it updates of them is thrown away.
      image: float32 [b h w 3].
      key: PRNG key, for a network that draws numbers in mode 'batch'.
    """
    frozen = jax.lax.stop_gradient(variables)
    if self.batch_norm == 'running':
      output = self.network.apply(frozen, image, train=False)
    else:
      updated = [name for name in frozen if name != 'params']
      rngs = {} if key is None else {'params': key}
      output, _ = self.network.apply(
        frozen, image, train=True, mutable=updated, rngs=rngs
      )
    # One barrier for each array, so that the compiler still leaves out what no
    # loss uses, such as the head. Without, the sums of a loss would be fused
    # with the convolutions that they sum, on CPU in a form of these that is
    # slow.
    return jax.tree.map(jax.lax.optimization_barrier, output)
