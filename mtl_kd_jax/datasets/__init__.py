"""The datasets, by name. To add one: a file with `make(...)`, a line here.

`make` takes `data_dir` and the keys of `config.data.<name>`, and returns an
opened `Dataset`.
"""

from mtl_kd_jax.datasets import nyuv2, scenes
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.errors import InputError

DATASETS = {'scenes': scenes.make, 'nyuv2': nyuv2.make}


def make_dataset(name: str, **options) -> Dataset:
  """Opens a dataset; raises InputError when the name is unknown."""
  if name not in DATASETS:
    raise InputError(
      expected=f'a known dataset: {", ".join(DATASETS)}',
      found=repr(name),
      where='config.data.name',
      do='correct the name, or add the dataset (README, "Adding a dataset")',
    )
  return DATASETS[name](**options)
