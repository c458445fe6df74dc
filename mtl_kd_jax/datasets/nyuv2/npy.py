"""NYU-v2 as .npy files, in the layout of the dump that papers use.

    <dir>/{train,val}/{image,label,depth,normal}/<i>.npy

  image   float [h w 3], in [0, 1]
  label   [h w], class 0..12, -1 where unlabeled
  depth   float [h w 1] or [h w], meters, 0 where missing
  normal  float [h w 3], unit vectors, 0, 0, 0 where missing

If a folder of labels is absent, the dataset has no such label. A frame may have
a label in which every pixel is missing.
"""

import os

import numpy as np

from mtl_kd_jax.datasets import npy_folder, paths
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

CLASSES = (
  'bed',
  'books',
  'ceiling',
  'chair',
  'floor',
  'furniture',
  'objects',
  'picture',
  'sofa',
  'table',
  'tv',
  'wall',
  'window',
)
_LABEL_FOLDERS = {
  'semantic': npy_folder.LabelFolder(
    'label',
    Label('class', classes=CLASSES),
    0,
    npy_folder.classes_reader(len(CLASSES)),
  ),
  'depth': npy_folder.LabelFolder(
    'depth',
    Label('depth', unit='m'),
    1,
    npy_folder.depth_reader(maximum=np.inf, unit='meters'),
  ),
  'normals': npy_folder.LabelFolder(
    'normal', Label('normal'), 3, npy_folder.read_normals
  ),
}


def make(*, data_dir: str | os.PathLike = '') -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder that contains train/ and val/.

  Raises:
    InputError: the folder or a part of it is missing, the folders of a split
      contain different frames, or the first image cannot be read. Every file is
      checked when it is read.
  """
  root, found = npy_folder.find_root(data_dir)
  if found:
    raise InputError(
      expected='the NYU-v2 .npy dump: train/image/0.npy, val/image/0.npy ...',
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do=_hint(root) + 'download the 288x384 dump (8.4 GB) that the README of '
      'github.com/lorenmt/mtan links to, unpack it, and name the folder that '
      "contains train/ and val/ in data_dir; the dataset 'scenes' needs no "
      'download',
    )
  return npy_folder.open_folder('nyuv2', root, _LABEL_FOLDERS)


def _hint(root):
  # The two forms of NYU-v2 are easily confused.
  official = (root / 'nyu_depth_v2_labeled.mat').is_file()
  hint = "open the official archive there as the dataset 'nyuv2_mat'; or "
  return hint * official


def preview() -> Dataset:
  """The published dump: all labels, 288x384 pixels."""
  labels = {task: part.label for task, part in _LABEL_FOLDERS.items()}
  return Dataset('nyuv2', (288, 384), labels, sources={})
