"""Makes pictures and maps smaller by whole numbers, each in its own way."""

import numpy as np
from PIL import Image

Factors = tuple[int, int]  # vertical, horizontal


def by_area(image: Image.Image, factors: Factors) -> np.ndarray:
  """The mean of every block, uint8 [h w 3], for pictures."""
  return np.asarray(image.reduce(factors[::-1]))


def by_nearest(ids: np.ndarray, factors: Factors) -> np.ndarray:
  """The pixel at the middle of every block [h w], for class ids.

  Of an even number of pixels, it is the one after the middle.
  """
  fy, fx = factors
  return np.ascontiguousarray(ids[fy // 2 :: fy, fx // 2 :: fx])


def by_valid_mean(values: np.ndarray, factors: Factors) -> np.ndarray:
  """The mean over the valid pixels of every block, for measurements.

  A block in which fewer than half of the pixels are valid is not valid. So the
  share of valid pixels stays about what it was, and what is missing counts
  neither as a number nor as its neighbors'.

  Args:
    values: uint16 [h*fy w*fx], 0 where not valid.
    factors: (fy, fx).

  Returns:
    float32 [h w], 0 where not valid.
  """
  fy, fx = factors
  height, width = values.shape
  # Rows are added first, for they lie one after the other in memory.
  rows = values.reshape(height // fy, fy, width)
  blocks = height // fy, width // fx, fx
  total = rows.sum(axis=1, dtype=np.uint32).reshape(blocks)
  count = (rows > 0).sum(axis=1, dtype=np.uint32).reshape(blocks)
  total = total.sum(axis=-1, dtype=np.uint64)
  count = count.sum(axis=-1, dtype=np.uint64)
  valid = 2 * count >= fy * fx
  mean = total / np.maximum(count, 1)
  return np.where(valid, mean, 0).astype(np.float32)
