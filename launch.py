"""Starts a job: python launch.py --config=configs/quickstart.py.

--workdir names the folder of the run (default runs/<config.name>), --job what
to do in it:

train     (default) goes on where an earlier run ended
evaluate  scores the finished networks of a run again, on --split
import    makes networks of a run from PyTorch weights: --torch, --network
taps      lists the features of the networks, and which are aligned
data      says what is in the data, draws some, and warns of what looks wrong

Any config key can be changed: --config.epochs=3
"""

import functools
import os
import pathlib
import re
import sys
import warnings

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from mtl_kd_jax.config import defaults as common
from mtl_kd_jax.config.experiments import nyuv2
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.platform import keep_freed_memory
from mtl_kd_jax.runtime.preemption import Stopped

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, see configs/.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config.name>.')
_JOB = flags.DEFINE_enum('job', 'train', list(JOBS), 'What to run.')
_SPLIT = flags.DEFINE_string(
  'split', None, "Job 'evaluate': the split to score. Default: the run's."
)
_TORCH = flags.DEFINE_string(
  'torch', None, "Job 'import': the file of weights, .pth or .safetensors."
)
_NETWORK = flags.DEFINE_string(
  'network', None, "Another name for --config.model.backbone, e.g. 'mtan'."
)
_SAMPLES = flags.DEFINE_integer(
  'samples',
  200,
  "Job 'data': how many samples to read of each split; 0 for all.",
  lower_bound=0,
)
_STAGE = flags.DEFINE_string(
  'stage',
  None,
  "Job 'import': what the weights become: 'teacher_<task>', 'uniform' or "
  "'distilled'. Default: the teacher of every task.",
)


def main(argv: list[str]) -> None:
  """Runs the job and turns expected failures into messages and exit codes."""
  try:
    _run(argv)
  except InputError as error:
    _exit(2, f'error: {error}')
  except NotFiniteError as error:
    _exit(3, f'error: {error}')
  except Stopped as error:
    again = 'run the same command again to go on'
    _exit(128 + error.signum, f'{error}; {again}')
  except KeyboardInterrupt:
    _exit(130, 'interrupted; run the same command again to go on')


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
  config, workdir = _config_and_workdir()
  _set_up_jax(config)
  job = JOBS[_JOB.value]
  if _JOB.value == 'import':
    job = functools.partial(job, torch_file=_TORCH.value, stage=_STAGE.value)
  if _JOB.value == 'data':
    job = functools.partial(job, most=_SAMPLES.value)
  job(config, workdir)


def _config_and_workdir():
  workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
  config = _CONFIG.value
  if config is None and _JOB.value == 'evaluate' and workdir:
    config = ConfigDict(workdirs.read_config(workdir))
    every_key = common.get_config().to_dict()
    workdirs.check_complete(config.to_dict(), every_key, workdir)
  if config is None and _JOB.value == 'import':
    config = nyuv2.get_config()  # what the reference's networks were made for
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
      do='see configs/ for those there are',
    )
  if _NETWORK.value:
    config.model.backbone = _NETWORK.value
  if _SPLIT.value:
    config.data.eval_split = _SPLIT.value
  return config, workdir or pathlib.Path('runs') / config.name


def _set_up_jax(config):
  keep_freed_memory()
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


def _integer(variable):
  value = os.environ.get(variable)
  return None if value is None else int(value)


def _parse_flags(argv):
  """Parses the flags; a wrong one is a message and not a traceback."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # ml_collections quotes itself, and lists the whole config in between.
    reason = (
      str(error).replace('\\n', ' ').replace('\n', ' ').replace("\\'", "'")
    )
    reason = re.sub(r'Other fields present:.*?(?=Did you mean|$)', '', reason)
    _exit(2, f'error: expected flags and config keys that exist\n  {reason}')


def _exit(code, message):
  print(message, file=sys.stderr, flush=True)
  sys.exit(code)


if __name__ == '__main__':
  warnings.formatwarning = lambda message, *_, **__: f'warning: {message}\n'
  app.run(main, flags_parser=_parse_flags)
