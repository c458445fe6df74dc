"""Compiled functions that a second thread may compile before they are called.

XLA takes seconds to minutes for a step, and uses one core for most of that. In
a thread beside the steps of the stage before it costs less time, or none.
"""

import collections
from collections.abc import Callable, Iterable
import contextlib
import logging
import os
import sys
import threading
from typing import Any

import jax

from mtl_kd_jax.runtime.memory import trim_memory

# The priority of the thread, once there are steps beside it; 19 gets what is
# left over. A step shares its work evenly among the cores, and takes twice as
# long where one of them is busy. But where other programs keep all cores busy,
# and a step waits for its program, that needs a tenth of a core.
_NICE = 10


class Program:
  """A function that is compiled once, by whichever thread needs it first.

  JAX itself compiles it twice where one thread calls it while another one
  compiles it.

  Attributes:
    function: what is compiled, of `jax.jit` or `jax.pmap`.
  """

  def __init__(self, function: Callable):
    self.function = function
    self._lock = threading.Lock()
    self._compiled = self._called = self._dropped = False

  def __call__(self, *args: Any) -> Any:
    """Calls it; waits for a thread that compiles it."""
    if self._called:
      return self.function(*args)
    with self._lock:
      if not self._compiled:
        self._compile(*args)
      result = self.function(*args)
      self._called = True
    # What this call freed may be a few bytes too small for the next one, which
    # then has its memory elsewhere.
    trim_memory()
    return result

  def compile(self, *shapes: Any) -> None:
    """Compiles it for arguments of these shapes, if nothing has so far.

    Args:
      *shapes: pytrees of `jax.ShapeDtypeStruct`. A call with others, or within
        another of JAX's contexts (jax.debug_nans, ...), compiles again.
    """
    with self._lock:
      if not self._compiled and not self._dropped:
        self._compile(*shapes)

  def _compile(self, *shapes):
    lowered = self.function.lower(*shapes)
    # Of what drawing parameters and tracing took. XLA asks for pieces of other
    # sizes, and its demand would come on top of it.
    trim_memory()
    lowered.compile()
    self._compiled = True
    trim_memory()  # of what XLA needed

  def drop(self) -> None:
    """Says that it will not be called any more, and need not be compiled."""
    self._dropped = True


class CompilesAhead:
  """A thread that compiles one program after another, while it is entered."""

  def __init__(self, say: Callable[[str], None] = lambda text: None):
    """Takes what tells the user that the end has to wait."""
    self._say = say
    self._tasks: collections.deque[Callable[[], None]] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._busy = False
    self._thread: threading.Thread | None = None

  def __enter__(self) -> 'CompilesAhead':
    return self

  def __exit__(self, *unused):
    # A process that ends while XLA compiles is aborted.
    with self._changed:
      self._closed = True
      self._changed.notify()
    if self._thread is not None:
      if self._busy:
        self._say('waiting for XLA, which is compiling the next program')
      self._thread.join()

  def add(self, tasks: Iterable[Callable[[], None]]) -> None:
    """Adds functions that call `Program.compile`, the most urgent one first.

    They come before those that were added earlier and still wait. They are
    neither made nor called on several hosts, whose programs have to be compiled
    in the same order, and on GPUs: XLA compares kernels there by their time,
    which steps would disturb.
    """
    if jax.process_count() > 1 or jax.default_backend() == 'gpu':
      return
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, name='compiles-ahead')
      self._thread.start()
    urgent = list(tasks)
    with self._changed:
      self._tasks.extendleft(reversed(urgent))
      self._changed.notify()

  def _next(self) -> Callable[[], None] | None:
    """Waits for what is to be done next; None at the end."""
    with self._changed:
      self._changed.wait_for(lambda: self._tasks or self._closed)
      return None if self._closed else self._tasks.popleft()

  def _run(self):
    while (task := self._next()) is not None:
      self._busy = True
      try:
        task()
      except Exception:
        # The call compiles it too, and fails or does not.
        logging.getLogger(__name__).debug('not compiled ahead', exc_info=True)
      del task  # it keeps the program, and its arguments
      self._busy = False
      _lower_priority()  # what comes next is for later


def _lower_priority() -> None:
  """Of this thread; it cannot be raised again."""
  if sys.platform == 'linux':  # elsewhere, only processes have priorities
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
      now = os.getpriority(os.PRIO_PROCESS, thread)
      os.setpriority(os.PRIO_PROCESS, thread, max(now, _NICE))
