"""Bilinear resizing against an interpolation written out pixel by pixel."""

import jax
from jax import export
import numpy as np
import pytest

from mtl_kd_jax.ops import resize
from mtl_kd_jax.ops.resize import resize_bilinear

SIZES = [((3, 4), (6, 8)), ((1, 2), (2, 4)), ((2, 3), (7, 5)), ((5, 6), (3, 2))]


def interpolate(x, size, align_corners):
  """[h w] -> size, each new pixel from its four neighbors, in float64."""
  h, w = x.shape
  y = np.zeros(size)
  for index in np.ndindex(size):
    place = []
    for i, old, new in zip(index, (h, w), size, strict=True):
      if align_corners:
        place.append(i * (old - 1) / max(new - 1, 1))
      else:
        place.append(min(max((i + 0.5) * old / new - 0.5, 0), old - 1))
    (u, v), (i, j) = place, map(int, place)
    k, m = min(i + 1, h - 1), min(j + 1, w - 1)
    a, b = u - i, v - j
    y[index] = (1 - a) * ((1 - b) * x[i, j] + b * x[i, m]) + a * (
      (1 - b) * x[k, j] + b * x[k, m]
    )
  return y


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('old, new', SIZES, ids=str)
def test_every_pixel_comes_from_its_four_neighbors(old, new, align_corners):
  x = np.random.default_rng(0).normal(size=(2, *old, 3)).astype(np.float32)
  y = resize_bilinear(x, new, align_corners=align_corners)
  assert y.shape == (2, *new, 3)
  for b, c in np.ndindex(2, 3):
    expected = interpolate(x[b, :, :, c].astype(np.float64), new, align_corners)
    np.testing.assert_allclose(y[b, :, :, c], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('old, new', SIZES, ids=str)
def test_the_gradient_is_the_transposed_map(old, new):
  rng = np.random.default_rng(1)
  x, d = rng.normal(size=(2, 1, *old, 1)).astype(np.float32)
  g = rng.normal(size=(1, *new, 1)).astype(np.float32)
  _, vjp = jax.vjp(lambda x: resize_bilinear(x, new), x)
  moved = resize_bilinear(d, new)
  np.testing.assert_allclose(
    np.vdot(g, moved), np.vdot(vjp(g)[0], d), rtol=1e-4
  )


def test_a_map_of_the_right_size_is_returned_unchanged():
  x = np.ones((1, 2, 3, 4), np.float32)
  assert resize_bilinear(x, (2, 3)) is x


def test_products_are_exact_on_every_platform():
  """The default is TF32 on GPUs and bfloat16 on TPUs."""
  grad = jax.grad(lambda x: resize_bilinear(x, (7, 9)).sum())
  program = str(jax.make_jaxpr(grad)(np.ones((1, 4, 6, 2), np.float32)))
  products = program.count('dot_general[')
  assert products > 0
  exact = 'precision=(Precision.HIGHEST, Precision.HIGHEST)'
  assert program.count(exact) == products


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('factor', [2, 3, 4])
@pytest.mark.parametrize('axis', [1, 2])
def test_sums_and_products_are_the_same_map(axis, factor, align_corners):
  """CPUs have one, others the other; with their transposes."""
  rng = np.random.default_rng(2)
  x = rng.normal(size=(2, 5, 5, 3)).astype(np.float32)
  size = tuple(5 * (factor if a == axis else 1) for a in (1, 2))
  g = rng.normal(size=(2, *size, 3)).astype(np.float32)
  matrix = resize.weights(5, 5 * factor, align_corners).astype(np.float32)
  how = {'axis': axis, 'align_corners': align_corners}
  expected = resize.as_product(x, matrix, axis=axis)
  for same in (
    resize.as_sums(x, matrix, **how),
    resize_bilinear(x, size, align_corners=align_corners),
  ):
    np.testing.assert_allclose(same, expected, atol=1e-6)
  expected = resize.transposed_product(g, matrix, axis=axis)
  _, vjp = jax.vjp(
    lambda x: resize_bilinear(x, size, align_corners=align_corners), x
  )
  for same in (resize.transposed_sums(g, matrix, **how), *vjp(g)):
    np.testing.assert_allclose(same, expected, atol=2e-6)


@pytest.mark.parametrize('platform, products', [('cpu', 4), ('cuda', 0)])
def test_doubling_needs_no_gather_and_on_gpus_no_product(platform, products):
  grad = jax.jit(jax.grad(lambda x: (resize_bilinear(x, (8, 12)) ** 2).sum()))
  x = np.ones((1, 4, 6, 2), np.float32)
  text = grad.trace(x).lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.dot_general') == products
  for other in ('scatter', 'gather'):
    assert f'stablehlo.{other}' not in text


def test_derivatives_of_both_modes_go_through_vmap():
  x = np.random.default_rng(3).normal(size=(2, 1, 2, 3, 4)).astype(np.float32)

  def enlarge(x):
    return resize_bilinear(x, (4, 6)) ** 2

  _, forward = jax.jvp(jax.vmap(enlarge), (x,), (x,))
  _, vjp = jax.vjp(enlarge, x[1])
  backward = vjp(forward[1])[0]
  np.testing.assert_allclose(forward[1], 2 * enlarge(x[1]), rtol=1e-5)
  np.testing.assert_allclose(
    np.vdot(backward, x[1]), np.vdot(forward[1], forward[1]), rtol=1e-4
  )


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('factor', [2, 4])
@pytest.mark.parametrize('shape', ['b, 3, 4, 2', 'b, h, 2*w, 2'])
def test_symbolic_sides_give_the_same(shape, factor, align_corners):
  """Those of `jax.export`, for which nothing can be computed beforehand."""

  def enlarge(x):
    size = (factor * x.shape[1], factor * x.shape[2])
    return resize_bilinear(x, size, align_corners=align_corners)

  struct = jax.ShapeDtypeStruct(export.symbolic_shape(shape), np.float32)
  exported = export.export(jax.jit(enlarge))(struct)
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
  np.testing.assert_allclose(exported.call(x), enlarge(x), atol=1e-6)
