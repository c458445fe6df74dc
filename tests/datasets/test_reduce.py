"""Making maps smaller: by area, by nearest, and without mixing the invalid."""

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.datasets import reduce


def blocks(array, factors):
  """[h w fy*fx (c)], each block's pixels."""
  fy, fx = factors
  h, w = array.shape[0] // fy, array.shape[1] // fx
  split = array.reshape(h, fy, w, fx, -1).transpose(0, 2, 1, 3, 4)
  return split.reshape(h, w, fy * fx, -1)


@pytest.mark.parametrize('factors', [(8, 8), (4, 2), (3, 5), (1, 1)])
def test_pictures_are_the_means_of_blocks(factors):
  rng = np.random.default_rng(0)
  shape = (6 * factors[0], 4 * factors[1], 3)
  image = rng.integers(0, 256, shape).astype(np.uint8)
  small = reduce.by_area(Image.fromarray(image), factors)
  assert small.shape == (6, 4, 3) and small.dtype == np.uint8
  np.testing.assert_allclose(small, blocks(image, factors).mean(2), atol=0.6)


@pytest.mark.parametrize(
  'factors, row, column', [((8, 8), 4, 4), ((3, 5), 1, 2), ((1, 1), 0, 0)]
)
def test_ids_are_the_pixels_in_the_middle_of_blocks(factors, row, column):
  fy, fx = factors
  ids = np.arange(5 * fy * 4 * fx).reshape(5 * fy, 4 * fx)
  small = reduce.by_nearest(ids, factors)
  expected = blocks(ids, factors)[:, :, row * fx + column, 0]
  np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize('factors', [(8, 8), (4, 2), (3, 5), (1, 1)])
def test_measurements_are_the_means_of_valid_pixels(factors):
  rng = np.random.default_rng(1)
  shape = (20 * factors[0], 20 * factors[1])
  values = rng.integers(1, 2**16, shape).astype(np.uint16)
  values[rng.random(shape) < 0.5] = 0
  small = reduce.by_valid_mean(values, factors)
  assert small.shape == (20, 20) and small.dtype == np.float32
  seen = set()
  for got, block in zip(
    small.ravel(), blocks(values, factors).reshape(400, -1), strict=True
  ):
    valid = block[block > 0].astype(float)
    enough = 2 * len(valid) >= block.size
    seen.add(enough)
    expected = valid.mean() if enough else 0
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert seen == {True, False}


def test_half_of_a_block_is_enough_and_less_is_not():
  values = np.array([[5, 0, 5, 0], [7, 0, 0, 0]], np.uint16)
  small = reduce.by_valid_mean(values, (2, 2))
  np.testing.assert_array_equal(small, [[6, 0]])


def test_the_sum_of_a_large_block_does_not_overflow():
  values = np.full((512, 1024), 65535, np.uint16)
  assert reduce.by_valid_mean(values, (512, 1024)) == 65535
