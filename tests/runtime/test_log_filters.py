"""What libraries would print, and loops that wait for failed reads."""

import asyncio
import logging

import pytest

from mtl_kd_jax.runtime.log_filters import (
  patient_event_loops,
  without_warnings,
)


def test_warnings_are_suppressed_and_errors_shown_unless_they_come_again(
  caplog,
):
  logger = logging.getLogger('absl')

  def shown(**options):
    caplog.clear()
    with without_warnings(**options):
      logger.warning('warning')
      logger.error('error')
    return [record.getMessage() for record in caplog.records]

  level = logger.level
  assert shown() == ['error']
  assert shown(errors=True) == []
  assert logger.level == level


async def fail():
  raise KeyError


async def fail_later(ended):
  await asyncio.sleep(0.01)
  ended.append(True)
  raise ValueError


def test_a_loop_waits_for_the_tasks_that_a_failed_one_leaves_behind():
  ended = []
  with patient_event_loops():
    loop = asyncio.new_event_loop()

    async def read():
      await asyncio.gather(fail(), fail_later(ended))

    with pytest.raises(KeyError):
      loop.run_until_complete(read())
    assert not ended
    loop.close()
    loop.close()  # as often as one likes
  assert ended and loop.is_closed()


def test_loops_outside_of_the_block_are_as_ever():
  policy = asyncio.get_event_loop_policy()
  with pytest.raises(KeyError):
    with patient_event_loops():
      raise KeyError
  assert asyncio.get_event_loop_policy() is policy
