"""Normals of NYU-v2 from a folder of the user, numbered from 0.

    <dir>/normals/0000.png  masks/0000.png   as published by Eigen and Fergus
    <dir>/0000.npy                           float [480 640 3]

PNGs store v = 127.5 (n + 1), and pixels whose mask is 0 have no normal. The
.npy files store unit vectors, and 0, 0, 0 where there is none.
"""

import dataclasses
import pathlib

import numpy as np

from mtl_kd_jax.datasets import files
from mtl_kd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Normals:
  """A folder of normals.

  Attributes:
    root: the folder.
    size: (height, width) of the frames, pixels.
  """

  root: pathlib.Path
  size: tuple[int, int]

  def check(self, frames: np.ndarray) -> None:
    """Raises InputError unless there is a file for each of the frames."""
    missing = [i for i in frames.tolist() if not self._path(i).is_file()]
    if missing:
      first = self._path(min(missing))
      raise InputError(
        expected='a file of normals for each frame',
        found=f'{len(missing)} of {len(frames)} missing, '
        f'the first {first.name}',
        argument='normals_dir',
        where=f'{first.parent}',
        do="add the files, or set normals_dir to '' to compute the normals "
        'from depth',
      )

  def read(self, frame: int) -> np.ndarray:
    """Unit vectors, 0, 0, 0 where missing: float32 [h w 3]."""
    path = self._path(frame)
    array = files.read_array(path)
    files.check_shape(path, array, (*self.size, 3))
    mask = self.root / 'masks' / path.name
    missing = None
    if mask.is_file():
      masked = files.read_array(mask)
      files.check_shape(mask, masked, self.size)
      missing = masked == 0
    return files.as_vectors(path, array, missing)

  def _path(self, frame):
    if (self.root / 'normals').is_dir():
      return self.root / 'normals' / f'{frame:04d}.png'
    return self.root / f'{frame:04d}.npy'
