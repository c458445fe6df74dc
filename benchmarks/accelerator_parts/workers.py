"""A process that does what it is asked to, one line of JSON at a time."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from typing import Any

_ANSWER = 'answer '
NO_FIT = 'does not fit'
LATE = 'no time left'


class WorkerLost(Exception):
  """The process has ended, or was ended because it took too long."""


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
  """Answers requests {'do': name, ...arguments} from the standard input.

  An exception in a handler is an answer, too: {'error': ...}.
  """
  for line in sys.stdin:
    request = json.loads(line)
    try:
      answer = handlers[request.pop('do')](**request)
    except Exception as error:
      traceback.print_exc()
      answer = {'error': describe(error)}
    # Libraries print what they like; an answer begins on a line of its own.
    print(f'\n{_ANSWER}{json.dumps(answer)}', flush=True)


def describe(error: Exception) -> str:
  """One line; `NO_FIT` where memory was missing."""
  text = str(error).strip()
  first = text.splitlines()[0] if text else ''
  kind = type(error).__name__
  if 'RESOURCE_EXHAUSTED' in text or kind == 'OutOfMemoryError':
    return NO_FIT
  return f'{kind}: {first}'[:300]


class Worker:
  """A worker process, seen from the one that asks.

  Attributes:
    name: of the library.
  """

  def __init__(
    self,
    name: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
  ):
    """Starts it.

    Args:
      name: of the library.
      arguments: of Python.
      environment: variables that it gets beside those of this process.
    """
    self.name = name
    self._process = subprocess.Popen(
      [sys.executable, *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, **(environment or {})},
    )
    self._lines: queue.Queue[str | None] = queue.Queue()
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self):
    for line in self._process.stdout:
      if line.startswith(_ANSWER):
        self._lines.put(line.removeprefix(_ANSWER))
    self._lines.put(None)

  def send(self, do: str, /, **arguments: Any) -> None:
    """Asks; `wait` returns the answer."""
    try:
      self._process.stdin.write(json.dumps({'do': do, **arguments}) + '\n')
      self._process.stdin.flush()
    except (OSError, ValueError) as error:  # ValueError: it was closed
      raise WorkerLost(f'{self.name} has ended') from error

  def wait(self, seconds: float) -> Any:
    """The answer to what was sent first.

    Raises:
      WorkerLost: there is none. The process has then ended.
    """
    try:
      line = self._lines.get(timeout=max(seconds, 0.1))
    except queue.Empty:
      self.close()
      text = f'no answer from {self.name} for {seconds:.0f} s'
      raise WorkerLost(text) from None
    if line is None:
      code = self._process.wait()
      raise WorkerLost(f'{self.name} has ended with exit code {code}')
    return json.loads(line)

  def ask(self, do: str, patience: float, /, **arguments: Any) -> Any:
    """Sends, and waits so many seconds."""
    self.send(do, **arguments)
    return self.wait(patience)

  def close(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()
    # A process that it has left behind may still hold the pipe.
    self._reader.join(timeout=5)
    if not self._reader.is_alive():
      self._process.stdout.close()
    with contextlib.suppress(OSError):  # what was written is not read
      self._process.stdin.close()
