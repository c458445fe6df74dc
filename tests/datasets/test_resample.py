"""Smaller images by area, labels by the nearest pixel, both aligned."""

import numpy as np
import pytest

from mtl_kd_jax.datasets.resample import by_area, centers, nearest

SIZES = [
  ((12, 18), (4, 6)),
  ((17, 21), (12, 16)),
  ((10, 7), (10, 7)),
  ((6, 5), (9, 11)),
]
all_sizes = pytest.mark.parametrize('old, new', SIZES)


def random_image(size, seed=0):
  return np.random.default_rng(seed).random((*size, 3))


@all_sizes
def test_an_image_is_the_mean_over_each_pixels_area(old, new):
  image = random_image(old)
  # Cut every pixel into new x new parts, which fit into the new pixels whole.
  fine = np.repeat(np.repeat(image, new[0], 0), new[1], 1)
  blocks = fine.reshape(new[0], old[0], new[1], old[1], 3)
  expected = blocks.mean(axis=(1, 3))
  resized = by_area(image, new)
  assert resized.dtype == np.float32 and resized.shape == (*new, 3)
  np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-6)


def test_bytes_are_averaged_without_rounding_or_overflow():
  image = np.full((4, 4, 3), 255, np.uint8)
  image[::2] = 254
  np.testing.assert_allclose(by_area(image, (2, 2)), 254.5, rtol=1e-6)


@all_sizes
def test_a_label_is_the_pixel_under_the_center(old, new):
  label = np.arange(old[0] * old[1], dtype=np.uint16).reshape(old)
  resized = nearest(label, new)
  assert resized.dtype == label.dtype and resized.shape == new
  for i in range(new[0]):
    for j in range(new[1]):
      y, x = (i + 0.5) * old[0] / new[0], (j + 0.5) * old[1] / new[1]
      assert resized[i, j] == label[int(y), int(x)]
  rows, columns = centers(old, new)
  np.testing.assert_array_equal(resized, label[rows][:, columns])


def test_channels_stay_together():
  normals = random_image((8, 6))
  resized = nearest(normals, (4, 3))
  assert resized.shape == (4, 3, 3)
  vectors = {v.tobytes() for v in normals.reshape(-1, 3)}
  assert all(v.tobytes() in vectors for v in resized.reshape(-1, 3))


def test_images_and_labels_are_not_shifted_against_each_other():
  old, new = (60, 90), (20, 25)
  y, x = np.mgrid[: old[0], : old[1]].astype(float)
  image = by_area(np.stack([y, x, x], -1), new)
  label = nearest(np.stack([y, x], -1), new)
  # A label is at most half a pixel from the center of the image's area.
  assert np.abs(image[..., :2] - label).max() <= 0.5 + 1e-4
  assert np.abs((image[..., :2] - label).mean(axis=(0, 1))).max() < 0.5
