"""The config that a run has stored, with what JSON does not have."""

from collections.abc import Mapping
import json
from typing import Any

from ml_collections import ConfigDict, FieldReference

from mtl_kd_jax.config import defaults
from mtl_kd_jax.config.renames import upgrade
from mtl_kd_jax.errors import InputError


def from_stored(stored: Mapping[str, Any], *, where: str) -> ConfigDict:
  """A config under the keys of this version, with the types of the defaults.

  Keys that are not there, as in an earlier version, are those of the defaults.

  Args:
    stored: nested dictionary, of JSON.
    where: names it in errors.

  Raises:
    InputError: it is no config, or values are of other types.
  """
  if missing := {'data', 'tasks'} - stored.keys():
    raise _unlike(f'none of {", ".join(sorted(missing))}', where)
  typed = defaults.get_config()
  config = typed.copy_and_resolve_references()
  with config.unlocked():
    _keep_open_types(config, typed)
    _update(config, upgrade(stored), where)
  return config


def _keep_open_types(config: ConfigDict, typed: ConfigDict) -> None:
  """Lets keys have values of any type again that may have them.

  A copy gives each the type of its default.
  """
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      _keep_open_types(value, typed[name])
    elif typed.get_type(name) is object:
      del config[name]
      config[name] = FieldReference(value, field_type=object)


def _update(config: ConfigDict, stored: Mapping[str, Any], where: str) -> None:
  for name, value in stored.items():
    known = config[name] if name in config else None
    try:
      if isinstance(known, ConfigDict) and isinstance(value, Mapping):
        _update(known, value, where)
      elif value is None and known is not None:
        raise TypeError('null')
      else:
        config[name] = _with_tuples(value)
    except InputError:
      raise
    except (TypeError, ValueError) as error:
      raise _unlike(f'{name}: {json.dumps(value)[:80]}', where) from error


def _with_tuples(value):
  if isinstance(value, Mapping):
    return {k: _with_tuples(v) for k, v in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _unlike(found: str, where: str) -> InputError:
  return InputError(
    expected='the config of a run, with values of the types of '
    'config/defaults.py',
    found=found,
    where=where,
    do='restore the file; to evaluate, a config may be named instead',
  )
