"""A workdir belongs to one config, which is written down in it."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.metric_writer import write_atomically

_CONFIG = 'config.json'
# What may change between two runs of one experiment: it moves or shows the
# work, and has no influence on the result.
_FREE = (
  'name',
  'checkpoint.',
  'report.',
  'balancing.observe_every',
  'parallel.',
  'data.data_dir',
  'data.workers',
  'data.check',
)
# Its keys are tasks: a config has those that it needs.
_BY_TASK = 'distill.weights.'


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Writes the config into the workdir, or checks that it is the same.

  Args:
    workdir: made when it does not exist.
    config: nested dictionary.

  Raises:
    InputError: the workdir belongs to another config, or cannot be written to.
  """
  if (workdir / _CONFIG).exists():
    differing = _differences(read_config(workdir), config)
    if differing:
      raise InputError(
        expected='the config that this workdir was begun with',
        found='; '.join(differing),
        where=f'{workdir / _CONFIG}',
        do='choose another folder with --workdir=FOLDER, or give the old '
        'values to go on with this one',
      )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(config), indent=2, sort_keys=True)
    write_atomically(workdir / _CONFIG, text)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'--workdir={workdir}',
      do='choose another with --workdir=FOLDER',
    ) from error


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The config of a workdir, as a nested dictionary.

  Raises:
    InputError: it is no workdir, or its config cannot be read.
  """
  try:
    config = json.loads((workdir / _CONFIG).read_text(encoding='utf-8'))
    if not isinstance(config, dict):
      raise ValueError(f'{_CONFIG} holds no config')
    return config
  except (OSError, ValueError) as error:
    raise InputError(
      expected='the workdir of an earlier run',
      found=f'{error}',
      where=f'--workdir={workdir}',
      do='train first: python launch.py --config=... --workdir=FOLDER',
    ) from error


def check_complete(
  config: Mapping[str, Any], every_key: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """Refuses the config of a workdir that an older version has written.

  Args:
    config: of the workdir, a nested dictionary.
    every_key: a config with all keys there are.
    workdir: where it stands.

  Raises:
    InputError: keys are missing.
  """
  missing = list(_missing(every_key, config))
  if missing:
    raise InputError(
      expected='a config with all keys of this version',
      found=f'none of {", ".join(missing)}',
      where=f'{workdir / _CONFIG}',
      do='an older version wrote it: name the config file that the run was '
      'made with, and what was changed, with --config=FILE --config.KEY=...',
    )


def _missing(every_key, config, prefix=''):
  for name, value in every_key.items():
    key = f'{prefix}{name}'
    if name not in config:
      if not key.startswith(_BY_TASK):
        yield key
    elif isinstance(value, Mapping) and isinstance(config[name], Mapping):
      yield from _missing(value, config[name], f'{key}.')


def _differences(old, new) -> list[str]:
  old, new = _flat(_plain(old)), _flat(_plain(new))
  return [
    f'{key} was {_value(old, key)} and is {_value(new, key)}'
    for key in sorted(old.keys() | new.keys())
    if not _is_free(key) and _value(old, key) != _value(new, key)
  ]


def _value(flat, key) -> str:
  return repr(flat[key]) if key in flat else 'absent'


def _is_free(key) -> bool:
  return any(key == f or (f[-1] == '.' and key.startswith(f)) for f in _FREE)


def _plain(config):
  return json.loads(json.dumps(config))  # tuples become lists, as when read


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix[:-1]: tree}
  return {
    k: v
    for name, sub in tree.items()
    for k, v in _flat(sub, f'{prefix}{name}.').items()
  }
