"""Sets keys of a config by their names with dots."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mtl_kd_jax.errors import InputError

# Sections by task, which have no keys of their own: they are set as a whole.
_FREE_SECTIONS = ('data.sets', 'distill.weights', 'task')


def override(
  config: ConfigDict, settings: Mapping[str, Any], *, argument: str
) -> None:
  """Sets keys; of a section only those that are given.

  Args:
    config: is changed.
    settings: {'data.flip': True, 'optim': {'learning_rate': 1e-3}}
    argument: names the settings in errors.

  Raises:
    InputError: there is no such key, or its value has another type.
  """
  for key, value in settings.items():
    if isinstance(value, np.generic):  # as numbers of NumPy are
      value = value.item()
    *path, last = str(key).split('.')
    section = config
    for part in path:
      section = section[part] if part in section else None
      if not isinstance(section, ConfigDict):
        break
    if not isinstance(section, ConfigDict) or last not in section:
      raise InputError(
        expected='a key of the config (config/defaults.py)',
        found=repr(key),
        argument=argument,
        do='correct the name',
      )
    try:
      if value is None and section[last] is not None:
        raise TypeError  # ConfigDict takes None for any type
      if key in _FREE_SECTIONS:
        with section.unlocked():
          section[last] = ConfigDict(dict(value))
      elif isinstance(section[last], ConfigDict):
        inner = {f'{key}.{name}': v for name, v in dict(value).items()}
        override(config, inner, argument=argument)
      else:
        section[last] = value
    except (TypeError, ValueError) as error:
      if isinstance(error, InputError):
        raise
      raise InputError(
        expected=f'{key} of the type {type(section[last]).__name__}',
        found=repr(value),
        argument=argument,
        do='correct the value',
      ) from error
