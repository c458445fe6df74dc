"""3x3 convolutions by Winograd's minimal filtering, F(m x m, 3 x 3).

A tile of m x m outputs takes (m + 2)^2 multiplications for each pair of
channels, of transformed inputs and kernels, in place of 9 m^2: 16 in place of
36 with m = 2, and 36 in place of 144 with m = 4 (Lavin & Gray, CVPR 2016,
section 4): Y = A^T [(G g G^T) * (B^T d B)] A. Each multiplication is a matrix
product over all tiles of the map.

XLA compiles a program for every array that is written, for longer the more
branches it has. So axes are transformed one after the other: what the first
makes is one array, of which the second makes m + 2, and products come in m + 2
batches of m + 2.

Transforms widen the range of the numbers, which is too much for half precision.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.ops.conv.direct import Operations


class Filtering:
  """The transforms of one axis, as matrices: n = m + 2.

  Attributes:
    inputs: B^T, [n n].
    kernel: G, [n 3].
    products: A^T, [m n].
    rotation: Which row of `kernel` is which after its columns, the taps, have
      been reversed.
  """

  def __init__(self, inputs, kernel, products, rotation):
    self.inputs = np.array(inputs)
    self.kernel = np.array(kernel)
    self.products = np.array(products)
    self.rotation = np.array(rotation)

  @property
  def side(self) -> int:
    """m, of a tile of outputs."""
    return len(self.products)

  def rotated(self) -> 'Filtering':
    """The filtering by the rotated kernel, given the kernel."""
    order = self.rotation
    return Filtering(
      self.inputs[order], self.kernel, self.products[:, order], order
    )


F2 = Filtering(
  inputs=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
  kernel=[[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
  products=[[1, 1, 1, 0], [0, 1, -1, -1]],
  rotation=[3, 1, 2, 0],
)
# It evaluates polynomials at 0, r, -r, 1/r, -1/r, and infinity. Such points
# round least (Alam et al., ACM TECS 2022); with r = sqrt(2), half as coarsely
# as the usual 0, 1, -1, 2, -2. Reciprocals are what rotation exchanges.
_R = math.sqrt(2)
F4 = Filtering(
  inputs=[
    [1, 0, -5 / 2, 0, 1, 0],
    [0, -_R / 2, -1 / 2, _R, 1, 0],
    [0, _R / 2, -1 / 2, -_R, 1, 0],
    [0, 2 * _R, 4, -_R, -2, 0],
    [0, -2 * _R, 4, _R, -2, 0],
    [0, 1, 0, -5 / 2, 0, 1],
  ],
  kernel=[
    [1, 0, 0],
    [1 / 6, _R / 6, 1 / 3],
    [1 / 6, -_R / 6, 1 / 3],
    [1 / 3, _R / 6, 1 / 6],
    [1 / 3, -_R / 6, 1 / 6],
    [0, 0, 1],
  ],
  products=[
    [1, 1, 1, 1, 1, 0],
    [0, _R, -_R, 1 / _R, -1 / _R, 0],
    [0, 2, 2, 1 / 2, 1 / 2, 0],
    [0, 2 * _R, -2 * _R, _R / 4, -_R / 4, 1],
  ],
  rotation=[5, 3, 4, 1, 2, 0],
)


@functools.cache
def make(filtering: Filtering) -> Operations:
  """The convolution and its gradients, as in `forms.Forms`.

  Args:
    filtering: `F2` or `F4`.
  """
  rotated = filtering.rotated()

  def convolve(x, kernel):
    return _convolve(filtering, x, kernel, 'ntpc,ncd->ntpd')

  def input_gradient(g, kernel):
    # The convolution with the rotated kernel, whose transform is that of the
    # kernel in another order: the compiler shares it with the forward pass. The
    # product contracts the other channel axis; a transposed copy of the kernel
    # would take longer than the rest.
    return _convolve(rotated, g, kernel, 'ntpd,ncd->ntpc')

  def weight_gradient(x, g):
    # The transposes of the three transforms:
    # G^T [sum_tiles (B^T d B) (A y A^T)] G.
    # Columns are transformed before rows here. In the order of the forward
    # pass, XLA would keep its transformed inputs until now, which are 9/4 times
    # (m = 4) or 4 times (m = 2) as large as x.
    x, g = jax.lax.optimization_barrier((x.swapaxes(1, 2), g.swapaxes(1, 2)))
    products = [
      _sum_over_tiles(tiles, outputs)
      for tiles, outputs in zip(
        _tiles(filtering, x), _outputs(filtering, g), strict=True
      )
    ]
    rows = [_sum(row, products) for row in filtering.kernel.T]
    return jnp.stack([_product(filtering.kernel.T, row) for row in rows])

  return convolve, input_gradient, weight_gradient


def _convolve(filtering, x, kernel, product):
  # Otherwise XLA would fuse the computation of x into each of the transforms,
  # and repeat it.
  x = jax.lax.optimization_barrier(x)
  products = [
    jnp.einsum(product, tiles, weights)
    for tiles, weights in zip(
      _tiles(filtering, x), _kernels(filtering, kernel), strict=True
    )
  ]
  columns = [_sum(row, products) for row in filtering.products]
  columns = [
    jnp.stack([_sum(row, column) for row in filtering.products], axis=1)
    for column in columns
  ]
  y = jnp.stack(columns, axis=3)  # [b*h/m m w/m m d]
  b, h, w, _ = x.shape
  return y.reshape(b, *_whole(filtering, h, w), -1)[:, :h, :w]


def _tiles(filtering, x):
  """The transformed inputs of all tiles: n arrays [n b*h/m w/m c]."""
  b, h, w, c = x.shape
  m, n = filtering.side, filtering.side + 2
  height, width = _whole(filtering, h, w)
  x = jnp.pad(x, ((0, 0), (1, 1 + height - h), (1, 1 + width - w), (0, 0)))
  rows = [x[:, i : i + height : m] for i in range(n)]
  rows = jax.lax.optimization_barrier(
    jnp.stack([_sum(r, rows) for r in filtering.inputs])
  )
  # Fewer axes compile faster. The batch, which may be split over devices, stays
  # the first part of its axis.
  rows = rows.reshape(n, b * height // m, width + 2, c)
  columns = [rows[:, :, i : i + width : m] for i in range(n)]
  return [_sum(row, columns) for row in filtering.inputs]


def _outputs(filtering, g):
  """The transformed gradient of outputs: n arrays [n b*h/m w/m d]."""
  b, h, w, d = g.shape
  m = filtering.side
  height, width = _whole(filtering, h, w)
  g = jnp.pad(g, ((0, 0), (0, height - h), (0, width - w), (0, 0)))
  g = g.reshape(b * height // m, m, width, d)
  rows = [g[:, i] for i in range(m)]
  rows = jnp.stack([_sum(r, rows) for r in filtering.products.T])
  rows = jax.lax.optimization_barrier(rows)
  columns = [rows[:, :, i::m] for i in range(m)]
  return [_sum(row, columns) for row in filtering.products.T]


def _kernels(filtering, kernel):
  """The transformed kernel: n arrays [n c d]."""
  taps = kernel.reshape(9, *kernel.shape[2:])
  n = len(filtering.kernel)
  transform = np.kron(filtering.kernel, filtering.kernel)  # [n*n 9]
  return [_product(transform[column::n], taps) for column in range(n)]


def _sum_over_tiles(tiles, outputs):
  """Products [n c d] of maps [n b*h/m w/m c] and [n b*h/m w/m d]."""
  # With all tiles along one axis, XLA transposes no map.
  tiles, outputs = (
    x.reshape(len(x), -1, x.shape[-1]) for x in (tiles, outputs)
  )
  return jnp.einsum('ntc,ntd->ncd', tiles, outputs)


def _sum(coefficients, arrays):
  """The sum of arrays by their coefficients."""
  return sum(
    float(k) * x for k, x in zip(coefficients, arrays, strict=True) if k
  )


def _product(matrix, weights):
  """The product of [m n] and [n c d], to [m c d].

  It is as fast as sums are, and nothing has to be compiled.
  """
  return jnp.einsum('mn,ncd->mcd', matrix.astype(weights.dtype), weights)


def _whole(filtering, *sides):
  """The sides of a map, in whole tiles."""
  m = filtering.side
  return tuple(-(-side // m) * m for side in sides)
