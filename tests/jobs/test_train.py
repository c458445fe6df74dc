"""Parts of the training job that its runs do not reach."""

import json
from types import SimpleNamespace

from fixtures.backbones import Tiny
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.datasets import loader
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import train
from mtl_kd_jax.runtime.statistics import with_statistics, write_statistics

pytestmark = pytest.mark.usefixtures('without_figures')

VARIABLES = {
  'params': {'a': np.ones(2, np.float32)},
  'batch_stats': {'mean': np.zeros(2, np.float32)},
}


@pytest.fixture
def config(monkeypatch, tmp_path):
  """Of one epoch of one step."""
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size = 1, 4
  config.model.backbone = 'tiny'
  config.data.data_dir, config.data.check = str(tmp_path / 'data'), False
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (32, 32), 4, 4
  config.report.images, config.report.average_epochs = 0, 0
  return config


def test_a_damaged_record_of_what_was_trained_is_mended(config, tmp_path):
  run = mtl.train(config, tmp_path / 'run')
  before = run['teacher_depth'].metrics
  (record,) = (tmp_path / 'run').glob('checkpoints/*/last/1/info/metadata')
  record.write_text('{"finished": fal')
  with pytest.raises(InputError, match='info/metadata'):
    run['teacher_depth']
  with pytest.warns(UserWarning, match='is damaged'):
    again = mtl.train(config, tmp_path / 'run')
  assert again['teacher_depth'].metrics == before
  assert (record.parents[3] / 'damaged').exists()


def test_the_title_says_that_no_checkpoint_could_be_chosen(
  config, monkeypatch, tmp_path
):
  """No label in the split, so that no score is better than another."""
  batches = loader.eval_batches

  def without_labels(*args, **options):
    for batch in batches(*args, **options):
      yield batch | {'depth': np.zeros_like(batch['depth'])}

  monkeypatch.setattr(loader, 'eval_batches', without_labels)
  config.name, config.select = 'blind', 'best'
  mtl.train(config, tmp_path / 'run')
  document = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert document['checkpoint'] == 'last'
  assert document['not_chosen'] == ['teacher_depth']
  title = (tmp_path / 'run' / 'results.md').read_text().splitlines()[0]
  assert title == (
    "# blind: last checkpoints (none has a score on split 'val' to choose the "
    "best by) on split 'val'"
  )


# ---- Several hosts decide together -------------------------------------------


def fake_stage(**attributes):
  return SimpleNamespace(
    name='x',
    trained_in=None,
    total_steps=5,
    parallel=SimpleNamespace(replicate=lambda tree: tree),
    **attributes,
  )


@pytest.mark.parametrize('another_misses_it', [False, True])
def test_all_hosts_recalibrate_or_none(
  another_misses_it, monkeypatch, tmp_path
):
  """It is a computation that all of them take part in."""
  asked = []

  def recalibrate(variables, num_batches):
    asked.append(num_batches)
    return variables

  monkeypatch.setattr(
    train, 'any_process', lambda flag: flag or another_misses_it
  )
  folder = tmp_path / 'checkpoints' / 'x'
  folder.mkdir(parents=True)
  write_statistics(folder, VARIABLES, num_batches=5)
  _, over = train.with_own_statistics(
    fake_stage(recalibrate=recalibrate), VARIABLES, tmp_path, num_batches=9
  )
  assert asked == [5] * another_misses_it and over == 5
  assert with_statistics(folder, VARIABLES)[1] == 5


@pytest.mark.parametrize('another_trains', [False, True])
def test_all_hosts_train_a_stage_or_none(another_trains, monkeypatch, tmp_path):
  monkeypatch.setattr(train.checkpointing, 'is_finished', lambda folder: True)
  monkeypatch.setattr(train.workdirs, 'claim_stage', lambda *args: None)
  monkeypatch.setattr(train, 'describe_stage', lambda stage: {})
  monkeypatch.setattr(train, 'any_process', lambda flag: flag or another_trains)
  monkeypatch.setattr(train, '_read', lambda *args, best: 'read')
  monkeypatch.setattr(
    train,
    'run_stage',
    lambda *args, **options: SimpleNamespace(variables='trained'),
  )
  found = train.train_stage(
    fake_stage(),
    {},
    workdir=tmp_path,
    writer=None,
    intervals=None,
    best=False,
    score=None,
  )
  assert found == ('trained' if another_trains else 'read')
