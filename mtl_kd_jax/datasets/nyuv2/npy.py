"""NYU-v2 in the folder layout of the .npy dumps that the literature uses.

    <dir>/{train,val}/{image,label,depth,normal}/<i>.npy

  image   float [h w 3] in [0, 1]
  label   [h w], class 0..12, -1 where unlabeled
  depth   float [h w 1] or [h w], meters, 0 where missing
  normal  float [h w 3], unit vectors, 0, 0, 0 where missing

A folder of labels may be absent; then the dataset has no labels for that task.
A frame whose labels are all missing is a partially labeled frame.
"""

import pathlib

import numpy as np

from mtl_kd_jax.datasets import npy_folder
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
_PARTS = {
  'semantic': npy_folder.Part(
    'label',
    Label('class', classes=CLASSES),
    0,
    npy_folder.classes_reader(len(CLASSES)),
  ),
  'depth': npy_folder.Part(
    'depth',
    Label('depth', unit='m'),
    1,
    npy_folder.depth_reader(most=np.inf, unit='meters'),
  ),
  'normals': npy_folder.Part(
    'normal', Label('normal'), 3, npy_folder.read_normals
  ),
}


def make(*, data_dir: str) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder that holds train/ and val/.

  Raises:
    InputError: the folder or a part of it is missing, the folders of a split
      hold different frames, or the first image cannot be read. The contents of
      every file are checked when it is read.
  """
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not npy_folder.has_images(root):
    raise InputError(
      expected='the NYU-v2 .npy dump: train/image/0.npy, val/image/0.npy ...',
      found='no such folder' if data_dir else 'no folder was named',
      where=f'config.data.data_dir = {data_dir!r}',
      do=_hint(root) + 'download the 288x384 dump (8.4 GB) that the README of '
      'github.com/lorenmt/mtan links to, unpack it, and name the folder that '
      'holds train/ and val/ with --config.data.data_dir=FOLDER. To try '
      'without any download: --config=configs/quickstart.py',
    )
  return npy_folder.open_folder('nyuv2', root, _PARTS)


def _hint(root):
  # The two forms of NYU-v2 are easily taken for each other.
  official = (root / 'nyu_depth_v2_labeled.mat').is_file()
  name = '--config.data.name=nyuv2_mat'
  return f'for the official archive, which is there: {name}; else ' * official


def preview(*, data_dir: str) -> Dataset:
  """The dump as it is known without its files: all labels, 288x384 pixels."""
  del data_dir
  labels = {task: part.label for task, part in _PARTS.items()}
  return Dataset('nyuv2', (288, 384), labels, sources={})
