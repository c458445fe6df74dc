"""A finished run is trained for more epochs."""

from fixtures.backbones import Tiny
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.config.validate import may_change_from
from mtl_kd_jax.runtime.metric_writer import read_log


@pytest.fixture
def config(monkeypatch, tmp_path):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size = 1, 4
  config.optim.schedule, config.optim.decay_every_epochs = 'step', 1
  config.model.backbone = 'tiny'
  config.data.data_dir, config.data.check = str(tmp_path / 'data'), False
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (32, 32), 8, 4
  return config


def test_more_epochs_give_what_a_longer_run_gives(config, tmp_path, capsys):
  mtl.train(config, tmp_path / 'run')
  config.epochs = 3
  run = mtl.train(config, tmp_path / 'run')
  assert run.config.epochs == 3
  config.name = 'another'
  whole = mtl.train(config, tmp_path / 'whole')
  name = 'teacher_depth'
  jax.tree.map(
    np.testing.assert_array_equal,
    run[name].variables,
    whole[name].variables,
  )
  steps = [e['step'] for e in read_log(tmp_path / 'run') if e['kind'] == 'eval']
  assert steps == [2, 4, 6]
  assert run.metrics == whole.metrics
  config.epochs = 2
  with pytest.raises(mtl.InputError, match='epochs was 3 and is 2'):
    mtl.train(config, tmp_path / 'run')


@pytest.mark.parametrize('section', ['optim', 'distill'])
def test_a_cosine_cannot_go_on(section, config):
  old = config.to_dict()
  config[section].schedule = 'cosine'
  assert not may_change_from(old, config)('epochs')
  config.epochs = 2
  with pytest.raises(mtl.InputError) as error:
    may_change_from(old, config)
  assert f'config.{section}.schedule' in error.value.expected
  assert error.value.where == 'config.epochs'
