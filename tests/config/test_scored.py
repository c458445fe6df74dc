"""Which keys of a config decide what is scored."""

import copy

import pytest

from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.config.scored import describe_data, differences


def made(changes):
  config = get_config()
  first = {
    'data.sets': {'a': {'name': 'folder', 'data_dir': 'here'}},
    'data.val_fraction': 0.25,
  }
  override(config, first, argument='config')
  config = copy.deepcopy(config)
  override(config, changes, argument='config')
  return config


@pytest.mark.parametrize(
  'change, same',
  [
    ({'task': {'depth': {'kind': 'depth', 'scale': 0.001}}}, False),
    ({'task': {'depth': {'taps': ('decoder',)}}}, True),
    ({'data.image_size': (64, 64)}, False),
    ({'data.sets': {'a': {'name': 'folder', 'data_dir': 'moved'}}}, True),
    ({'data.sets': {}}, False),
    ({'data.data_dir': 'moved', 'data.flip': True}, True),
    ({'data.folder.train': 'other'}, True),
    ({'data.folder.val': 'other'}, False),
    ({'data.eval_split': 'test'}, False),
    ({'seed': 3, 'data.val_fraction': 0.5}, True),
  ],
)
def test_data_are_the_same_where_the_samples_are(change, same):
  one, other = map(describe_data, (made({}), made(change)))
  assert (one == other) == same == (not differences(other, one))


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_a_share_of_the_training_split_depends_on_the_seed(split):
  described = [
    describe_data(made(change), split) for change in ({}, {'seed': 3})
  ]
  assert differences(*described) == ['seed 0 instead of 3']


def test_differences_are_named_with_their_values():
  changes = {'data.sets': {}, 'data.scenes.num_val': 3}
  one = describe_data(made({'data.sets': {}}))
  other = describe_data(made(changes | {'data.eval_split': 'test'}))
  assert differences(other, one) == [
    'data.eval_split "test" instead of "val"',
    'data.scenes.num_val 3 instead of 128',
  ]
  many = {f'{i}': i for i in range(9)}
  assert len(differences(many, {})) == 5 and differences(many, {})[-1] == '...'
