"""Resizing: images by area, labels by nearest pixel, measurements by mean."""

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.datasets.resize import (
  area,
  nearest,
  nearest_indices,
  valid_mean,
)

SIZES = [
  ((12, 18), (4, 6)),
  ((17, 21), (12, 16)),
  ((10, 7), (10, 7)),
  ((6, 5), (9, 11)),
  ((12, 21), (4, 16)),  # whole pixels in one direction only
]
all_sizes = pytest.mark.parametrize('old, new', SIZES)
# (fy, fx) -> row and column of the pixel in the middle of a block.
BLOCKS = {(8, 8): (4, 4), (4, 2): (2, 1), (3, 5): (1, 2), (1, 1): (0, 0)}
all_blocks = pytest.mark.parametrize('factors', BLOCKS, ids=str)


def random_image(size, seed=0):
  return np.random.default_rng(seed).random((*size, 3))


def area_means(image, new):
  """The exact means, in float64."""
  # Cut every pixel into new x new parts: new pixels then cover whole parts.
  old = image.shape
  fine = np.repeat(np.repeat(image.astype(float), new[0], 0), new[1], 1)
  return fine.reshape(new[0], old[0], new[1], old[1], 3).mean(axis=(1, 3))


def split_blocks(array, factors):
  """The pixels of each block, [h w fy*fx]."""
  fy, fx = factors
  h, w = array.shape[0] // fy, array.shape[1] // fx
  blocks = array.reshape(h, fy, w, fx).transpose(0, 2, 1, 3)
  return blocks.reshape(h, w, fy * fx)


@all_sizes
def test_images_are_averaged_over_the_area_of_each_pixel(old, new):
  image = random_image(old).astype(np.float32)
  resized = area(image, new)
  assert resized.dtype == np.float32 and resized.shape == (*new, 3)
  np.testing.assert_allclose(resized, area_means(image, new), rtol=0, atol=1e-6)


@all_sizes
def test_bytes_are_the_rounded_means(old, new):
  image = np.rint(255 * random_image(old)).astype(np.uint8)
  resized = area(image, new)
  assert resized.dtype == np.uint8 and resized.shape == (*new, 3)
  # Pillow rounds some values just above a half down.
  error = np.abs(resized - area_means(image, new))
  assert error.max() < 0.6


def test_pillows_box_filter_is_no_average_over_partly_covered_pixels():
  """The reason that there is code for this: where it passes, use Pillow."""
  old, new = (17, 21), (12, 16)
  image = np.rint(255 * random_image(old)).astype(np.uint8)
  box = Image.fromarray(image).resize(new[::-1], Image.Resampling.BOX)
  assert np.abs(np.asarray(box) - area_means(image, new)).max() > 50


@all_sizes
def test_a_label_is_the_pixel_under_the_center(old, new):
  label = np.arange(old[0] * old[1], dtype=np.uint16).reshape(old)
  resized = nearest(label, new)
  assert resized.dtype == label.dtype and resized.shape == new
  for i in range(new[0]):
    for j in range(new[1]):
      y, x = (i + 0.5) * old[0] / new[0], (j + 0.5) * old[1] / new[1]
      assert resized[i, j] == label[int(y), int(x)]
  rows, columns = nearest_indices(old, new)
  np.testing.assert_array_equal(resized, label[rows][:, columns])


@all_blocks
def test_the_nearest_pixel_of_a_block_is_the_one_in_its_middle(factors):
  (fy, fx), (row, column) = factors, BLOCKS[factors]
  ids = np.arange(5 * fy * 4 * fx).reshape(5 * fy, 4 * fx)
  expected = split_blocks(ids, factors)[..., row * fx + column]
  np.testing.assert_array_equal(nearest(ids, (5, 4)), expected)


def test_channels_stay_together():
  normals = random_image((8, 6))
  resized = nearest(normals, (4, 3))
  assert resized.shape == (4, 3, 3)
  vectors = {v.tobytes() for v in normals.reshape(-1, 3)}
  assert all(v.tobytes() in vectors for v in resized.reshape(-1, 3))


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('new', [(20, 30), (43, 67)], ids=str)
def test_images_and_labels_stay_aligned(new, dtype):
  y, x = np.mgrid[:60, :90]
  image = area(np.stack([2 * y, 2 * x, x], -1).astype(dtype), new) / 2
  label = nearest(np.stack([y, x], -1), new)
  # A label is at most half a pixel from the center of the image's area.
  distance = image[..., :2] - label
  rounding = 0.3 if dtype == np.uint8 else 1e-4
  assert np.abs(distance).max() <= 0.5 + rounding
  assert np.abs(distance.mean(axis=(0, 1))).max() < 0.1


@all_blocks
def test_measurements_are_the_means_of_valid_pixels(factors):
  rng = np.random.default_rng(1)
  shape = (20 * factors[0], 20 * factors[1])
  values = rng.integers(1, 2**16, shape).astype(np.uint16)
  values[rng.random(shape) < 0.5] = 0
  small = valid_mean(values, (20, 20))
  assert small.shape == (20, 20) and small.dtype == np.float32
  seen = set()
  for got, block in zip(
    small.ravel(), split_blocks(values, factors).reshape(400, -1), strict=True
  ):
    valid = block[block > 0].astype(float)
    enough = 2 * len(valid) >= block.size
    seen.add(enough)
    expected = valid.mean() if enough else 0
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert seen == {True, False}


def test_half_of_a_block_is_enough_and_less_is_not():
  values = np.array([[5, 0, 5, 0], [7, 0, 0, 0]], np.uint16)
  np.testing.assert_array_equal(valid_mean(values, (1, 2)), [[6, 0]])


def test_the_sum_of_a_large_block_does_not_overflow():
  values = np.full((512, 1024), 65535, np.uint16)
  assert valid_mean(values, (1, 1)) == 65535
