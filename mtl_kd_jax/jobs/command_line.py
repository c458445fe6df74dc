"""Starts a job from the command line, and reports a bad command line."""

from collections.abc import Callable, Iterable, Sequence
import os
import pathlib
import re
from types import ModuleType
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.renames import renamed_key
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.runtime import peers
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.runtime.preemption import Stopped

_JOBS = {'data': 'inspect'}  # former names


class Exit(Exception):
  """The process is to end with a message.

  Attributes:
    code: the exit code.
  """

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


def define_flags(jobs: Iterable[ModuleType]) -> None:
  """Defines the flags that belong to single jobs."""
  for job in jobs:
    if hasattr(job, 'define_flags'):
      job.define_flags()


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags; raises `Exit` for wrong ones, and never a traceback."""
  if renamed := explain_renamed(argv):
    raise Exit(2, renamed)
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    raise Exit(2, explain_bad_flags(error)) from error


def run_job(job: ModuleType, config: Any, workdir: str | None) -> None:
  """Runs a job.

  Args:
    job: of `JOBS`.
    config: value of the flag --config.
    workdir: value of the flag --workdir, with ~ for the home directory; None
      for runs/<config.name>.

  Raises:
    Exit: it ended early through no fault of the code.
  """
  again = 'run the same command again to continue'
  try:
    # Shells expand ~ only at the start of a word.
    folder = pathlib.Path(os.path.expanduser(workdir)) if workdir else None
    config = _config(job, config, folder)
    with named_by_keys('parallel'):
      set_up(multihost=config.parallel.multihost)
    options = {
      name: flags.FLAGS[name].value for name in getattr(job, 'OPTIONS', ())
    }
    with peers.watched():
      job.run(config, folder or pathlib.Path('runs') / config.name, **options)
  except InputError as error:
    of_workdir = error.argument == 'workdir'
    flag = '; on the command line: --workdir=FOLDER' if of_workdir else ''
    raise Exit(2, f'error: {error}{flag}') from error
  except NotFiniteError as error:
    raise Exit(3, f'error: {error}') from error
  except Stopped as error:
    raise Exit(128 + error.signum, f'{error}; {again}') from error
  except KeyboardInterrupt as error:
    raise Exit(130, f'interrupted; {again}') from error


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
  head = ['error: names of an earlier version'] if lines else []
  return '\n  '.join(head + lines)


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


def _config(
  job: ModuleType, config: Any, workdir: pathlib.Path | None
) -> ConfigDict:
  default: Callable[..., Any] = getattr(job, 'default_config', lambda _: None)
  if config is None:
    config = default(workdir)
  if config is None:
    raise InputError(
      expected='a config file',
      found='none',
      where='--config',
      do='try python launch.py --config=configs/quickstart.py',
    )
  if not isinstance(config, ConfigDict):
    # What ml_collections gives for a file it could not open, until it is used.
    raise InputError(
      expected='a config file that can be opened',
      found='none',
      where=f'--config={flags.FLAGS["config"].config_filename}',
      do='see configs/ for those that are shipped',
    )
  return config
