"""RLW: random loss weighting, a baseline that many methods do not beat."""

import jax

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import Balancer


def make() -> Balancer:
  """Weights softmax(z), z ~ N(0, I) drawn in every step (Lin et al. 2022).

  The weights sum to 1, and so the step is K times shorter than with uniform
  weights.
  """

  def rule(step, state):
    key = _checks.required(step.key, 'key')
    draw = jax.random.normal(key, step.losses.shape, step.losses.dtype)
    return jax.nn.softmax(draw, where=step.present), state

  return from_losses(rule)
