"""3x3 convolutions by Winograd's minimal filtering, F(m x m, 3 x 3).

A tile of m x m outputs takes (m + 2)^2 multiplications for each pair of
channels, of transformed inputs and kernels, in place of 9 m^2: 16 in place of
36 with m = 2, and 36 in place of 144 with m = 4 (Lavin & Gray, CVPR 2016,
section 4): Y = A^T [(G g G^T) * (B^T d B)] A. Each multiplication is a matrix
product over all tiles of the map.

XLA compiles a program for every array that is written, for longer the more
branches it has, but hardly for a matrix product. So kernels, products and
gradients are transformed by products, with the Kronecker product of A and A in
place of A on either side. Only inputs, whose tiles overlap, are transformed by
sums, one axis after the other.

Transforms widen the range of the numbers, which is too much for half precision.
"""

import functools
import math

from jax import lax
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
    return _convolve(filtering, x, kernel, 'ntc,ncd->ntd')

  def input_gradient(g, kernel):
    # The convolution with the rotated kernel, whose transform is that of the
    # kernel in another order: the compiler shares it with the forward pass. The
    # product contracts the other channel axis; a transposed copy of the kernel
    # would take longer than the rest.
    return _convolve(rotated, g, kernel, 'ntd,ncd->ntc')

  def weight_gradient(x, g):
    # The transposes of the three transforms:
    # G^T [sum_tiles (B^T d B) (A y A^T)] G.
    # Rows and columns change places. Otherwise XLA would keep the forward
    # pass's transformed inputs until now, which are 9/4 times (m = 4) or 4
    # times (m = 2) as large as x. To pad by -0.0 instead would share the
    # forward pass's programs, but newer versions of XLA then keep copies of x.
    x, g = lax.optimization_barrier((x.swapaxes(1, 2), g.swapaxes(1, 2)))
    products = jnp.einsum(
      'ntc,ntd->ncd', _tiles(filtering, x), _outputs(filtering, g)
    )
    back = _both_axes(filtering.kernel.T).reshape(3, 3, -1).swapaxes(0, 1)
    return _transform(back, products)

  return convolve, input_gradient, weight_gradient


def _convolve(filtering, x, kernel, product):
  # Otherwise XLA would fuse the computation of x into the sums, and repeat it
  # in each.
  x = lax.optimization_barrier(x)
  b, h, w, _ = x.shape
  m = filtering.side
  height, width = _whole(filtering, h, w)
  products = jnp.einsum(
    product, _tiles(filtering, x), _kernels(filtering, kernel)
  )
  y = _transform(_both_axes(filtering.products), products)
  y = y.reshape(m, m, b * height // m, width // m, -1)
  y = y.transpose(2, 0, 3, 1, 4)  # [b*h/m m w/m m d]
  return y.reshape(b, height, width, -1)[:, :h, :w]


def _tiles(filtering, x):
  """The transformed inputs of all tiles, [n*n b*h/m*w/m c]."""
  b, h, w, c = x.shape
  m, n = filtering.side, filtering.side + 2
  height, width = _whole(filtering, h, w)
  x = jnp.pad(x, ((0, 0), (1, 1 + height - h), (1, 1 + width - w), (0, 0)))
  rows = _sums(filtering.inputs, [x[:, i : i + height : m] for i in range(n)])
  # Fewer axes compile faster. The batch, which may be split over devices, stays
  # the first part of its axis.
  rows = rows.reshape(n, b * height // m, width + 2, c)
  columns = [rows[:, :, i : i + width : m] for i in range(n)]
  return _sums(filtering.inputs, columns, axis=1).reshape(n * n, -1, c)


def _outputs(filtering, g):
  """The transformed gradient of outputs, [n*n b*h/m*w/m d]."""
  b, h, w, d = g.shape
  m = filtering.side
  height, width = _whole(filtering, h, w)
  g = jnp.pad(g, ((0, 0), (0, height - h), (0, width - w), (0, 0)))
  g = g.reshape(b * height // m, m, width // m, m, d).transpose(1, 3, 0, 2, 4)
  g = lax.optimization_barrier(g.reshape(m * m, -1, d))
  return _transform(_both_axes(filtering.products.T), g)


def _kernels(filtering, kernel):
  """The transformed kernel, [n*n c d]."""
  taps = kernel.reshape(9, *kernel.shape[2:])
  return _transform(_both_axes(filtering.kernel), taps)


def _sums(matrix, arrays, *, axis=0):
  """Sums of arrays by each row of a matrix, along a new axis."""
  sums = [_sum(row, arrays) for row in matrix]
  return lax.optimization_barrier(jnp.stack(sums, axis))


def _sum(coefficients, arrays):
  """The sum of arrays by their coefficients."""
  # A network has thousands of these, and JAX traces operators more slowly.
  terms = [
    x if k == 1 else lax.mul(x, x.dtype.type(k))
    for k, x in zip(coefficients, arrays, strict=True)
    if k
  ]
  return functools.reduce(lax.add, terms)


def _both_axes(matrix):
  """The transform of rows and columns by one matrix, [m n] to [m*m n*n]."""
  return np.kron(matrix, matrix)


def _transform(matrix, x):
  """The product of [... n] and [n t c], to [... t c]."""
  return jnp.einsum('...n,ntc->...tc', matrix.astype(x.dtype), x)


def _whole(filtering, *sides):
  """The sides of a map, in whole tiles."""
  m = filtering.side
  return tuple(-(-side // m) * m for side in sides)
