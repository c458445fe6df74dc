"""Runs a job, and reports how it ended."""

import errno
import os
import pathlib
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict

from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.validate import check_keys
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.jobs import Job
from mtl_kd_jax.jobs.parsing import Exit, default_config, explain, folder_of
from mtl_kd_jax.runtime import buckets, peers
from mtl_kd_jax.runtime.host_log import host_log
from mtl_kd_jax.runtime.hosts import check_same
from mtl_kd_jax.runtime.platform import set_up
from mtl_kd_jax.runtime.preemption import Stopped

# Of a disk, a quota and a largest size of files.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_job(job: Job, config: Any, workdir: str | None) -> None:
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
    folder = folder_of(workdir)
    if config is None:
      config = default_config(job, folder)
    module = job.module()
    experiment_of = getattr(module, 'experiment_of', lambda config: config)
    experiment = experiment_of(config)
    check_keys(experiment)
    multihost = experiment.parallel.multihost
    if multihost is None and not getattr(module, 'JOINS_HOSTS', False):
      multihost = False
    with named_by_keys('parallel'):
      set_up(multihost=multihost)
    options = {name: flags.FLAGS[name].value for name in job.options}
    folder = folder or _named_folder(config.name)
    with peers.watched(), host_log(folder):
      with named_by_keys('parallel'):
        check_same(_described(job, config, folder, options))
      module.run(config, folder, **options)
  except InputError as error:
    raise Exit(2, explain(error)) from error
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


def _described(job, config, folder, options) -> dict[str, Any]:
  """What should be the same on all hosts."""
  flat = flatten_dict(config.to_dict(), sep='.')
  return {
    '--job': job.file,
    '--workdir': f'{folder}',
    **{f'--{name}': value for name, value in options.items()},
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
