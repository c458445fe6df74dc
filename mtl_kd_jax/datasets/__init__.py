"""The datasets, by name. To add one: a file, and a line here.

Its `make` takes `data_dir` and the keys of `config.data.<name>`, and returns an
opened `Dataset`. Its `preview` takes the same and returns what can be said
without opening anything: labels and image size, and no splits.
"""

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.cityscapes import dataset as cityscapes
from mtl_kd_jax.datasets.cityscapes import npy as cityscapes_npy
from mtl_kd_jax.datasets.folder import dataset as folder
from mtl_kd_jax.datasets.nyuv2 import mat as nyuv2_mat
from mtl_kd_jax.datasets.nyuv2 import npy as nyuv2
from mtl_kd_jax.datasets.scenes import dataset as scenes
from mtl_kd_jax.errors import InputError

DATASETS = {
  'scenes': scenes,
  'nyuv2': nyuv2,
  'cityscapes': cityscapes,
  'cityscapes_npy': cityscapes_npy,
  'nyuv2_mat': nyuv2_mat,
  'folder': folder,
}


def make_dataset(name: str, **options) -> Dataset:
  """Opens a dataset; raises InputError when the name is unknown."""
  return _module(name).make(**options)


def preview_dataset(name: str, **options) -> Dataset:
  """What is known of a dataset unopened; InputError for an unknown name."""
  return _module(name).preview(**options)


def _module(name):
  if name not in DATASETS:
    raise InputError(
      expected=f'a known dataset: {", ".join(DATASETS)}',
      found=repr(name),
      where='config.data.name',
      do='correct the name, or add the dataset (README, "Adding a dataset")',
    )
  return DATASETS[name]
