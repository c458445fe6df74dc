"""Every config key, its checks, and what is built of them.

config = get_config('quickstart')     # or 'nyuv2:url', '' for the defaults
"""

import importlib
import pkgutil

from ml_collections import ConfigDict

from mtl_kd_jax.config import defaults, experiments
from mtl_kd_jax.errors import InputError

__all__ = ['get_config', 'names']


def names() -> tuple[str, ...]:
  """The names of the shipped experiments."""
  return tuple(m.name for m in pkgutil.iter_modules(experiments.__path__))


def get_config(name: str = '') -> ConfigDict:
  """The config of a shipped experiment.

  Args:
    name: e.g. 'quickstart', or 'nyuv2:url' for a variant; '' for the defaults.

  Raises:
    InputError: there is no such experiment or variant.
  """
  if not name:
    return defaults.get_config()
  file, _, variant = name.partition(':')
  if file not in names():
    raise InputError(
      expected=f'a shipped experiment: {", ".join(names())}',
      found=repr(file),
      argument='name',
      do='correct the name',
    )
  module = importlib.import_module(f'{experiments.__name__}.{file}')
  variants = getattr(module, 'VARIANTS', ())
  if variant and variant not in variants:
    raise InputError(
      expected=f'a variant of {file}: {", ".join(variants) or "none"}',
      found=repr(variant),
      argument='name',
      do='correct the name',
    )
  return module.get_config(*filter(None, [variant]))
