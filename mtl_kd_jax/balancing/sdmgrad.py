"""SDMGrad: a direction-oriented MGDA, with double sampling."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._preference import check_preference, preference_vector
from mtl_kd_jax.balancing._sampling import from_three_minibatches
from mtl_kd_jax.balancing._solvers import project_to_simplex
from mtl_kd_jax.balancing.base import GradientBalancer


def make(
  lambda_: float = 0.3,
  steps: int = 20,
  learning_rate: float = 1.0,
  preference: Mapping[str, float] | None = None,
) -> GradientBalancer:
  """Direction (g_w + lambda g_0) / (1 + lambda), g_0 = sum_t p_t g_t.

  w is learned over the whole training by w <- P(w - eta J_1 J_2^T (w + lambda
  p)), `steps` times in each step, where P projects onto the simplex and J_1 and
  J_2 are of other mini-batches than the gradients in g (Xiao, Ban & Ji
  2023, algorithm 1). J_1 J_2^T is divided by the squared mean norm, so that eta
  has no unit.

  Args:
    lambda_: pull toward the preferred direction g_0; 0.3 in the paper.
    steps: of the inner loop; 20 in the paper.
    learning_rate: eta.
    preference: task -> p_t, scaled to sum 1 over the tasks that have labels;
      None or {} for 1/K.

  Raises:
    InputError: a number is out of range, all preferences are 0, or (from
      `init`) a task has none.
  """
  _checks.number(lambda_, 'lambda_', at_least=0)
  _checks.number(steps, 'steps', at_least=1, integer=True)
  _checks.number(learning_rate, 'learning_rate', above=0)
  check_preference(preference, 'preference')

  def target(step):
    p = preference_vector(preference, step.names, 'preference')
    p = jnp.where(step.present, p, 0)
    return p / jnp.maximum(jnp.sum(p), 1e-30)

  def learn(w, cross, step):
    p = target(step)

    def improve(_, w):
      slope = jnp.matmul(cross, w + lambda_ * p, precision='highest')
      return project_to_simplex(w - learning_rate * slope, step.present)

    return jax.lax.fori_loop(0, steps, improve, w)

  def mix(w, step):
    return (w + lambda_ * target(step)) / (1 + lambda_)

  return from_three_minibatches(learn, mix, preference=preference, scaled=True)
