"""A 1x1 convolution as a matrix product, and its gradients."""

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Multiplies [b h w c] by [c d] to [b h w d]."""
  return jnp.einsum('bhwc,cd->bhwd', x, kernel)


def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
  """Takes the output's gradient [b h w d] to the input's [b h w c]."""
  return jnp.einsum('bhwd,cd->bhwc', g, kernel)


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """Sums x[p] g[p] over batch and pixels p to [c d]."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.einsum('bhwc,bhwd->cd', x, g, preferred_element_type=dtype)
  return y.astype(x.dtype)


def weight_gradient_flat(x: jax.Array, g: jax.Array) -> jax.Array:
  """The same sum, with all pixels along one axis.

  XLA's CPU backend transposes a map with three axes to sum over, which takes as
  long as the product; of matrices it multiplies columns where they are.
  """
  x, g = (y.reshape(-1, y.shape[-1]) for y in (x, g))
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.einsum('pc,pd->cd', x, g, preferred_element_type=dtype)
  return y.astype(x.dtype)
