"""What a table says in words: from its numbers, whatever they are."""

import math

from fixtures.samples import LABELS
import pytest

from mtl_kd_jax.reports.verdict import verdict
from mtl_kd_jax.tasks import make_tasks

TASKS = make_tasks(('semantic', 'depth', 'normals'), LABELS, dataset='toy')


def rows(**networks):
  """Networks by their headline metrics: mIoU, AbsErr and mean angle."""
  return {
    name.replace('_', '-'): {
      task: {TASKS[task].headline: x}
      for task, x in zip(TASKS, values, strict=True)
    }
    for name, values in networks.items()
  }


def test_a_starved_task_comes_back():
  said = verdict(
    rows(
      single_task=(50, 0.5, 20),
      uniform=(48, 0.4, 24),  # -4, +20, -20 %
      distilled=(51, 0.4, 20.08),  # +2, +20, -0.4 %
    ),
    TASKS,
  )
  assert said == (
    'Uniformly weighted, one network starves semantic by 4 % (mIoU 48 instead '
    'of 50\N{NO-BREAK SPACE}%) and normals by 20 % (Mean 24 instead of 20°), '
    'while depth is 20 % better. Distillation lifts semantic from -4 to +2 % '
    'and normals from -20 to +0 %, relative to the single-task networks; no '
    'task is worse than alone by more than 1 %.'
  )


def test_what_it_costs_is_said_too():
  said = verdict(
    rows(
      single_task=(50, 0.5, 20),
      uniform=(55, 0.4, 20),
      distilled=(52, 0.45, 22),
    ),
    TASKS,
  )
  assert said == (
    'Uniformly weighted, no task is worse than alone by more than 1 %, and '
    'semantic is 10 % and depth is 20 % better. Distillation drops semantic '
    'from +10 to +4 %, depth from +20 to +10 % and normals from +0 to -10 %, '
    'relative to the single-task networks; normals is worse than alone.'
  )


def test_what_is_less_than_a_percent_is_nothing():
  said = verdict(
    rows(
      single_task=(50, 0.5, 20),
      uniform=(50.2, 0.499, 20.1),
      balanced=(50.1, 0.498, 20),
    ),
    TASKS,
  )
  assert said == (
    'Uniformly weighted, no task is worse than alone by more than 1 %. '
    'Balancing changes little; no task is worse than alone by more than 1 %.'
  )


@pytest.mark.parametrize('missing', ['single-task', 'uniform'])
def test_without_both_to_compare_nothing_is_said(missing):
  some = rows(single_task=(50, 0.5, 20), uniform=(5, 1, 9), distilled=(1, 1, 1))
  del some[missing]
  assert verdict(some, TASKS) == ''


def test_of_a_metric_without_labels_nothing_is_said():
  some = rows(single_task=(50, 0.5, 20), uniform=(math.nan, 0.4, 9))
  assert verdict(some, TASKS) == ''
