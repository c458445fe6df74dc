"""Programs that a second thread compiles before they are called."""

import os
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.runtime import program as program_module
from mtl_kd_jax.runtime.program import CompilesAhead, Program

THREE = jax.ShapeDtypeStruct((3,), jnp.float32)
WAIT = 60  # seconds, at most


class Counted:
  """A program that counts how often it is traced, and where."""

  def __init__(self, within=lambda: None):
    self.threads, self.traced = [], threading.Event()
    self._within = within
    self.program = Program(jax.jit(self._double))

  def _double(self, x):
    self.threads.append(threading.current_thread())
    self.traced.set()
    self._within()
    return 2 * x

  def check(self):
    np.testing.assert_array_equal(self.program(jnp.arange(3.0)), [0, 2, 4])


def test_a_program_is_compiled_in_the_thread():
  one, two = Counted(), Counted()
  with CompilesAhead() as ahead:
    ahead.add(
      [lambda: one.program.compile(THREE), lambda: two.program.compile(THREE)]
    )
    assert two.traced.wait(WAIT)
  for counted in (one, two):
    counted.check()
    (thread,) = counted.threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_is_added_later_is_more_urgent():
  begun, goes_on, done = (threading.Event() for _ in range(3))
  seen = []

  def first():
    begun.set()
    assert goes_on.wait(WAIT)

  with CompilesAhead() as ahead:
    ahead.add([first, lambda: seen.append('next stage'), done.set])
    assert begun.wait(WAIT)
    ahead.add([lambda: seen.append('step'), lambda: seen.append('scores')])
    goes_on.set()
    assert done.wait(WAIT)
  assert seen == ['step', 'scores', 'next stage']


def test_a_call_waits_for_the_thread():
  begun, goes_on = threading.Event(), threading.Event()

  def within():
    begun.set()
    assert goes_on.wait(WAIT)

  counted = Counted(within)
  with CompilesAhead() as ahead:
    ahead.add([lambda: counted.program.compile(THREE)])
    assert begun.wait(WAIT)
    caller = threading.Thread(target=counted.check)
    caller.start()
    caller.join(0.2)
    assert caller.is_alive()
    goes_on.set()
    caller.join(WAIT)
    assert not caller.is_alive()
  assert len(counted.threads) == 1


def test_what_was_called_is_not_compiled_again():
  counted = Counted()
  counted.check()
  counted.program.compile(THREE)
  assert counted.threads == [threading.current_thread()]


def test_other_shapes_are_compiled_by_the_call():
  counted = Counted()
  counted.program.compile(jax.ShapeDtypeStruct((4,), jnp.float32))
  counted.check()
  assert len(counted.threads) == 2


def test_what_fails_in_the_thread_fails_in_the_call():
  def fail():
    raise ValueError('no such shape')

  broken, counted = Counted(fail), Counted()
  with CompilesAhead() as ahead:
    ahead.add(
      [
        lambda: broken.program.compile(THREE),
        lambda: counted.program.compile(THREE),
      ]
    )
    assert counted.traced.wait(WAIT)  # the thread goes on
    with pytest.raises(ValueError, match='no such shape'):
      broken.check()
  assert len(broken.threads) == 2


def test_who_leaves_waits_for_one_program_and_no_further():
  begun, told, said = threading.Event(), threading.Event(), []

  def within():
    begun.set()
    assert told.wait(WAIT)

  def say(text):
    said.append(text)
    told.set()

  first, second = Counted(within), Counted()
  with pytest.raises(KeyboardInterrupt), CompilesAhead(say) as ahead:
    ahead.add(
      [
        lambda: first.program.compile(THREE),
        lambda: second.program.compile(THREE),
      ]
    )
    assert begun.wait(WAIT)
    raise KeyboardInterrupt
  assert len(first.threads) == 1 and not first.threads[0].is_alive()
  assert not second.threads
  assert said == ['waiting for XLA, which is compiling the next program']


@pytest.mark.skipif(sys.platform != 'linux', reason='of threads, on Linux only')
def test_what_is_for_later_leaves_the_processor_to_others():
  seen, done = [], threading.Event()

  def look():
    seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

  before = os.getpriority(os.PRIO_PROCESS, 0)
  with CompilesAhead() as ahead:
    ahead.add([look, look, done.set])
    assert done.wait(WAIT)
  first, second = seen
  assert first == before and second == max(before, 10)
  assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_what_will_not_be_called_is_not_compiled():
  counted = Counted()
  counted.program.drop()
  counted.program.compile(THREE)
  assert not counted.threads


@pytest.mark.parametrize('count, backend', [(2, 'cpu'), (1, 'gpu')])
def test_several_hosts_and_gpus_compile_when_they_call(
  count, backend, monkeypatch
):
  monkeypatch.setattr(program_module.jax, 'process_count', lambda: count)
  monkeypatch.setattr(program_module.jax, 'default_backend', lambda: backend)
  with CompilesAhead() as ahead:
    ahead.add(pytest.fail('was made') for _ in range(1))
    assert 'compiles-ahead' not in {t.name for t in threading.enumerate()}
