"""Bilinear resizing as PyTorch's `interpolate`, without a gather.

Resizing an axis is a product with a sparse matrix of two entries per row. For
doubling, the most frequent case, these are neighbors, and the product is two
weighted sums of shifted maps, with a gradient of the same kind. The gradient of
a gather would be a scatter, which is slow everywhere. `jax.image.resize` has no
`align_corners`.
"""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(
  x: jax.Array, size: tuple[int, int], *, align_corners: bool = False
) -> jax.Array:
  """Resizes maps, without antialiasing when they shrink.

  Args:
    x: float [b h w c].
    size: new (height, width).
    align_corners: whether the centers of the corner pixels stay in place;
      otherwise the outer edges of the image do (PyTorch's default).

  Returns:
    As `x`, [b h' w' c].
  """
  for axis, new in zip((1, 2), size, strict=True):
    x = _resize_axis(x, axis, new, align_corners)
  return x


def _resize_axis(x, axis, new, align_corners):
  old = x.shape[axis]
  if new == old:
    return x
  place = _places(old, new, align_corners)
  if new == 2 * old:
    return _double(x, axis, place)
  lower = np.floor(place).astype(int)
  upper = np.minimum(lower + 1, old - 1)
  rows = np.arange(new)
  matrix = np.zeros((new, old))
  np.add.at(matrix, (rows, lower), 1 - (place - lower))
  np.add.at(matrix, (rows, upper), place - lower)
  # The default, TF32 on GPUs and bfloat16 on TPUs, would round the maps to 3 or
  # 2 digits, which `_double` does not.
  y = jnp.tensordot(
    jnp.asarray(matrix, x.dtype), x, (1, axis), precision='highest'
  )
  return jnp.moveaxis(y, 0, axis)


def _places(old, new, align_corners):
  """Positions of the new pixel centers among the old ones, float64."""
  place = np.arange(new, dtype=np.float64)
  if align_corners:
    place *= (old - 1) / max(new - 1, 1)
  else:
    place = (place + 0.5) * (old / new) - 0.5
  return np.clip(place, 0, old - 1)


def _double(x, axis, place):
  """Doubles an axis: new pixels 2k and 2k + 1 lie before and after old k."""
  old = x.shape[axis]
  k = np.arange(old)
  before, after = place[0::2] - (k - 1), place[1::2] - k
  edge = [(0, 0)] * x.ndim
  edge[axis] = (1, 1)
  padded = jnp.pad(x, edge, 'edge')
  previous = jax.lax.slice_in_dim(padded, 0, old, axis=axis)
  following = jax.lax.slice_in_dim(padded, 2, old + 2, axis=axis)
  pixels = jnp.stack(
    [
      previous + (x - previous) * _along(before, x, axis),
      x + (following - x) * _along(after, x, axis),
    ],
    axis + 1,
  )
  return pixels.reshape(*x.shape[:axis], 2 * old, *x.shape[axis + 1 :])


def _along(weights, x, axis):
  """Weights of one axis, with the dimensions of x."""
  shape = [1] * x.ndim
  shape[axis] = -1
  return jnp.asarray(weights, x.dtype).reshape(shape)
