"""Every config key, its checks, and what is built of them.

config = get_config('quickstart')     # or 'nyuv2:url', '' for the defaults
config = get_config('compare/quickstart')
"""

import importlib
import pkgutil

from ml_collections import ConfigDict

from mtl_kd_jax.config import comparisons, experiments
from mtl_kd_jax.errors import InputError, check_type, hint

__all__ = ['get_config', 'names']

_COMPARE = 'compare/'


def names() -> tuple[str, ...]:
  """The names of the shipped experiments and comparisons."""
  compared = [f'{_COMPARE}{name}' for name in _modules(comparisons)]
  return (*_modules(experiments), *compared)


def get_config(name: str = '') -> ConfigDict:
  """The config of a shipped experiment or comparison.

  Args:
    name: e.g. 'quickstart', or 'nyuv2:url' for a variant; '' for the defaults;
      'compare/quickstart' for a comparison.

  Raises:
    InputError: there is no such experiment or variant.
  """
  if not name:
    # Only now: it imports JAX, and names of files need no defaults.
    from mtl_kd_jax.config import defaults

    return defaults.get_config()
  check_type(
    name,
    str,
    expected=f'the name of an experiment: {", ".join(names())}',
    argument='name',
    do="give one, such as 'quickstart'",
  )
  file, _, variant = name.partition(':')
  if file not in names():
    stem = file.removeprefix('configs/').removesuffix('.py')
    raise InputError(
      expected=f'a shipped experiment or comparison: {", ".join(names())}',
      found=repr(name),
      argument='name',
      do=f'correct the name{hint(stem, names())}',
    )
  package = comparisons if file.startswith(_COMPARE) else experiments
  stem = file.removeprefix(_COMPARE)
  module = importlib.import_module(f'{package.__name__}.{stem}')
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
