"""Every config key, its checks, and what is built of them.

config = get_config('quickstart')     # or 'nyuv2:url', '' for the defaults
config = get_config('compare/quickstart')
"""

import importlib
import pkgutil

from ml_collections import ConfigDict

from mtl_kd_jax.config import comparisons, defaults, experiments
from mtl_kd_jax.errors import InputError

__all__ = ['get_config', 'names']

_COMPARE = 'compare/'


def names() -> tuple[str, ...]:
  """The names of the shipped experiments."""
  return _modules(experiments)


def get_config(name: str = '') -> ConfigDict:
  """The config of a shipped experiment or comparison.

  Args:
    name: e.g. 'quickstart', or 'nyuv2:url' for a variant; '' for the defaults;
      'compare/quickstart' for a comparison.

  Raises:
    InputError: there is no such experiment or variant.
  """
  if not name:
    return defaults.get_config()
  file, _, variant = name.partition(':')
  package, known = experiments, names()
  if file.startswith(_COMPARE):
    file = file.removeprefix(_COMPARE)
    package, known = comparisons, _modules(comparisons)
  if file not in known:
    compared = [f'{_COMPARE}{x}' for x in _modules(comparisons)]
    raise InputError(
      expected='a shipped experiment or comparison: '
      f'{", ".join([*names(), *compared])}',
      found=repr(name),
      argument='name',
      do='correct the name',
    )
  module = importlib.import_module(f'{package.__name__}.{file}')
  variants = getattr(module, 'VARIANTS', ())
  if variant and variant not in variants:
    raise InputError(
      expected=f'a variant of {file}: {", ".join(variants) or "none"}',
      found=repr(variant),
      argument='name',
      do='correct the name',
    )
  return module.get_config(*filter(None, [variant]))


def _modules(package) -> tuple[str, ...]:
  return tuple(m.name for m in pkgutil.iter_modules(package.__path__))
