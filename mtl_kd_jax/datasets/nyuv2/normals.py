"""Normals of NYU-v2 from a folder of the user, numbered from 0.

    <dir>/normals/0000.png  masks/0000.png   as published by Eigen and Fergus
    <dir>/0000.npy                           float [480 640 3]

PNGs store v = 127.5 (n + 1), and pixels whose mask is 0 have no normal. The
.npy files store unit vectors, and 0, 0, 0 where there is none.
"""

import dataclasses
import pathlib

import numpy as np

from mtl_kd_jax.datasets import files, paths
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
    """Raises InputError unless all files of each of the frames exist.

    These are that of its normals and, if there is a folder of masks, its mask.
    """
    self._check('a file of normals', self._path, frames)
    masks = self._masks()
    if masks.is_dir():
      self._check('a mask', lambda i: masks / self._path(i).name, frames)

  def _check(self, what, path_of, frames):
    missing = [i for i in frames.tolist() if paths.why_no_file(path_of(i))]
    if missing:
      first = path_of(min(missing))
      similar = paths.as_text(paths.SimilarNames()(first))
      hint = f', where there is {similar}' * bool(similar)
      raise InputError(
        expected=f'{what} for each frame',
        found=f'{len(missing)} of {len(frames)} missing, '
        f'the first {first.name}{hint}',
        argument='normals_dir',
        where=paths.as_text(first.parent),
        do="add the files, or set normals_dir to '' to compute the normals "
        'from depth',
      )

  def read(self, frame: int) -> np.ndarray:
    """Unit vectors, 0, 0, 0 where missing: float32 [h w 3]."""
    path = self._path(frame)
    array = files.read_array(path, vectors=True)
    files.check_shape(path, array, (*self.size, 3))
    missing = None
    if self._masks().is_dir():
      mask = self._masks() / path.name
      masked = files.read_array(mask, vectors=True)
      files.check_shape(mask, masked, self.size)
      missing = masked == 0
    return files.as_vectors(path, array, missing)

  def _masks(self):
    return self.root / 'masks'

  def _path(self, frame):
    if (self.root / 'normals').is_dir():
      return self.root / 'normals' / f'{frame:04d}.png'
    return self.root / f'{frame:04d}.npy'
