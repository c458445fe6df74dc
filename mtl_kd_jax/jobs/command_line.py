"""What is said of a command line that cannot be parsed."""

from collections.abc import Sequence
import re

from mtl_kd_jax.config.renames import renamed_key

_JOBS = {'data': 'inspect'}  # former names


def explain_renamed(argv: Sequence[str]) -> str:
  """A message where the command line has names of earlier versions, or ''."""
  lines = []
  for flag in argv:
    name, _, value = flag.lstrip('-').partition('=')
    new = renamed_key(name.removeprefix('config.'))
    if name.startswith('config.') and new:
      lines.append(f'--{name} is now --config.{new}')
    if name == 'job' and value in _JOBS:
      lines.append(f'--job={value} is now --job={_JOBS[value]}')
  return '\n  '.join(
    ['error: names of an earlier version', *lines] if lines else []
  )


def explain_bad_flags(error: Exception) -> str:
  """A message for an error of absl or ml_collections.

  Args:
    error: what parsing the command line raised, or running the config file.
  """
  # ml_collections quotes itself, and lists the whole config in between.
  reason = str(error).replace('\\n', ' ').replace('\n', ' ').replace("\\'", "'")
  reason = re.sub(r'Other fields present:.*?(?=Did you mean|$)', '', reason)
  message = f'error: expected flags and config keys that exist\n  {reason}'
  for key in re.findall(r'"(\w+)"', reason)[:1]:
    if new := renamed_key(key):
      message += f'\n  to do:  {key} is now config.{new}'
  return message
