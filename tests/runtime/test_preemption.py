"""The first signal ends the run after the step, the second at once."""

from concurrent import futures
import os
import signal
import threading

from fixtures.launching import run_python
import jax
import pytest

from mtl_kd_jax.runtime import preemption as preemption_module
from mtl_kd_jax.runtime.preemption import Preemption, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
both = pytest.mark.parametrize('signum', SIGNALS)


@pytest.fixture(autouse=True)
def handlers():
  """Signals arrive here when no Preemption takes them."""
  seen = []

  def note(signum, frame):
    seen.append(signum)

  old = {signum: signal.signal(signum, note) for signum in SIGNALS}
  yield seen, note
  for signum, handler in old.items():
    signal.signal(signum, handler)


def current():
  return [signal.getsignal(signum) for signum in SIGNALS]


def send(signum):
  """Python's handler has run when this returns: it runs in this thread."""
  assert threading.current_thread() is threading.main_thread()
  os.kill(os.getpid(), signum)


@both
def test_the_first_signal_is_noted(handlers, capsys, signum):
  seen, _ = handlers
  with Preemption() as stop:
    assert stop.signum is None
    send(signum)
    assert stop.signum == signum
  assert stop.signum == signum
  assert seen == []
  assert signal.Signals(signum).name in capsys.readouterr().err


@both
@pytest.mark.parametrize('second', SIGNALS)
def test_the_second_signal_acts_as_usual(handlers, capsys, signum, second):
  seen, note = handlers
  with Preemption() as stop:
    send(signum)
    assert current() == [note, note]
    send(second)
    assert seen == [second]
    assert stop.signum == signum


def test_without_a_signal_the_handlers_are_restored(handlers, capsys):
  _, note = handlers
  with Preemption() as stop:
    assert note not in current()
  assert current() == [note, note]
  assert stop.signum is None
  assert capsys.readouterr().err == ''


def test_an_exception_restores_the_handlers_and_goes_on(handlers):
  seen, note = handlers
  with pytest.raises(ZeroDivisionError):
    with Preemption():
      raise ZeroDivisionError
  assert current() == [note, note]
  send(signal.SIGTERM)
  assert seen == [signal.SIGTERM]


def test_stages_one_after_the_other_each_have_their_own(handlers, capsys):
  _, note = handlers
  with Preemption() as first:
    send(signal.SIGINT)
  with Preemption() as second:
    assert second.signum is None
    send(signal.SIGTERM)
  assert (first.signum, second.signum) == (signal.SIGINT, signal.SIGTERM)
  assert current() == [note, note]


def test_a_signal_is_a_request_after_every_step_and_in_none_before():
  with Preemption() as preemption:
    assert not preemption.requested(sync=True)
    send(signal.SIGTERM)
    assert preemption.requested(sync=False)


@pytest.mark.parametrize('announced', [False, True])
def test_on_several_hosts_jax_says_when_to_stop(
  announced, handlers, monkeypatch
):
  """SIGTERM is left to JAX's service; Ctrl-C is shared where hosts may wait."""
  _, note = handlers
  asked = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    preemption_module.multihost_utils,
    'reached_preemption_sync_point',
    lambda number: asked.append(number) or (announced and len(asked) == 3),
  )
  monkeypatch.setattr(preemption_module, 'any_process', lambda flag: flag)
  with Preemption() as preemption:
    assert signal.getsignal(signal.SIGTERM) == note
    for _ in range(2):
      assert not preemption.requested(sync=True)
    assert preemption.requested(sync=True) == announced
    send(signal.SIGINT)
    assert not preemption.requested(sync=False)
    assert preemption.requested(sync=True)
  with Preemption() as of_the_next_stage:
    assert not of_the_next_stage.requested(sync=True)
  # JAX waits for a number that is one above all before.
  assert asked == [*range(asked[0], asked[0] + 6)]


def test_outside_the_main_thread_no_signal_is_handled(handlers):
  """Only the main thread may set handlers, and it may have its own."""
  _, note = handlers

  def work():
    with Preemption() as preemption:
      return current(), preemption.requested(sync=True), preemption.signum

  with futures.ThreadPoolExecutor(1) as pool:
    inside, requested, signum = pool.submit(work).result()
  assert inside == current() == [note, note]
  assert not requested and signum is None


def test_stopped_carries_its_signal():
  stopped = Stopped('the state is saved', signal.SIGTERM)
  assert stopped.signum == signal.SIGTERM
  assert str(stopped) == 'the state is saved'


PROGRAM = """
import os, signal
from mtl_kd_jax.runtime.preemption import Preemption

with Preemption() as stop:
  os.kill(os.getpid(), signal.{0})
  print('saved after', stop.signum, flush=True)
  os.kill(os.getpid(), signal.{0})
  print('never reached', flush=True)
"""


@both
def test_a_real_process_survives_one_signal_and_dies_of_the_second(signum):
  code, stdout, stderr = run_python('-c', PROGRAM.format(signum.name))
  assert stdout == f'saved after {int(signum)}\n', stderr
  assert code == -signum
