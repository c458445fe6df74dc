"""The loss of the paper: the distance of unit features (Li & Bilen 2020)."""

import math

import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.tasks.base import as_float32, masked_mean


def make(epsilon: float = 1e-6):
  """l^d(a, b) = mean over pixels of || a/|a| - b/|b| ||^2.

  The norms run over channels, |a|^2 = sum_c a_c^2 + epsilon; squares are summed
  over channels and averaged over batch and space, so that the loss is between 0
  and 4. A student's map of another height and width is resized to the
  teacher's, bilinearly (Li, Liu & Bilen 2023).

  Args:
    epsilon: inside the square root of the norms; 1e-6 in the KD4MTL code, whose
      successor has a floor of 1e-12 in its place.

  Raises:
    InputError: epsilon is not above 0.
  """
  if not (epsilon > 0 and math.isfinite(epsilon)):
    raise InputError(
      expected='a number above 0',
      found=repr(epsilon),
      argument='epsilon',
      do='1e-6 is the value of the paper',
    )

  def loss(
    student: jax.Array,
    teacher: jax.Array,
    mask: jax.Array | None = None,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    a = resize_bilinear(as_float32(student), teacher.shape[1:3])
    b = as_float32(teacher)
    # Multiplied out: three sums over channels, and no unit vectors in memory.
    aa, bb, ab = (jnp.sum(x * y, axis=-1) for x, y in ((a, a), (b, b), (a, b)))
    a_norm, b_norm = aa + epsilon, bb + epsilon
    cosine = ab * jax.lax.rsqrt(a_norm) * jax.lax.rsqrt(b_norm)
    distance = aa / a_norm + bb / b_norm - 2 * cosine
    if mask is None:
      mask = jnp.ones(distance.shape, bool)
    return masked_mean(distance, mask, axis_name=axis_name)

  return loss
