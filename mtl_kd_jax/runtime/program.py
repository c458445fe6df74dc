"""Compiled functions that a second thread may compile before they are called.

XLA takes seconds to minutes for a step, and uses one core for most of that. In
a thread beside the steps of the stage before it costs less time, or none.
"""

from collections.abc import Callable, Iterable
import os
import queue
import threading
from typing import Any

import jax

_LOWEST = 19  # of the priorities of threads


class Program:
  """A function that is compiled once, by whichever thread needs it first.

  JAX itself compiles it twice where one thread calls it while another one
  compiles it.

  Attributes:
    function: the same under `jax.jit` or `jax.pmap`.
  """

  def __init__(self, function: Callable):
    self.function = function
    self._lock = threading.Lock()
    self._compiled = False

  def __call__(self, *args: Any) -> Any:
    """Calls it; waits for a thread that compiles it."""
    if self._compiled:
      return self.function(*args)
    with self._lock:
      result = self.function(*args)
      self._compiled = True
      return result

  def compile(self, *shapes: Any) -> None:
    """Compiles it for arguments of these shapes, if nothing has so far.

    Args:
      *shapes: pytrees of `jax.ShapeDtypeStruct`. A call with others compiles
        again.
    """
    with self._lock:
      if not self._compiled:
        self.function.lower(*shapes).compile()
        self._compiled = True


class CompilesAhead:
  """A thread that compiles one program after another, while it is entered."""

  def __init__(self):
    self._tasks: queue.SimpleQueue[Callable[[], None] | None] = (
      queue.SimpleQueue()
    )
    self._closed = False
    self._thread: threading.Thread | None = None

  def add(self, tasks: Iterable[Callable[[], None]]) -> None:
    """Adds functions that call `Program.compile`.

    Does nothing on several hosts, whose programs have to be compiled in the
    same order, and on GPUs: XLA compares kernels there by their time, which
    steps would disturb.
    """
    if jax.process_count() > 1 or jax.default_backend() == 'gpu':
      return
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, name='compiles-ahead')
      self._thread.start()
    for task in tasks:
      self._tasks.put(task)

  def __enter__(self) -> 'CompilesAhead':
    return self

  def __exit__(self, *unused):
    # It waits for the program at work: a process that ends while XLA compiles
    # is aborted.
    self._closed = True
    if self._thread is not None:
      self._tasks.put(None)
      self._thread.join()

  def _run(self):
    if hasattr(os, 'setpriority'):  # not on Windows
      # With what steps leave over. They share their work evenly among the
      # cores, and take twice as long where one is busy.
      os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
    while (task := self._tasks.get()) is not None and not self._closed:
      try:
        task()
      except Exception:
        pass  # it comes again when the program is called
