"""Recalibrated statistics beside checkpoints."""

import numpy as np
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.statistics import with_statistics, write_statistics

VARIABLES = {
  'params': {'a': np.float32([1, 2])},
  'batch_stats': {'a': {'b': {'mean': np.zeros(2, np.float32)}}},
}
OTHER = VARIABLES | {
  'batch_stats': {'a': {'b': {'mean': np.full(2, 0.5, np.float32)}}}
}


def mean(variables):
  return variables['batch_stats']['a']['b']['mean'].tolist()


def test_what_was_written_is_read_for_the_same_parameters(tmp_path):
  found, over = with_statistics(tmp_path, VARIABLES)
  assert (mean(found), over) == ([0, 0], 0)
  write_statistics(tmp_path, OTHER, num_batches=7)
  found, over = with_statistics(tmp_path, VARIABLES)
  assert (mean(found), over) == ([0.5, 0.5], 7)
  assert found['params'] is VARIABLES['params']


def test_a_network_without_batch_norm_has_none(tmp_path):
  bare = {'params': VARIABLES['params'], 'batch_stats': {}}
  assert with_statistics(tmp_path, bare) == (bare, None)


def test_statistics_of_other_parameters_are_left_out(tmp_path):
  write_statistics(tmp_path, OTHER, num_batches=7)
  moved = VARIABLES | {'params': {'a': np.float32([1, 3])}}
  found, over = with_statistics(tmp_path, moved)
  assert (mean(found), over) == ([0, 0], 0)


@pytest.mark.parametrize('size', [0, 10, -20])
def test_a_damaged_file_is_not_passed_over(size, tmp_path):
  write_statistics(tmp_path, OTHER, num_batches=7)
  path = tmp_path / 'statistics.npz'
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(InputError) as error:
    with_statistics(tmp_path, VARIABLES)
  assert error.value.where == str(path)
