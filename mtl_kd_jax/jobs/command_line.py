"""Starts a job from the command line, and reports a bad command line."""

from collections.abc import Callable, Iterable, Sequence
import errno
import os
import pathlib
import re
from types import ModuleType
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from mtl_kd_jax.config.from_file import from_file, new_name_of, reason_of
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.renames import renamed_key
from mtl_kd_jax.config.validate import check_keys
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.runtime import buckets, peers
from mtl_kd_jax.runtime.host_log import host_log
from mtl_kd_jax.runtime.hosts import check_same
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.runtime.preemption import Stopped

# Of a disk, a quota and a largest size of files.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
    return flags.FLAGS(_define_config(_with_flag_files(argv)))
  except InputError as error:
    raise Exit(2, _explain(error)) from error
  except (
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    flags.Error,
  ) as error:
    raise Exit(2, explain_bad_flags(error)) from error


def run_job(job: ModuleType, config: Any, workdir: str | None) -> None:
  """Runs a job.

  Args:
    job: of `JOBS`.
    config: the value of the flag --config, after `parse_flags`.
    workdir: the value of the flag --workdir, with ~ for the home directory;
      None for runs/<config.name>.

  Raises:
    Exit: it ended early through no fault of the code.
  """
  again = 'run the same command again to continue'
  try:
    folder = _folder(workdir)
    if config is None:
      config = _default_config(job, folder)
    experiment = getattr(job, 'experiment_of', lambda config: config)(config)
    check_keys(experiment)
    multihost = experiment.parallel.multihost
    if multihost is None and not getattr(job, 'JOINS_HOSTS', False):
      multihost = False
    with named_by_keys('parallel'):
      set_up(multihost=multihost)
    options = {
      name: flags.FLAGS[name].value for name in getattr(job, 'OPTIONS', ())
    }
    folder = folder or _named_folder(config.name)
    with peers.watched(), host_log(folder):
      with named_by_keys('parallel'):
        check_same(_described(job, config, folder))
      job.run(config, folder, **options)
  except InputError as error:
    raise Exit(2, _explain(error)) from error
  except NotFiniteError as error:
    raise Exit(3, f'error: {error}') from error
  except Stopped as error:
    raise Exit(128 + error.signum, f'{error}; {again}') from error
  except KeyboardInterrupt as error:
    raise Exit(130, f'interrupted; {again}') from error
  except Exception as error:
    if buckets.is_of_bucket(error):
      raise Exit(
        2,
        'error: expected a bucket that can be reached, with permission\n'
        f'  found:  {type(error).__name__}: {error}\n  to do:  see whether it '
        f'can be reached; what was saved before is intact: {again}',
      ) from error
    if not (problem := _failed_write(error)):
      raise
    raise Exit(
      2,
      'error: expected a disk that can be written to, with space left\n'
      f'  found:  {problem}\n  to do:  make room; what was saved before is '
      f'intact: {again}',
    ) from error


def _described(job, config, folder) -> dict[str, Any]:
  """What should be the same on all hosts."""
  flat = flatten_dict(config.to_dict(), sep='.')
  return {
    '--job': getattr(job, '__name__', '').rpartition('.')[2],
    '--workdir': f'{folder}',
    **{f'config.{key}': value for key, value in flat.items()},
  }


def _failed_write(error: BaseException | None) -> str:
  """What the system says of a full disk in an error or its causes, or ''."""
  while error is not None:
    for text in map(os.strerror, _NO_SPACE):
      if text in f'{error}':  # also in what libraries make of it
        return text
    error = error.__cause__ or error.__context__
  return ''


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
    error: what parsing the command line raised.
  """
  reason = reason_of(error)
  do = (
    new_name_of(reason)
    or '--helpfull lists the flags, config/defaults.py the keys'
  )
  return (
    'error: expected flags and config keys that exist, with values of their '
    f'types\n  found:  {reason}\n  to do:  {do}'
  )


def _explain(error: InputError) -> str:
  by_key = error.where.startswith('config.')  # config.teacher.workdir
  of_workdir = error.argument == 'workdir' and not by_key
  flag = '; on the command line: --workdir=FOLDER' if of_workdir else ''
  return f'error: {error}{flag}'


def _folder(workdir: str | None) -> pathlib.Path | None:
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


def _named_folder(name: str) -> pathlib.Path:
  """runs/<config.name>."""
  with named_by_keys():
    if name in ('', '..') or name != pathlib.Path(name).name:
      raise InputError(
        expected='a name that can be that of a folder in runs/',
        found=repr(name),
        argument='name',
        do='correct it, or name the folder with --workdir=FOLDER',
      )
    return paths.expand(pathlib.Path('runs', name), argument='name')


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
  elif any(re.match(r'--?(no)?config\.', flag) for flag in rest):
    (job, workdir), _ = _parse_early(rest, 'job', 'workdir')
    if job not in JOBS:
      return rest  # which the flag itself reports
    config = _default_config(JOBS[job], _folder(workdir))
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
