"""IMTL-H: both halves of impartial learning, scaled losses and projections."""

import jax.numpy as jnp

from mtl_kd_jax.balancing._gram import Gram, Weights, from_gram
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.imtl_g import equal_projections
from mtl_kd_jax.balancing.imtl_l import scaling


def make(learning_rate: float = 1e-4) -> GradientBalancer:
  """Losses are scaled by IMTL-L, then combined by IMTL-G (Liu et al. 2021).

  Args:
    learning_rate: of Adam on the logarithms s of the scales, which start at 0;
      the network's in the paper.

  Raises:
    InputError: a number is out of range.
  """
  scale, init = scaling(learning_rate)

  def rule(gram, step, state):
    scales, state = scale(step, state)
    norms = jnp.where(step.present, scales, 0) * gram.norms
    shared = equal_projections(Gram(norms, gram.cosines)) * scales
    return Weights(shared, scales), state

  return from_gram(rule, init)
