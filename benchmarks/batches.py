"""Random batches, by NumPy alone."""

import numpy as np


def make_batch(
  size: tuple[int, int], batch_size: int, seed: int = 0
) -> dict[str, np.ndarray]:
  """Random images and labels [b h w c]; a tenth of the pixels unlabeled."""
  rng = np.random.default_rng(seed)
  shape = (batch_size, *size)
  batch = {
    'image': rng.random((*shape, 3), np.float32),
    'semantic': rng.integers(-1, 13, shape, np.int32),
    'depth': 5 * rng.random((*shape, 1), np.float32),
    'normals': rng.standard_normal((*shape, 3), np.float32),
  }
  batch['normals'] /= np.linalg.norm(batch['normals'], axis=-1, keepdims=True)
  missing = rng.random(shape) < 0.1
  batch['depth'][missing] = batch['normals'][missing] = 0
  return batch
