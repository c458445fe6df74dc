"""Starts a job: python -m mtl_kd_jax --config=quickstart.

In a clone, `python launch.py` is the same. --config names a file with a
function get_config(), or a shipped experiment.

--workdir names the folder of the run (default runs/<config.name>), --job what
to do in it:

train     (default) trains, or continues where an earlier run ended
compare   trains the variations of a comparison with several seeds each, or the
          share of them that --cells names, and reports
evaluate  scores the finished networks of a run again, on --split
predict   predicts --images with a network of a run, into the folder --out
export    writes a network of a run --to other formats, into the folder --out
latency   measures a network against the single-task ones, on this machine
import    makes networks of a run from PyTorch weights: --torch, --network, and
          --stage for a single one
taps      lists the features of the networks, and which are aligned
inspect   reads --samples of the data, says what is in them, draws some, and
          warns of what looks wrong
data      looks at a folder, --init, and writes a first config for it

Any config key can be changed: --config.epochs=3
"""

import sys
import warnings

from absl import app, flags, logging

from mtl_kd_jax.jobs import JOBS, parsing
from mtl_kd_jax.jobs.flags import define_flags

_CONFIG = flags.DEFINE_string('config', None, 'Config file, or a shipped name.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config.name>.')
_JOB = flags.DEFINE_enum('job', 'train', list(JOBS), 'What to run.')
_VERSION = flags.DEFINE_bool('version', False, 'Print versions, and end.')


def main(argv: list[str]) -> None:
  """Runs the job; errors of the user are a message and an exit code."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # orbax logs a lot at INFO
  try:
    if _VERSION.value:
      print(parsing.versions())
      return
    if len(argv) > 1:
      stray = ' '.join(argv[1:])
      raise parsing.Exit(
        2,
        f'error: expected flags only\n  found:  {stray}\n'
        "  to do:  put patterns in quotes, as in --images='*.jpg'",
      )
    job = JOBS[_JOB.value]
    parsing.check_has_config(job, _CONFIG.value)
    # Only now: it imports JAX.
    from mtl_kd_jax.jobs import command_line

    command_line.run_job(job, _CONFIG.value, _WORKDIR.value)
  except parsing.Exit as end:
    _end(end)


def _parse(argv):
  try:
    return parsing.parse_flags(argv)
  except parsing.Exit as end:
    _end(end)


def _end(end: parsing.Exit) -> None:
  print(end, file=sys.stderr, flush=True)
  sys.exit(end.code)


def start() -> None:
  """Runs the job that the command line asks for, and ends the process."""
  warnings.formatwarning = lambda message, *_, **__: f'warning: {message}\n'
  define_flags()
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  start()
