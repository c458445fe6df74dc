"""Ctrl-C and SIGTERM as a wish that the training loop grants between steps."""

import signal
import sys


class Stopped(Exception):
  """The run was asked to stop and has saved its state.

  Attributes:
    signum: the signal that asked.
  """

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.signum = signum


class StopSignals:
  """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

  A second one acts as usual, for those who cannot wait.

  Attributes:
    received: the signal's number, None as long as there was none.
  """

  def __init__(self):
    self.received = None
    self._previous = {}

  def __enter__(self) -> 'StopSignals':
    for signum in (signal.SIGINT, signal.SIGTERM):
      self._previous[signum] = signal.signal(signum, self._note)
    return self

  def __exit__(self, *unused):
    self._restore()

  def _note(self, signum, frame):
    del frame
    self.received = signum
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
