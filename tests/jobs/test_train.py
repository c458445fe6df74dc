"""Parts of the training job that its runs do not reach."""

import json
import shutil
from types import SimpleNamespace

from fixtures.backbones import Tiny
from fixtures.bucket import Buckets
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.datasets import loader
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import JOBS, predict, train
from mtl_kd_jax.runtime import buckets
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
  scenes.image_size, scenes.num_train, scenes.num_val = (16, 16), 4, 4
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


def test_what_cannot_begin_leaves_nothing_behind(config, tmp_path):
  """Teachers that are not there, and files that no run has written."""
  config.method = 'distill'
  config.teacher.workdir = str(tmp_path / 'nowhere')
  with pytest.raises(InputError, match='expected the workdir') as error:
    mtl.train(config, tmp_path / 'run')
  assert error.value.do.endswith('config.teacher.workdir')
  assert not (tmp_path / 'run' / 'config.json').exists()
  config.teacher.workdir = ''
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'results.md').write_text('precious')
  with pytest.raises(InputError, match=r'results\.md'):
    mtl.train(config, tmp_path / 'mine')
  assert (tmp_path / 'mine' / 'results.md').read_text() == 'precious'
  assert not (tmp_path / 'mine' / 'config.json').exists()


def test_everything_may_be_in_a_bucket(config, bucket, tmp_path):
  config.data.data_dir = f'{bucket}/data'
  run = mtl.train(config, f'{bucket}/run')
  written = set(buckets.objects(buckets.path_of(f'{bucket}/run')))
  assert {'config.json', 'metrics.jsonl', 'results.md'} <= written
  assert '.lock' not in written
  network = mtl.load(f'{bucket}/run')['teacher_depth']
  assert network.metrics == run.metrics['teacher_depth']

  # Its data are read from a copy, by other machines too.
  shutil.rmtree(tmp_path / 'cache')
  again = mtl.evaluate(f'{bucket}/run')
  assert again.metrics == run.metrics
  assert any((tmp_path / 'cache').rglob('*.array_record*'))

  # Its predictions and exports go to a bucket, and come from one.
  picture = np.zeros((32, 32, 3), np.uint8)
  network.predict(picture).save(f'{bucket}/one')
  options = dict.fromkeys(JOBS['predict'].options)
  options['out'] = f'{bucket}/all'
  options['images'] = f'{bucket}/*/depth.png'
  workdir = buckets.path_of(f'{bucket}/run')
  assert predict.run(config, workdir, **options).written == 1
  assert predict.run(config, workdir, **options).skipped == 1
  exported = mtl.export(network, f'{bucket}/exported', to=['saved'])
  assert mtl.load(f'{bucket}/exported').formats == exported.formats
  np.testing.assert_array_equal(
    exported.network().predict(picture).depth, network.predict(picture).depth
  )
  with pytest.raises(InputError, match='an exported network'):
    mtl.export(network, f'{bucket}/exported', to=['saved'])

  # And it teaches.
  config.teacher.workdir = f'{bucket}/run'
  taught = mtl.train(config, f'{bucket}/taught')
  assert taught.plan['teacher_depth']['trained_in'] == f'{bucket}/run'


def test_a_bucket_that_cannot_be_written_is_told_before_anything(
  config, bucket, monkeypatch
):
  monkeypatch.setattr(Buckets, 'denied', {'write'})
  monkeypatch.setattr(train, 'build', None)
  with pytest.raises(InputError, match='no permission to write') as error:
    mtl.train(config, f'{bucket}/run')
  assert error.value.argument == 'workdir'


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
    parallel=SimpleNamespace(
      replicate=lambda tree: tree, whole=lambda tree: tree
    ),
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
    lambda *args, **options: SimpleNamespace(result='trained'),
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
