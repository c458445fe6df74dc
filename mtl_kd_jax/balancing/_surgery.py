"""Gradient surgery, shared by PCGrad and GradVac.

Every gradient g_i is changed by the others, one after another in random order,
and the sum of the changed ones is the direction. All of them stay in the span
of the gradients, so that coordinates [K] represent them: row i of x holds those
of the changed g_i with respect to the unit gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import Gram, divide_by_norms


def operate(
  gram: Gram, key: jax.Array, change: Callable[..., tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array]:
  """Lets every gradient be changed by all others, each in its own order.

  Args:
    gram: of the gradients.
    key: PRNG key of the orders.
    change: (x [K K], i [K], j [K]) -> (x, cosine [K]), for pairs i and j.

  Returns:
    x [K K] in units of the largest norm, and the cosines of `change` [K K].
  """
  k = gram.norms.size
  i, order = jnp.arange(k), orders(key, k)
  x, cosines = jnp.diag(gram.relative), jnp.zeros((k, k), jnp.float32)
  for turn in range(k - 1):
    j = order[:, turn]
    x, cosine = change(x, i, j)
    cosines = cosines.at[i, j].set(cosine)
  return x, cosines


def orders(key: jax.Array, k: int) -> jax.Array:
  """For each task a random order of the others, int32 [K K-1]."""
  draws = jax.vmap(lambda key: jax.random.permutation(key, k - 1))(
    jax.random.split(_checks.required(key, 'key'), k)
  )
  return draws + (draws >= jnp.arange(k)[:, None])


def summed_weights(x: jax.Array, gram: Gram) -> jax.Array:
  """The sum of the rows of x as weights [K] of the gradients."""
  return divide_by_norms(jnp.sum(x, axis=0), gram.relative)
