"""Writes small data sets in the layout of NYU-v2's official files."""

import h5py
import numpy as np
from scipy import io

from mtl_kd_jax.datasets.nyuv2_maps import _TO_13

SIZE = (480, 640)
# Every raw id gets one of the 40 classes; the official map has another order.
MAP_40 = (np.arange(894) * 7) % 40 + 1


def make_frames(count, seed=0):
  """What the archive holds, with rows before columns: field -> [n h w ...].

  Tilted planes with holes in their measured depth, and blocks of ids.
  """
  rng = np.random.default_rng(seed)
  h, w = SIZE
  y, x = np.mgrid[:h, :w] / 100
  slope = rng.uniform(-0.06, 0.06, (count, 2, 1, 1))
  filled = 1 / (0.5 + slope[:, 0] * (y - 2.4) + slope[:, 1] * (x - 3.2))
  holes = np.repeat(np.repeat(rng.random((count, 6, 8)) < 0.1, 80, 1), 80, 2)
  ids = rng.integers(0, 895, (count, h // 16, w // 16))
  coarse = rng.integers(0, 256, (count, h // 8, w // 8, 3))
  return {
    'images': np.repeat(np.repeat(coarse, 8, 1), 8, 2).astype(np.uint8),
    'depths': filled.astype(np.float32),
    'rawDepths': np.where(holes, 0, filled).astype(np.float32),
    'labels': np.repeat(np.repeat(ids, 16, 1), 16, 2).astype(np.uint16),
  }


def write_archive(folder, frames, *, names=894, train=(1, 2), test=(3,)):
  """Writes all four files; splits number the frames from 1."""
  with h5py.File(folder / 'nyu_depth_v2_labeled.mat', 'w') as file:
    for field, array in frames.items():
      # MATLAB's arrays are stored with their axes reversed, frames first.
      file[field] = np.moveaxis(array.T, -1, 0)
    reference = file.create_dataset('#refs#/a', data=np.uint16([97])).ref
    if names:
      file.create_dataset('names', (1, names), h5py.ref_dtype)[:] = reference
  write_splits(folder, train, test)
  io.savemat(folder / 'classMapping40.mat', {'mapClass': np.uint8([MAP_40])})
  write_map_13(folder, _TO_13)


def write_splits(folder, train, test):
  io.savemat(
    folder / 'splits.mat',
    {
      'trainNdxs': np.uint16(train)[:, None],
      'testNdxs': np.uint16(test)[:, None],
    },
  )


def write_map_13(folder, ids):
  struct = {'labels': np.uint8([ids]), 'names': np.array(['a', 'b'], object)}
  io.savemat(folder / 'class13Mapping.mat', {'classMapping13': struct})
