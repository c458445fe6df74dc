"""Suppresses warnings of libraries that say nothing to the user."""

from collections.abc import Iterator
import contextlib
import logging


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
  """Suppresses what orbax and TFDS warn about; their errors are shown."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
