"""The datasets, by name.

To add one: a module, a line in `DATASETS`, and a section of its options in
`config/defaults.py`. A file of this folder needs no line; its name is that of
the dataset. The module has two functions. `make(*, ...)` opens the
dataset; every option has a default. `preview(*, ...)` takes some of the same
options and returns what is known without opening anything: labels and image
size, and no splits.
"""

import dataclasses
import importlib
import importlib.util
from inspect import (  # the name `inspect` is that of a subpackage
  Parameter,
  signature,
)
from types import ModuleType
from typing import Any

from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.errors import InputError, check_type, hint
from mtl_kd_jax.labels import Label

__all__ = [
  'DATASETS',
  'Dataset',
  'Label',
  'Sample',
  'Source',
  'make',
  'options',
  'preview',
]

# name -> module, imported on first use: some need TFDS, h5py or SciPy.
DATASETS = {
  'scenes': 'mtl_kd_jax.datasets.scenes.dataset',
  'nyuv2': 'mtl_kd_jax.datasets.nyuv2.npy',
  'nyuv2_mat': 'mtl_kd_jax.datasets.nyuv2.mat',
  'cityscapes': 'mtl_kd_jax.datasets.cityscapes.dataset',
  'cityscapes_npy': 'mtl_kd_jax.datasets.cityscapes.npy',
  'pascal_context': 'mtl_kd_jax.datasets.pascal_context',
  'taskonomy': 'mtl_kd_jax.datasets.taskonomy',
  'svhn': 'mtl_kd_jax.datasets.svhn',
  'omniglot': 'mtl_kd_jax.datasets.omniglot',
  'folder': 'mtl_kd_jax.datasets.folder.dataset',
}


def make(name: str, **options: Any) -> Dataset:
  """Opens a dataset.

  Nothing is ever downloaded. 'scenes' and 'cityscapes' are prepared on disk the
  first time that they are opened.

  Args:
    name: a key of `DATASETS`.
    **options: those of the dataset's own `make`; `options(name)` lists them
      with their defaults.

  Raises:
    InputError: the name or an option is unknown, an option cannot be used, or
      the data are missing or damaged.
  """
  module = _module(name)
  _check_known(name, options)
  return dataclasses.replace(module.make(**options), options=options)


def preview(name: str, **options: Any) -> Dataset:
  """Describes a dataset without opening it: no files are read.

  Args:
    name: as in `make`.
    **options: as in `make`.

  Returns:
    A dataset with labels and image size, and without splits.

  Raises:
    InputError: the name or an option is unknown or cannot be used.
  """
  module = _module(name)
  _check_known(name, options)
  used = signature(module.preview).parameters
  return module.preview(**{k: v for k, v in options.items() if k in used})


def options(name: str) -> dict[str, Any]:
  """The options of a dataset with their defaults.

  Raises:
    InputError: the name is unknown.
  """
  parameters = signature(_module(name).make).parameters
  return {
    key: parameter.default
    for key, parameter in parameters.items()
    if parameter.kind != Parameter.VAR_KEYWORD
  }


def _module(name: str) -> ModuleType:
  check_type(
    name,
    str,
    expected=f'the name of a dataset: {", ".join(DATASETS)}',
    argument='name',
    do="give one; folders are options of it, such as data_dir='...'",
  )
  module = DATASETS.get(name) or _own(name)
  if module is None:
    raise InputError(
      expected=f'a known dataset: {", ".join(DATASETS)}',
      found=repr(name),
      argument='name',
      do=f'correct the name{hint(name, DATASETS)}, or add the dataset '
      '(docs/extending.md)',
    )
  return importlib.import_module(module)


def _own(name: str) -> str | None:
  """The module of this folder that is named as a dataset and makes one."""
  module = f'{__package__}.{name}'
  if not name.isidentifier() or importlib.util.find_spec(module) is None:
    return None
  found = importlib.import_module(module)
  makes_one = hasattr(found, 'make') and hasattr(found, 'preview')
  return module if makes_one else None


def _check_known(name, given) -> None:
  kinds = [p.kind for p in signature(_module(name).make).parameters.values()]
  if Parameter.VAR_KEYWORD in kinds:
    return  # its `make` accepts any
  known = options(name)
  for key in given:
    if key not in known:
      raise InputError(
        expected=f'an option of {name}: {", ".join(known)}',
        found=repr(key),
        argument=key,
        do='correct the name of the option, or leave it out',
      )
