"""Reads the command line, and reports a bad one.

Nothing here imports JAX.
"""

from collections.abc import Sequence
import copy
import importlib.metadata
import pathlib
import platform
import re

from absl import flags
from ml_collections import ConfigDict, config_flags

from mtl_kd_jax import __version__
from mtl_kd_jax.config.from_file import from_file, new_name_of, reason_of
from mtl_kd_jax.config.renames import renamed_key
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import JOBS, Job

_KEY = re.compile(r'--?(no)?config\.')
_ASSIGNED = re.compile(r'--?(config\.[^=]+)=')
# Those whose versions a report of a problem should have.
_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


class Exit(Exception):
  """The process is to end with a message.

  Attributes:
    code: the exit code.
  """

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags; raises `Exit` for wrong ones, and never a traceback.

  Without --config, the flags --config.KEY change the config that the job has
  then, such as that of the run.
  """
  if renamed := explain_renamed(argv):
    raise Exit(2, renamed)
  try:
    argv = _last_of_each_key(_with_flag_files(argv))
    _check_other_flags(argv)
    return flags.FLAGS(_define_config(argv))
  except InputError as error:
    raise Exit(2, explain(error)) from error
  except (
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    flags.Error,
  ) as error:
    raise Exit(2, explain_bad_flags(error)) from error


def versions() -> str:
  """What is installed, as a report of a problem should have it."""
  found = [f'mtl_kd_jax {__version__}', f'python {platform.python_version()}']
  for name in _LIBRARIES:
    found.append(f'{name} {importlib.metadata.version(name)}')
  return '\n'.join([*found, platform.platform()])


def explain_renamed(argv: Sequence[str]) -> str:
  """A message where the command line has names of earlier versions, or ''."""
  lines = []
  for flag in argv:
    name = flag.lstrip('-').partition('=')[0]
    new = renamed_key(name.removeprefix('config.'))
    if name.startswith('config.') and new:
      lines.append(f'--{name} is now --config.{new}')
  head = ['error: names of an earlier version'] if lines else []
  return '\n  '.join(head + lines)


def explain_bad_flags(error: Exception) -> str:
  """A message for an error of absl or ml_collections.

  Args:
    error: what parsing the command line raised.
  """
  reason = reason_of(error)
  do = (
    new_name_of(reason)
    or '--helpfull lists the flags, config/defaults.py the keys'
  )
  return (
    'error: expected flags and config keys that exist, with values of their '
    f'types\n  found:  {reason}\n  where:  the command line\n  to do:  {do}'
  )


def explain(error: InputError) -> str:
  """A message for an error of the user."""
  by_key = error.where.startswith('config.')  # config.teacher.workdir
  of_workdir = error.argument == 'workdir' and not by_key
  flag = '; on the command line: --workdir=FOLDER' if of_workdir else ''
  return f'error: {error}{flag}'


def folder_of(workdir: str | None) -> pathlib.Path | None:
  """The folder that --workdir names; None without the flag.

  Raises:
    InputError: no folder can have this name.
  """
  if workdir is None:
    return None
  if not workdir:  # a variable of a script that is not set
    raise InputError(
      expected='the name of a folder',
      found='an empty one',
      argument='workdir',
      do='name one; without the flag, it is runs/<config.name>',
    )
  # Shells expand ~ only at the start of a word.
  return paths.expand(workdir, argument='workdir')


def _last_of_each_key(argv: Sequence[str]) -> list[str]:
  """The command line, without what is said again of a key further on.

  As of other flags, the last value counts, such as the one beside a flag file.
  The entries of tuples would be joined.
  """
  keys = [(_ASSIGNED.match(flag) or ('', ''))[1] for flag in argv]
  last = {key: i for i, key in enumerate(keys)}
  return [
    flag
    for i, (flag, key) in enumerate(zip(argv, keys, strict=True))
    if not key or last[key] == i
  ]


def _with_flag_files(argv: Sequence[str]) -> list[str]:
  """The command line, with what the files of --flagfile=FILE have in them."""
  try:
    return flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
  except (OSError, ValueError, flags.Error) as error:
    raise InputError(
      expected='a text file with a flag in every line',
      found=reason_of(error).removeprefix('ERROR:: '),
      where='--flagfile',
      do='correct the file, or its name',
    ) from error


def _check_other_flags(argv: Sequence[str]) -> None:
  """Raises what is wrong about flags that are no keys of the config.

  The config has to be made before all flags are parsed, and imports JAX.
  """
  others, previous = [], ''
  for flag in argv:
    # The word after a key without = may be its value, such as -1.
    if not _KEY.match(flag) and ('=' in previous or not _KEY.match(previous)):
      others.append(flag)
    previous = flag
  copy.deepcopy(flags.FLAGS)(others)


def _define_config(argv: Sequence[str]) -> list[str]:
  """Makes the config the value of --config, so that flags can change its keys.

  It has to be known before other flags are parsed: ml_collections looks up the
  types of its keys. Without --config, it is the one that the job has then.

  Returns:
    The command line without --config.
  """
  (name,), rest = _parse_early(argv, 'config')
  if name is not None:
    config = from_file(name)
  elif any(map(_KEY.match, rest)):
    (job, workdir), _ = _parse_early(rest, 'job', 'workdir')
    if job not in JOBS:
      return rest  # which the flag itself reports
    config = default_config(JOBS[job], folder_of(workdir))
  else:
    return rest
  delattr(flags.FLAGS, 'config')
  config_flags.DEFINE_config_dict('config', config, sys_argv=rest)
  return rest


def _parse_early(argv: Sequence[str], *names: str) -> tuple[list, list[str]]:
  """The values of some flags, and the command line without them."""
  early = flags.FlagValues()
  for name in names:
    default = flags.FLAGS[name].default
    flags.DEFINE_string(name, default, '', flag_values=early)
  early.set_gnu_getopt(True)  # what it does not know may have a value
  rest = early(argv, known_only=True)
  return [early[name].value for name in names], rest


def default_config(job: Job, workdir: pathlib.Path | None) -> ConfigDict:
  """The config that a job has without --config.

  Raises:
    InputError: it has none.
  """
  config = None if job.needs_config else job.module().default_config(workdir)
  if config is None:
    raise InputError(
      expected='a config file',
      found='none',
      where='--config',
      do='try python launch.py --config=configs/quickstart.py',
    )
  return config


def check_has_config(job: Job, config: ConfigDict | None) -> None:
  """Raises `Exit` for a job that needs --config and does not have it."""
  if config is None and job.needs_config:
    try:
      default_config(job, None)
    except InputError as error:
      raise Exit(2, explain(error)) from error
