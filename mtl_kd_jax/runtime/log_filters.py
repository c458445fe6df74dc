"""Keeps libraries from printing what says nothing to the user."""

import asyncio
from collections.abc import Iterator
import contextlib
import logging


@contextlib.contextmanager
def without_warnings(*, errors: bool = False) -> Iterator[None]:
  """Suppresses what orbax and TFDS warn about.

  Args:
    errors: whether to suppress logged errors too, where they are reported in
      another way.
  """
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL if errors else logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


@contextlib.contextmanager
def patient_event_loops() -> Iterator[None]:
  """Event loops that are made in this block wait for their tasks to end.

  Where one of several reads fails, orbax closes its loop on the others. When
  these end, their threads print 'Event loop is closed' with tracebacks, and so
  do coroutines that are collected.
  """
  policy = asyncio.get_event_loop_policy()
  asyncio.set_event_loop_policy(_PatientPolicy())
  try:
    yield
  finally:
    asyncio.set_event_loop_policy(policy)


class _PatientLoop(asyncio.SelectorEventLoop):
  def close(self):
    while not self.is_closed() and (tasks := asyncio.all_tasks(self)):
      # What they raise is theirs: the first error has been raised already.
      self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
  def new_event_loop(self):
    return _PatientLoop()
