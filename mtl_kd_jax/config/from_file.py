"""The config of a Python file, whatever is in the file, or a shipped one."""

import importlib.machinery
import importlib.util
import pathlib
import re
import traceback
from types import ModuleType

from ml_collections import ConfigDict

from mtl_kd_jax.config import get_config, names
from mtl_kd_jax.config.renames import renamed_key
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError

_LONGEST = 400  # characters of a message


def from_file(name: str) -> ConfigDict:
  """What the function `get_config` of a Python file returns, locked.

  Args:
    name: of the file; after a colon, the argument of `get_config`:
      'configs/nyuv2.py:url'. Where there is no such file, of a shipped
      experiment: 'nyuv2:url'.

  Raises:
    InputError: there is no such file, it fails, or it gives no config.
  """
  file, _, variant = name.partition(':')
  path = paths.local(file, argument='config', kind='file')
  if found := paths.why_no_file(path):
    if file in names():
      return get_config(name).lock()
    raise _no_config(
      found if file else 'an empty name',
      file,
      f'correct the name, or use a shipped one: {", ".join(names())}',
    )
  try:
    module = _run(path)
    config = module.get_config(*filter(None, [variant]))
  except InputError:
    raise
  except (Exception, SystemExit) as error:
    found, line, do = _explain(error, path)
    if variant and not line:
      do = f'{do}, or {variant!r} after the colon'
    raise _no_config(found, f'{file}{line}', do) from error
  if not isinstance(config, ConfigDict):
    raise _no_config(
      f'get_config() returned {type(config).__name__}',
      file,
      'return the config: its last line is `return config`',
    )
  return config.lock()


def _run(path: pathlib.Path) -> ModuleType:
  # Of any name: configs may end in .txt.
  loader = importlib.machinery.SourceFileLoader('config_file', str(path))
  spec = importlib.util.spec_from_loader(loader.name, loader)
  module = importlib.util.module_from_spec(spec)
  loader.exec_module(module)
  return module


def _explain(error: BaseException, path: pathlib.Path) -> tuple[str, str, str]:
  """What went wrong, in which line (as text), and what to do about it."""
  reason = reason_of(error)
  found = f'{type(error).__name__}: {reason}'.removesuffix(': ')
  lines = [
    f', line {frame.lineno}'
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path)
  ]
  do = new_name_of(reason) or 'correct the file'
  return found, (lines or [''])[-1], do


def reason_of(error: BaseException) -> str:
  """The message of an error, in one line, without what fills a screen."""
  # ml_collections quotes itself, and lists the whole config in between.
  text = f'{error}'.replace('\\n', ' ').replace("\\'", "'")
  text = re.sub(
    r'Other fields present:.*?(?=Did you mean|$)', '', text, flags=re.DOTALL
  )
  text = ' '.join(text.split())
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]} ...'


def new_name_of(reason: str) -> str:
  """What to do where a message quotes a key of an earlier version, or ''."""
  for key in re.findall(r'"(\w+)"', reason)[:1]:
    if new := renamed_key(key):
      return f'{key} is now config.{new}'
  return ''


def _no_config(found: str, where: str, do: str) -> InputError:
  return InputError(
    expected='a config file: Python, with a function get_config()',
    found=found,
    where=f'--config={where}',
    argument='config',
    do=do,
  )
