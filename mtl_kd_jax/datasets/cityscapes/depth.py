"""Depth labels from the disparity files of Cityscapes, of three kinds.

A file contains p, 16 bits: 0 where nothing was measured, else 256 d + 1, with
the disparity d in pixels of the original images, which are 2048 wide. Resizing
an image changes neither d nor what is computed from it:

  inverse_depth  p / 65535: what papers call depth
  disparity      d = (p - 1) / 256 pixels
  depth          baseline * focal length / d, meters along the optical axis; the
                 focal length is also that of the original images

p = 1 is a disparity of 0, infinitely far: as inverse depth it is 1.5e-5, which
makes relative errors very large; in the other kinds it is missing.
"""

import numpy as np

from mtl_kd_jax.labels import Label

INVERSE_DEPTH = Label('disparity', unit='raw/65535')
KINDS = ('inverse_depth', 'disparity', 'depth')


def depth_label(kind: str, width: int) -> Label:
  """The label of a kind, for images that are `width` pixels wide."""
  at = '' if width == 2048 else ' at 2048'
  return {
    'inverse_depth': INVERSE_DEPTH,
    'disparity': Label('disparity', unit=f'px{at}'),
    'depth': Label('depth', unit='m'),
  }[kind]


def from_raw(raw: np.ndarray, kind: str, camera: float) -> np.ndarray:
  """Converts the numbers of the files.

  Args:
    raw: p, any dtype [h w]; means of several pixels may have fractions.
    kind: one of KINDS.
    camera: baseline in meters times focal length in pixels ('depth' only).

  Returns:
    float32 [h w 1], 0 where missing.
  """
  raw = raw.astype(np.float32)
  if kind == 'inverse_depth':
    values = raw / np.float32(65535)
  else:
    values = np.maximum(raw - 1, 0) / np.float32(256)
    if kind == 'depth':
      known = values > 0
      depth = np.float32(camera) / np.where(known, values, 1)
      values = np.where(known, depth, np.float32(0))
  return values[..., None]
