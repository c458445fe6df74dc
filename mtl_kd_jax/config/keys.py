"""From arguments to the config keys that they came from, in messages."""

from collections.abc import Iterator, Mapping
import contextlib

from mtl_kd_jax.errors import InputError


@contextlib.contextmanager
def named_by_keys(
  section: str = '', keys: Mapping[str, str] | None = None
) -> Iterator[None]:
  """Errors about arguments are raised anew, about config keys.

  Below config/ and jobs/ nothing knows that there is a config: functions say
  which of their arguments is at fault.

  Args:
    section: of the config, e.g. 'optim'; '' for its top. An argument is the key
      of its name in there ...
    keys: ... but for those that are named here: argument -> key, from the top
      of the config. An argument in parts ('preference.depth') may be named by
      its first part.

  Raises:
    InputError: as the block does.
  """
  try:
    yield
  except InputError as error:
    if not error.argument or error.where.startswith('config.'):
      raise
    key = f'config.{_key(error.argument, section, keys or {})}'
    place = error.where
    beside = '' if place == f'argument {error.argument}' else f' ({place})'
    raise InputError(
      expected=error.expected,
      found=error.found,
      where=f'{key}{beside}',
      do=f'{error.do}; on the command line: --{key}=...',
      argument=error.argument,
    ) from error


def _key(argument, section, keys) -> str:
  if argument in keys:
    return keys[argument]
  first, _, rest = argument.partition('.')
  if first in keys:
    return '.'.join(filter(None, (keys[first], rest)))
  return '.'.join(filter(None, (section, argument)))
