"""Cityscapes as .npy files, in the layout of the dump that papers use.

  <dir>/{train,val}/{image,label_7,label_19,depth}/<i>.npy

image     float [h w 3] in [0, 1]
label_7   [h w], category 0..6, -1 where ignored
label_19  [h w], class 0..18, -1 where ignored
depth     float [h w 1] or [h w]: inverse depth, the numbers of the official
          disparity files / 65535, 0 where missing
"""

import os

from mtl_kd_jax.datasets import npy_folder, paths
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.cityscapes import depth as cityscapes_depth
from mtl_kd_jax.datasets.cityscapes.classes import LABELS
from mtl_kd_jax.errors import InputError


def make(*, data_dir: str | os.PathLike = '', classes: int = 7) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder that contains train/ and val/.
    classes: 7 (label_7) or 19 (label_19).

  Raises:
    InputError: `classes` is neither 7 nor 19, the folder or a part of it is
      missing, the folders of a split contain different frames, or the first
      image cannot be read. Every file is checked when it is read.
  """
  folders = _label_folders(classes)
  root, found = npy_folder.find_root(data_dir)
  if found:
    raise InputError(
      expected='a Cityscapes .npy dump: train/image/0.npy, val/image/0.npy ...',
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do='download the 128x256 dump (651 MB) that the README of '
      'github.com/lorenmt/mtan links to, unpack it, and name the folder that '
      'contains train/ and val/ in data_dir; the official archives are the '
      "dataset 'cityscapes'",
    )
  return npy_folder.open_folder('cityscapes_npy', root, folders)


def preview(*, classes: int = 7) -> Dataset:
  """The published dump, 128x256 pixels; InputError as in `make`."""
  labels = {
    name: folder.label for name, folder in _label_folders(classes).items()
  }
  return Dataset('cityscapes_npy', (128, 256), labels, sources={})


def _label_folders(classes):
  if not any(classes == count for count in LABELS):  # `in` needs a hash
    raise InputError(
      expected='7 or 19',
      found=repr(classes),
      argument='classes',
      do='set classes to 7 or 19',
    )
  return {
    'semantic': npy_folder.LabelFolder(
      f'label_{classes}', LABELS[classes], 0, npy_folder.classes_reader(classes)
    ),
    'depth': npy_folder.LabelFolder(
      'depth',
      cityscapes_depth.INVERSE_DEPTH,
      1,
      npy_folder.depth_reader(maximum=1, unit='inverse depth'),
    ),
  }
