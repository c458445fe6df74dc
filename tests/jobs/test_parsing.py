"""What the command line says before JAX is imported."""

from absl import flags
from fixtures.launching import start_interpreter
import pytest

from mtl_kd_jax.exporting import formats, serving, writing
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.jobs import flags as of_jobs

COMMANDS = {
  ('--help',): 'USAGE: launch.py',
  ('--helpfull',): 'how many samples to read',
  ('--version',): 'jax 0.',
  ('--nosuch=1',): "Unknown command line flag 'nosuch'",
  ('--config=quickstart', '--config.seed', '-1', '--nosuch=1'): "'nosuch'",
  ('--samples=many', '--config=quickstart'): 'flag --samples=many',
  ('--job=taps',): 'expected a config file',
  ('--job=nosuch', '--config.epochs=1'): 'flag --job=nosuch',
  ('--config=nosuch', '--config.epochs=1'): 'use a shipped one: attributes,',
  ('stray',): 'expected flags only',
}
PROGRAM = f"""
import os, sys
from mtl_kd_jax import __main__ as command
for arguments in {list(COMMANDS)}:
  if not os.fork():
    os.dup2(1, 2)
    sys.argv = ['launch.py', *arguments]
    try:
      command.start()
    except SystemExit:
      heavy = {{'flax', 'grain', 'jax', 'matplotlib', 'optax', 'orbax'}}
      print('imported:', *heavy & sys.modules.keys(), flush=True)
    os._exit(0)
  os.wait()
"""


def test_a_wrong_command_line_waits_for_no_library():
  stdout, stderr = start_interpreter('-c', PROGRAM).communicate(timeout=300)
  assert not stderr
  *answers, rest = stdout.split('imported:\n')
  assert not rest
  for (command, message), answer in zip(COMMANDS.items(), answers, strict=True):
    assert message in answer, command


@pytest.mark.parametrize('name', JOBS)
def test_the_table_of_jobs_says_what_their_modules_have(name):
  job = JOBS[name]
  assert hasattr(job.module(), 'run')
  assert job.needs_config != hasattr(job.module(), 'default_config')


def test_every_flag_belongs_to_a_job():
  values = flags.FlagValues()
  of_jobs.define_flags(values)
  assert set(values) == {flag for job in JOBS.values() for flag in job.options}


def test_the_flags_of_exports_are_those_of_the_package():
  assert of_jobs.EXPORT_FORMATS == tuple(formats.FILES)
  assert of_jobs.DEFAULT_FORMATS == writing.DEFAULT
  assert of_jobs.EXPORT_OUTPUTS == serving.OUTPUTS
