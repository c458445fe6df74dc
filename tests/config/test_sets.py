"""A data set for each task, or for each domain, described by a config."""

from fixtures.configs import plan_of, tiny, write_nyuv2
import jax
import numpy as np
import pytest

from mtl_kd_jax.config.build import build, open_dataset
from mtl_kd_jax.config.stored import from_stored
from mtl_kd_jax.config.validate import may_change
from mtl_kd_jax.errors import InputError


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Two folders of four frames of 32x64 and 64x96 pixels."""
  made = {}
  for name, size in (('day', (32, 64)), ('night', (64, 96))):
    made[name] = tmp_path_factory.mktemp(name)
    write_nyuv2(made[name], frames=4, size=size)
  return made


def make_config(folders, tmp_path, sets, *, tasks, image_size=(32, 64)):
  config = tiny('rooms', tmp_path)
  config.data.name = 'nyuv2'
  config.data.data_dir = str(folders['day'])
  config.tasks = tasks
  config.data.image_size = image_size
  with config.unlocked():
    config.data.sets = sets
  return config


def test_every_task_learns_from_pictures_of_its_own(folders, tmp_path, shallow):
  sets = {
    'semantic': {'rate': 3},
    'depth': {'data_dir': str(folders['night'])},
  }
  config = make_config(folders, tmp_path, sets, tasks=('semantic', 'depth'))
  experiment, plan = plan_of(config)
  assert experiment.dataset.name == 'depth + semantic'
  assert experiment.steps_per_epoch == 2  # 4 and 4 frames, 4 a step
  stage = plan['distilled']
  batch = next(stage.data.train(0))
  known = [
    (batch['semantic'] >= 0).any((1, 2)),
    (batch['depth'] > 0).any((1, 2, 3)),
  ]
  assert known[0].sum() == 3 and known[1].sum() == 1
  assert not (known[0] & known[1]).any()
  frozen = {
    t: plan[name].abstract_state.variables for t, name in stage.inputs.items()
  }
  state = stage.abstract_state
  _, losses = jax.eval_shape(
    stage.train_step.function, state, frozen, stage.parallel.shard(batch)
  )
  assert {'loss/semantic', 'alignment/depth'} <= losses.keys()
  # And is scored on them: 4 of each.
  scored = list(stage.data.eval())
  assert sum((b['depth'] > 0).any((1, 2, 3)).sum() for b in scored) == 4
  stored = from_stored(config.to_dict(), where='x')
  assert stored.data.sets.to_dict() == config.data.sets.to_dict()
  assert may_change('data.sets.depth.data_dir')
  assert not may_change('data.sets.depth.rate')


def test_domains_have_heads_of_their_own(folders, tmp_path, shallow):
  sets = {
    'day': {'labels': {'day_classes': 'semantic'}},
    'night': {
      'labels': {'night_classes': 'semantic'},
      'data_dir': str(folders['night']),
    },
  }
  config = make_config(
    folders, tmp_path, sets, tasks=('day_classes', 'night_classes')
  )
  experiment, plan = plan_of(config)
  assert [*plan['distilled'].network.channels] == [*config.tasks]
  assert experiment.dataset.image_size == (32, 64)
  classes = experiment.dataset.labels['night_classes'].classes
  assert classes == experiment.dataset.labels['day_classes'].classes
  assert np.isfinite(next(plan['distilled'].data.train(0))['image']).all()


@pytest.mark.parametrize(
  'sets, message',
  [
    ({'depth': {'data_dri': 'x'}}, r"'data\.data_dri'"),
    ({'depth': {'data_dir': '/none'}}, r'config\.data\.sets\.depth\.data_dir'),
    ({'depth': {'rate': -1}}, r'config\.data\.sets\.depth\.rate'),
    ({'depth': 'nyuv2'}, r'config\.data\.sets\.depth'),
    ({'depth': {'labels': {'depth': 'far'}}}, r'sets\.depth\.labels'),
    ({'edges': {}}, r"'edges'|which of its labels"),
  ],
)
def test_what_cannot_be_opened_is_named_with_its_key(
  folders, tmp_path, sets, message
):
  tasks = ('depth', 'edges') if 'edges' in sets else ('depth',)
  config = make_config(folders, tmp_path, sets, tasks=tasks)
  with pytest.raises(InputError, match=message):
    build(config)


def test_sizes_that_differ_are_told(folders, tmp_path):
  sets = {'depth': {}, 'semantic': {'data_dir': str(folders['night'])}}
  config = make_config(
    folders, tmp_path, sets, tasks=('depth', 'semantic'), image_size=()
  )
  with pytest.raises(InputError, match=r'config\.data\.image_size'):
    open_dataset(config)


def test_labels_are_known_without_the_data(tmp_path):
  sets = {'semantic': {'name': 'nyuv2'}, 'depth': {'name': 'scenes'}}
  config = make_config(
    {'day': 'nowhere'}, tmp_path, sets, tasks=('semantic', 'depth')
  )
  dataset = open_dataset(config, data=False)
  assert dataset.labels['semantic'].quantity == 'class'
  assert dataset.labels['depth'].unit == 'm'
