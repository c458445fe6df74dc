"""Forked processes behave like those that Python starts."""

import os
import signal
import subprocess
import time

from fixtures.launching import run_python, start_interpreter, start_python
import pytest

pytestmark = pytest.mark.skipif(
  not hasattr(os, 'pidfd_open'), reason='needs Linux'
)

PROGRAM = """
import atexit, os, signal, sys
atexit.register(print, 'at exit')
print(sys.argv, sys.path, __name__, vars(sys.modules['__main__'])['__name__'])
print(os.getcwd(), sorted(os.environ.items()), os.listdir('/proc/self/fd'))
print([signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGTERM)])
print([name for name in sys.modules if name.startswith(('mtl_kd', 'fixtures'))])
print('to stderr', file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize('kind', ['code', 'script'])
def test_a_forked_process_is_like_one_of_pythons(kind, tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(PROGRAM)
  arguments = ['-c', PROGRAM] if kind == 'code' else [str(script)]
  arguments += ['--flag=a b', 'word']
  real = start_interpreter(*arguments)
  stdout, stderr = real.communicate()
  assert real.returncode == 7 and 'at exit' in stdout
  assert run_python(*arguments) == (7, stdout, stderr)


def test_the_backend_starts_after_the_fork():
  code, stdout, stderr = run_python(
    '-c', 'import jax; print(jax.device_count())'
  )
  assert (code, stdout) == (0, '1\n'), stderr  # here there are four


def test_signals_and_timeouts_act_as_in_subprocess():
  process = start_python('-c', 'import time; time.sleep(600)')
  assert process.poll() is None
  assert os.getpgid(process.pid) == process.pid
  with pytest.raises(subprocess.TimeoutExpired):
    process.communicate(timeout=0.01)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == process.poll() == -signal.SIGTERM
  process.send_signal(signal.SIGTERM)  # of no effect after the end


def test_a_process_that_nobody_waits_for_is_killed():
  process = start_python('-c', 'import time; time.sleep(600)')
  handle = os.pidfd_open(process.pid)
  try:
    del process
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
      try:
        signal.pidfd_send_signal(handle, 0)
      except ProcessLookupError:
        return
      time.sleep(0.01)
    pytest.fail('it is still running')
  finally:
    os.close(handle)


def test_a_variable_that_comes_too_late_is_refused(monkeypatch):
  run_python('-c', '')  # the server has started
  monkeypatch.setenv('JAX_ENABLE_X64', '1')
  code, _, stderr = run_python('-c', '')
  assert code == 1 and 'JAX_ENABLE_X64 takes effect at import' in stderr
