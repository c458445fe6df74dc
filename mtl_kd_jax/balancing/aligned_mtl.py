"""Aligned-MTL: gradients made orthogonal and equally long."""

from collections.abc import Mapping

import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import from_gram, shared_only
from mtl_kd_jax.balancing._preference import coefficients, with_preference
from mtl_kd_jax.balancing.base import GradientBalancer

SCALES = ('min', 'median', 'rmse')


def make(
  scale: str = 'min', preference: Mapping[str, float] | None = None
) -> GradientBalancer:
  """Weights sigma V L^(-1/2) V^T p, G = V L V^T (Senushkin et al. 2023).

  The nearest set of orthogonal gradients, all of length sigma, in the span of
  the given ones; eigenvalues that are 0 in float32 are left out.

  Args:
    scale: sigma is the root of the least eigenvalue ('min', as the paper), of
      their median, or of their mean ('rmse').
    preference: task -> p_t; None or {} for 1/K. The released code sums: p = 1.

  Raises:
    InputError: unknown scale, a preference is negative, all are 0, or (from
      `init`) a task has none.
  """
  _checks.choice(scale, 'scale', SCALES)

  def rule(gram, step, state, p):
    p = coefficients(p, step, preference)
    p = jnp.where(gram.norms > 0, p, 0)
    values, vectors = jnp.linalg.eigh(_without_zeros(gram))
    tolerance = values[-1] * values.size * jnp.finfo(values.dtype).eps
    rank = values > jnp.maximum(tolerance, 0)
    # Rows of absent tasks have an eigenvalue of exactly 0.
    safe = jnp.where(rank, values, 1)
    sigma = jnp.sqrt(_sigma_squared(values, rank, scale))
    inverse = jnp.where(rank, sigma / jnp.sqrt(safe), 0)
    rotated = jnp.matmul(vectors.T, p, precision='highest')
    w = jnp.matmul(vectors, inverse * rotated, precision='highest')
    return shared_only(w), state

  return from_gram(*with_preference(preference, 'preference', rule))


def _without_zeros(gram):
  """G with 0 on the diagonal, too, where a gradient is 0 or absent."""
  alive = gram.norms > 0
  return jnp.where(alive[:, None] & alive[None, :], gram.scaled, 0)


def _sigma_squared(values, rank, scale):
  """sigma^2, of the eigenvalues (ascending) that are not 0."""
  count = jnp.maximum(jnp.sum(rank), 1)
  if scale == 'rmse':
    return jnp.sum(jnp.where(rank, values, 0)) / count
  first = values.size - count  # eigenvalues that are not 0 come last
  if scale == 'min':
    return values[first]
  # The lower of the two in the middle, as PyTorch's median.
  return values[first + (count - 1) // 2]
