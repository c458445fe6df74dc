"""The report says which statistics of BatchNorm its numbers are of."""

from fixtures.samples import LABELS
import pytest

from mtl_kd_jax.reports.statistics import describe_statistics
from mtl_kd_jax.tasks import make_tasks

TASKS = make_tasks(('depth',), LABELS, dataset='toy')
RUNNING = 'the running means of training'


def rows(value):
  return {'uniform': {'depth': {TASKS['depth'].headline: value}}}


@pytest.mark.parametrize(
  ('batches', 'expected'),
  [
    ({'a': 0, 'b': 0}, f'{RUNNING}.'),
    ({'a': 8, 'b': 8}, 'computed anew over 8 batches of training.'),
    ({'a': 1, 'bare': None}, 'computed anew over 1 batch of training.'),
    (
      {'a': 8, 'b': 0, 'c': 8},
      f'computed anew over 8 batches of training (a, c); {RUNNING} (b).',
    ),
  ],
)
def test_each_network_has_statistics_of_its_own(batches, expected):
  text = describe_statistics(batches, rows(1.0), {}, TASKS)
  assert text == f'Statistics of BatchNorm: {expected}'


@pytest.mark.parametrize('batches', [{}, {'bare': None}])
def test_without_batch_norm_there_is_nothing_to_say(batches):
  text = describe_statistics(
    batches, rows(1.0), {}, TASKS, while_training=['x']
  )
  assert text == ''


@pytest.mark.parametrize(
  ('old', 'expected'),
  [
    (0.59, 'The running means give the same to 3 %.'),
    (1.09, 'uniform, depth: AbsErr 1.09 instead of 0.6 m.'),
    # The same network twice, and a split without any label.
    (0.6, 'of training.'),
    (float('nan'), 'of training.'),
  ],
)
def test_a_difference_of_more_than_a_few_percent_is_reported(old, expected):
  text = describe_statistics({'uniform': 8}, rows(0.6), rows(old), TASKS)
  assert text.endswith(expected)


@pytest.mark.parametrize('over', [0, 8])
def test_scores_of_the_training_are_of_running_means(over):
  text = describe_statistics(
    {'uniform': over}, rows(0.6), {}, TASKS, while_training=['x', 'y']
  )
  assert text.endswith(' Of the running means: x, y.') == bool(over)
