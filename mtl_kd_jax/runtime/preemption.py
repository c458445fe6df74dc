"""Ctrl-C and SIGTERM as a request, which training grants between steps."""

import itertools
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from mtl_kd_jax.runtime.parallel import any_process

# Of all steps of this process, over stages: JAX's service stops the hosts when
# they all come to a number that none has come to before.
_numbers = itertools.count()


class Stopped(Exception):
  """The run was asked to stop and has saved its state.

  Attributes:
    signum: the signal that asked.
  """

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.signum = signum


class Preemption:
  """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

  A second one acts as usual, for those who cannot wait. Python lets only the
  main thread handle signals: entered in another one, it notes none.

  On several hosts SIGTERM, by which schedulers announce that a host will be
  taken away, is JAX's: its service lets all hosts stop after the same step.

  Attributes:
    signum: the signal's number, None as long as there was none.
  """

  def __init__(self):
    self.signum = None
    self._previous = {}
    self._several = jax.process_count() > 1
    self._service = self._several and jax.config.jax_enable_preemption_service

  def __enter__(self) -> 'Preemption':
    if threading.current_thread() is not threading.main_thread():
      return self
    for signum in (signal.SIGINT, signal.SIGTERM):
      if not (signum == signal.SIGTERM and self._service):
        self._previous[signum] = signal.signal(signum, self._note)
    return self

  def __exit__(self, *unused):
    self._restore()

  def requested(self, *, sync: bool) -> bool:
    """Whether to stop after this step; the same answer on all hosts.

    All of them have to ask after every step.

    Args:
      sync: whether hosts may wait for each other here. Between such steps a
        Ctrl-C on one of several hosts is not noticed.
    """
    if not self._several:
      return self.signum is not None
    if self._service and multihost_utils.reached_preemption_sync_point(
      next(_numbers)
    ):
      return True
    return sync and any_process(self.signum is not None)

  def _note(self, signum, frame):
    del frame
    self.signum = signum
    self._restore()
    name = signal.Signals(signum).name
    print(
      f'\n{name}: finishing this step and saving; once more to stop at once',
      file=sys.stderr,
      flush=True,
    )

  def _restore(self):
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)
    self._previous = {}
