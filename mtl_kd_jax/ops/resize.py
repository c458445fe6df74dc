"""Bilinear resizing as PyTorch's `interpolate`, without a gather.

Resizing an axis is a product with a sparse matrix of two entries per row. For
whole factors, which are most, these are neighbors, and the product is a few
weighted sums of shifted maps, with a gradient of the same kind. On CPUs, the
product compiles and runs faster than the sums. Elsewhere it is the sums: XLA's
compiler for GPUs has crashed on the product (jax 0.11.2, H100). The gradient of
a gather would be a scatter, which is slow everywhere. `jax.image.resize` has no
`align_corners`.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.ops.bilinear import (
  equally_varying,
  make_primitive,
  set_transposes,
)


def resize_bilinear(
  x: jax.Array, size: tuple[int, int], *, align_corners: bool = False
) -> jax.Array:
  """Resizes maps, without antialiasing when they shrink.

  Args:
    x: float [b h w c]; symbolic sides of `jax.export` are enlarged by whole
      factors.
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
  symbolic = not all(isinstance(side, int) for side in (*x.shape, new))
  if symbolic and new == new // old * old:
    return _multiply_symbolic(x, axis, new, align_corners)
  matrix = weights(old, new, align_corners)
  x, matrix = equally_varying(x, jnp.asarray(matrix, x.dtype))
  if new % old == 0:
    return _enlarge.bind(x, matrix, axis=axis, align_corners=align_corners)
  return as_product(x, matrix, axis=axis)


def weights(old, new, align_corners):
  """The weights of old pixels in new ones, float64 [new old]."""
  place = _places(old, new, align_corners)
  lower = np.floor(place).astype(int)
  upper = np.minimum(lower + 1, old - 1)
  rows = np.arange(new)
  matrix = np.zeros((new, old))
  np.add.at(matrix, (rows, lower), 1 - (place - lower))
  np.add.at(matrix, (rows, upper), place - lower)
  return matrix


def _places(old, new, align_corners):
  """Positions of the new pixel centers among the old ones, float64."""
  place = np.arange(new, dtype=np.float64)
  if align_corners:
    place *= (old - 1) / max(new - 1, 1)
  else:
    place = (place + 0.5) * (old / new) - 0.5
  return np.clip(place, 0, old - 1)


def as_product(x, matrix, *, axis):
  """Multiplies an axis of x [b h w c], `old` long, by the matrix [new old]."""
  # The default, TF32 on GPUs and bfloat16 on TPUs, would round the maps to 3 or
  # 2 digits, which `as_sums` does not.
  y = jnp.tensordot(matrix, x, (1, axis), precision='highest')
  return jnp.moveaxis(y, 0, axis)


def as_sums(x, matrix, *, axis, align_corners):
  """The same for `weights` of a whole factor, whose shape is all it reads.

  New pixels then lie next to old ones, in order.
  """
  new, old = matrix.shape
  factor = new // old
  place = _places(old, new, align_corners)
  edge = [(0, 0)] * x.ndim
  edge[axis] = (1, 1)
  padded = jnp.pad(x, edge, 'edge')
  previous = lax.slice_in_dim(padded, 0, old, axis=axis)
  following = lax.slice_in_dim(padded, 2, old + 2, axis=axis)
  pixels = []
  for i in range(factor):
    shift = place[i::factor] - np.arange(old)  # of old pixels, from -1 to 1
    y = x
    for neighbor, weight in ((previous, -shift), (following, shift)):
      if weight.max() > 0:
        weight = _along(np.maximum(weight, 0), x, axis)
        y = y + (neighbor - x) * weight
    pixels.append(y)
  stacked = jnp.stack(pixels, axis + 1)
  return stacked.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def transposed_product(g, matrix, *, axis):
  """The gradient of <as_product(x, matrix), g> by x, [b h w c]."""
  return as_product(g, matrix.T, axis=axis)


def transposed_sums(g, matrix, *, axis, align_corners):
  """The gradient of <as_sums(x, matrix), g> by x, [b h w c]."""
  # A linear function has the same transpose everywhere: of where it is taken,
  # only the type counts.
  x = lax.slice_in_dim(g, 0, matrix.shape[1], axis=axis)
  sums = functools.partial(as_sums, axis=axis, align_corners=align_corners)
  _, transpose = jax.vjp(lambda x: sums(x, matrix), x)
  return transpose(g)[0]


def _make(name, product, sums):
  def function(x, matrix, *, axis, align_corners):
    return lax.platform_dependent(
      x,
      matrix,
      cpu=functools.partial(product, axis=axis),
      default=functools.partial(sums, axis=axis, align_corners=align_corners),
    )

  def plain(x, matrix, *, axis, align_corners):
    del align_corners  # is in the matrix
    return product(x, matrix, axis=axis)

  return make_primitive(name, function, images=(True, False), plain=plain)


_enlarge = _make('enlarge', as_product, as_sums)
_enlarge_transposed = _make(
  'enlarge_transposed', transposed_product, transposed_sums
)
set_transposes(
  _enlarge, lambda g, matrix, **how: _enlarge_transposed.bind(g, matrix, **how)
)
set_transposes(
  _enlarge_transposed, lambda x, matrix, **how: _enlarge.bind(x, matrix, **how)
)


def _multiply_symbolic(x, axis, new, align_corners):
  """As `as_sums`, in operations that symbolic sides and batches have."""
  old = x.shape[axis]
  factor = new // old
  size = [1] * x.ndim
  size[axis] = old
  row = lax.broadcasted_iota(x.dtype, size, axis)
  first = lax.slice_in_dim(x, 0, 1, axis=axis)
  last = lax.slice_in_dim(x, old - 1, old, axis=axis)
  inner = lax.slice_in_dim(x, 0, old - 1, axis=axis)
  previous = jnp.concatenate([first, inner], axis)
  inner = lax.slice_in_dim(x, 1, old, axis=axis)
  following = jnp.concatenate([inner, last], axis)
  pixels = []
  for i in range(factor):
    if align_corners:
      side = jnp.asarray(old, x.dtype)
      shift = (i * (side - 1) - row * (factor - 1)) / (factor * side - 1)
    else:
      shift = jnp.full([1] * x.ndim, (i + 0.5) / factor - 0.5, x.dtype)
    pixels.append(
      x
      + (previous - x) * jnp.maximum(-shift, 0)
      + (following - x) * jnp.maximum(shift, 0)
    )
  stacked = jnp.stack(pixels, axis + 1)
  return stacked.reshape(*x.shape[:axis], new, *x.shape[axis + 1 :])


def _along(weights, x, axis):
  """Weights of one axis, with the dimensions of x."""
  shape = [1] * x.ndim
  shape[axis] = -1
  return jnp.asarray(weights, x.dtype).reshape(shape)
