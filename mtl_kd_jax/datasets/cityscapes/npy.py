"""Cityscapes in the folder layout of the .npy dumps that the literature uses.

  <dir>/{train,val}/{image,label_7,label_19,depth}/<i>.npy

image     float [h w 3] in [0, 1]
label_7   [h w], category 0..6, -1 where ignored
label_19  [h w], class 0..18, -1 where ignored
depth     float [h w 1] or [h w]: not depth but inverse depth, the raw number
          of the official disparity files / 65535, 0 where missing
"""

import pathlib

from mtl_kd_jax.datasets import npy_folder
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.cityscapes import depth as cityscapes_depth
from mtl_kd_jax.datasets.cityscapes.classes import LABELS
from mtl_kd_jax.errors import InputError


def make(*, data_dir: str, classes: int) -> Dataset:
  """Opens the folder.

  Args:
    data_dir: the folder that holds train/ and val/.
    classes: 7 (label_7) or 19 (label_19).

  Raises:
    InputError: as in nyuv2.py, or the classes are neither 7 nor 19.
  """
  parts = _parts(classes)
  root = pathlib.Path(data_dir).expanduser()
  if not data_dir or not npy_folder.has_images(root):
    raise InputError(
      expected='a Cityscapes .npy dump: train/image/0.npy, val/image/0.npy ...',
      found='no such folder' if data_dir else 'no folder was named',
      where=f'config.data.data_dir = {data_dir!r}',
      do='download the 128x256 dump (651 MB) that the README of '
      'github.com/lorenmt/mtan links to, unpack it, and name the folder that '
      'holds train/ and val/ with --config.data.data_dir=FOLDER. To begin with '
      'the official archives: --config=configs/cityscapes.py',
    )
  return npy_folder.open_folder('cityscapes_npy', root, parts)


def preview(*, data_dir: str, classes: int) -> Dataset:
  """The dump as it is known without its files: 128x256 pixels."""
  del data_dir
  labels = {task: part.label for task, part in _parts(classes).items()}
  return Dataset('cityscapes_npy', (128, 256), labels, sources={})


def _parts(classes):
  if classes not in LABELS:
    raise InputError(
      expected='7 or 19',
      found=repr(classes),
      where='config.data.cityscapes_npy.classes',
      do='choose one of them',
    )
  return {
    'semantic': npy_folder.Part(
      f'label_{classes}', LABELS[classes], 0, npy_folder.classes_reader(classes)
    ),
    'depth': npy_folder.Part(
      'depth',
      cityscapes_depth.INVERSE_DEPTH,
      1,
      npy_folder.depth_reader(most=1, unit='inverse depth'),
    ),
  }
