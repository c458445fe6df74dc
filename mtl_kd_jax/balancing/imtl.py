"""Impartial learning: equal scaled losses (L), equal projections (G), or both.

Liu et al. 2021, "Toward Impartial Multi-task Learning".
"""

import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import Balancer, GradientBalancer
from mtl_kd_jax.balancing.gram import Gram, Weights, from_gram, plain
from mtl_kd_jax.balancing.solvers import solve_cosines
from mtl_kd_jax.balancing.uncertainty import descend
from mtl_kd_jax.balancing.vectors import from_losses


def make_l(learning_rate: float = 1e-4) -> Balancer:
  """IMTL-L: minimizes sum_t e^(s_t) L_t - s_t over s too.

  It brings every e^(s_t) L_t to 1.

  Args:
    learning_rate: of Adam on s, which starts at 0; in the paper the network's.

  Raises:
    InputError: a number is out of range.
  """
  scale, start = _scaling(learning_rate)
  return from_losses(scale, start)


def make_g() -> GradientBalancer:
  """IMTL-G: sum_t w_t g_t has equal projections on all gradients.

  w solves G w = const |g|, with sum 1. Weights can be negative.
  """

  def rule(gram, step, state):
    return plain(_equal_projections(gram, gram.norms > 0)), state

  return from_gram(rule)


def make_h(learning_rate: float = 1e-4) -> GradientBalancer:
  """IMTL: the losses are scaled by IMTL-L, then combined by IMTL-G.

  Args:
    learning_rate: as in `make_l`.

  Raises:
    InputError: a number is out of range.
  """
  scale, start = _scaling(learning_rate)

  def rule(gram, step, state):
    own, state = scale(step, state)
    norms = jnp.where(step.present, own, 0) * gram.norms
    scaled = Gram(norms, gram.cosines)
    shared = _equal_projections(scaled, norms > 0) * own
    return Weights(shared, own), state

  return from_gram(rule, start)


def _scaling(learning_rate):
  checks.number(learning_rate, 'learning_rate', above=0)
  tx = optax.adam(learning_rate)

  def start(names):
    s = jnp.zeros(len(names), jnp.float32)
    return {'s': s, 'opt_state': tx.init(s)}

  def scale(step, state):
    weights = jnp.exp(state['s'])
    gradient = jnp.where(step.present, weights * step.losses - 1, 0)
    return weights, descend(tx, gradient, state, step.present)

  return scale, start


def _equal_projections(gram, alive):
  # C x = 1 in unit vectors: the shares do not depend on how long gradients are.
  x = solve_cosines(gram.cosines, jnp.ones_like(gram.norms), alive)
  unit = jnp.min(jnp.where(alive, gram.norms, jnp.inf))
  w = jnp.where(alive, x * (unit / jnp.where(alive, gram.norms, 1)), 0)
  # Where the sum of the weights all but vanishes, so would the step blow up.
  total, size = jnp.sum(w), jnp.sum(jnp.abs(w))
  floor = jnp.maximum(1e-4 * size, 1e-30)
  sign = jnp.where(total < 0, -1, 1)
  return w / (sign * jnp.maximum(jnp.abs(total), floor))
