"""Starts a job: python launch.py --config=configs/quickstart.py.

--workdir names the folder of the run (default runs/<config.name>), --job what
to do in it:

train     (default) continues where an earlier run ended
evaluate  scores the finished networks of a run again, on --split
import    makes networks of a run from PyTorch weights: --torch, --network
taps      lists the features of the networks, and which are aligned
inspect   says what is in the data, draws some, and warns of what looks wrong

Any config key can be changed: --config.epochs=3
"""

import os
import pathlib
import sys
import warnings

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.jobs.command_line import explain_bad_flags, explain_renamed
from mtl_kd_jax.runtime.platform import keep_freed_memory
from mtl_kd_jax.runtime.preemption import Stopped

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, see configs/.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config.name>.')
_JOB = flags.DEFINE_enum('job', 'train', list(JOBS), 'What to run.')


def main(argv: list[str]) -> None:
  """Runs the job and turns expected failures into messages and exit codes."""
  try:
    _run(argv)
  except InputError as error:
    _exit(2, f'error: {error}')
  except NotFiniteError as error:
    _exit(3, f'error: {error}')
  except Stopped as error:
    again = 'run the same command again to continue'
    _exit(128 + error.signum, f'{error}; {again}')
  except KeyboardInterrupt:
    _exit(130, 'interrupted; run the same command again to continue')


def _run(argv):
  if len(argv) > 1:
    raise InputError(
      expected='flags only',
      found=' '.join(argv[1:]),
      where='the command line',
      do='see python launch.py --help',
    )
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # orbax tells a lot at INFO
  job = JOBS[_JOB.value]
  workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
  config = _config(job, workdir)
  _set_up_jax(config)
  options = {name: flags.FLAGS[name].value for name in _options(job)}
  job.run(config, workdir or pathlib.Path('runs') / config.name, **options)


def _config(job, workdir) -> ConfigDict:
  config = _CONFIG.value
  if config is None and hasattr(job, 'default_config'):
    config = job.default_config(workdir)
  if isinstance(config, ConfigDict):
    return config
  if config is None:
    raise InputError(
      expected='a config file',
      found='none',
      where='--config',
      do='try python launch.py --config=configs/quickstart.py',
    )
  # What ml_collections gives for a file it could not open, until it is used.
  raise InputError(
    expected='a config file that can be opened',
    found='none',
    where=f'--config={flags.FLAGS["config"].config_filename}',
    do='see configs/ for those that are shipped',
  )


def _set_up_jax(config):
  # Compiled programs are kept between runs, here or where JAX is told to.
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = pathlib.Path('~/.cache/mtl_kd_jax/xla').expanduser()
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  if config.parallel.multihost:
    # JAX itself reads the coordinator's address from its variable, not these.
    jax.distributed.initialize(
      num_processes=_integer('JAX_NUM_PROCESSES'),
      process_id=_integer('JAX_PROCESS_ID'),
    )
  if jax.default_backend() == 'cpu':
    keep_freed_memory()


def _integer(variable):
  value = os.environ.get(variable)
  return None if value is None else int(value)


def _options(job):
  return getattr(job, 'OPTIONS', ())


def _parse_flags(argv):
  """Parses the flags; a wrong one is a message and not a traceback."""
  if renamed := explain_renamed(argv):
    _exit(2, renamed)
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    _exit(2, explain_bad_flags(error))


def _exit(code, message):
  print(message, file=sys.stderr, flush=True)
  sys.exit(code)


if __name__ == '__main__':
  warnings.formatwarning = lambda message, *_, **__: f'warning: {message}\n'
  for _job in JOBS.values():
    if hasattr(_job, 'define_flags'):
      _job.define_flags()
  app.run(main, flags_parser=_parse_flags)
