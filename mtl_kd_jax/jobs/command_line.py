"""Starts a job from the command line, and reports a bad command line."""

from collections.abc import Callable, Iterable, Sequence
import contextlib
import os
import pathlib
import re
from types import ModuleType
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.renames import renamed_key
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.runtime import peers
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.runtime.preemption import Stopped

_RENAMED_JOBS = {'data': 'inspect'}


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
  """Parses the flags; raises `Exit` for wrong ones, and never a traceback.

  Without --config, the flags --config.KEY change the config that the job has
  then, such as that of the run.
  """
  if renamed := explain_renamed(argv):
    raise Exit(2, renamed)
  try:
    with contextlib.suppress(flags.Error):  # they come again
      _change_default_config(argv)
    return app.parse_flags_with_usage(argv)
  except InputError as error:
    raise Exit(2, _explain(error)) from error
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
    folder = _folder(workdir)
    config = _config(job, config, folder)
    with named_by_keys('parallel'):
      set_up(multihost=config.parallel.multihost)
    options = {
      name: flags.FLAGS[name].value for name in getattr(job, 'OPTIONS', ())
    }
    with peers.watched():
      job.run(config, folder or pathlib.Path('runs') / config.name, **options)
  except InputError as error:
    raise Exit(2, _explain(error)) from error
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
    if name == 'job' and value in _RENAMED_JOBS:
      lines.append(f'--job={value} is now --job={_RENAMED_JOBS[value]}')
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


def _explain(error: InputError) -> str:
  of_workdir = error.argument == 'workdir'
  flag = '; on the command line: --workdir=FOLDER' if of_workdir else ''
  return f'error: {error}{flag}'


def _folder(workdir: str | None) -> pathlib.Path | None:
  # Shells expand ~ only at the start of a word.
  return pathlib.Path(os.path.expanduser(workdir)) if workdir else None


def _change_default_config(argv: Sequence[str]) -> None:
  """Makes the config that the job has without --config the value of --config.

  Does nothing where there is a --config, or nothing to change. The config has
  to be known before flags are parsed: ml_collections looks up the types of its
  keys.
  """
  argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
  given = {
    flag.lstrip('-').partition('=')[0]
    for flag in argv[1:]
    if flag.startswith('-')
  }
  changed = any(re.match(r'(no)?config\.', name) for name in given)
  if 'config' in given or not changed:
    return
  early = flags.FlagValues()
  for name in ('job', 'workdir'):
    default = flags.FLAGS[name].default
    flags.DEFINE_string(name, default, '', flag_values=early)
  early.set_gnu_getopt(True)  # what it does not know may have a value
  early(argv, known_only=True)
  if early.job not in JOBS:
    return  # which the flag itself reports
  config = _default_config(JOBS[early.job], _folder(early.workdir))
  delattr(flags.FLAGS, 'config')
  config_flags.DEFINE_config_dict('config', config, sys_argv=argv)


def _default_config(
  job: ModuleType, workdir: pathlib.Path | None
) -> ConfigDict:
  default: Callable[..., Any] = getattr(job, 'default_config', lambda _: None)
  config = default(workdir)
  if config is None:
    raise InputError(
      expected='a config file',
      found='none',
      where='--config',
      do='try python launch.py --config=configs/quickstart.py',
    )
  return config


def _config(
  job: ModuleType, config: Any, workdir: pathlib.Path | None
) -> ConfigDict:
  if config is None:
    config = _default_config(job, workdir)
  if not isinstance(config, ConfigDict):
    # What ml_collections gives for a file it could not open, until it is used.
    raise InputError(
      expected='a config file that can be opened',
      found='none',
      where=f'--config={flags.FLAGS["config"].config_filename}',
      do='see configs/ for those that are shipped',
    )
  return config
