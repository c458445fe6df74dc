"""A finished run is trained for more epochs."""

import json

from fixtures.backbones import Tiny
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.config.validate import may_change_from
from mtl_kd_jax.jobs import train
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_log import read_log

pytestmark = pytest.mark.usefixtures('without_figures')


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
  scenes.image_size, scenes.num_train, scenes.num_val = (16, 16), 8, 4
  return config


def results(run):
  document = json.loads((run.workdir / 'results.json').read_text())
  assert document['mean_of_last_epochs']['epochs'] == 2
  return {k: document[k] for k in document if k != 'name'}


def test_more_epochs_give_what_a_longer_run_gives(config, tmp_path, capsys):
  config.select, config.report.average_epochs = 'best', 2
  mtl.train(config, tmp_path / 'run')
  config.epochs = 3
  run = mtl.train(config, tmp_path / 'run')
  assert run.config.epochs == 3
  config.name = 'another'
  whole, name = mtl.train(config, tmp_path / 'whole'), 'teacher_depth'
  for best in (False, True):
    jax.tree.map(
      np.testing.assert_array_equal,
      run.network(name, best=best).variables,
      whole.network(name, best=best).variables,
    )
  steps = [e['step'] for e in read_log(tmp_path / 'run') if e['kind'] == 'eval']
  assert steps == [2, 4, 6]
  assert run.metrics == whole.metrics
  assert results(run) == results(whole)
  config.epochs = 2
  with pytest.raises(mtl.InputError, match='epochs was 3 and is 2'):
    mtl.train(config, tmp_path / 'run')


def test_students_go_on_with_other_teachers_and_say_so(
  config, tmp_path, capsys
):
  """In the report, and before anything is trained."""
  config.method, config.tasks = 'distill', ('depth', 'normals')
  config.select, config.report.images = 'best', 0
  mtl.train(config, tmp_path)
  assert 'trained for longer' not in capsys.readouterr().out
  config.epochs = 2
  mtl.train(config, tmp_path)
  introduced, _, _ = capsys.readouterr().out.partition('[teacher_depth]')
  report = (tmp_path / 'results.md').read_text()
  names = '(teacher_depth, teacher_normals)'
  for note in (
    f'distilled began before its teachers {names} were',
    f'uniform was scored before the single-task networks {names} that',
    f'distilled was scored before the single-task networks {names} that',
  ):
    assert note in introduced and note in report
  assert report.count('trained for longer') == 3


def test_teachers_of_another_run_may_be_trained_for_longer_too(
  config, tmp_path, capsys
):
  config.report.images = 0
  mtl.train(config, tmp_path / 'teachers')
  student = config.copy_and_resolve_references()
  student.method, student.baseline = 'distill', False
  student.teacher.workdir = str(tmp_path / 'teachers')
  mtl.train(student, tmp_path / 'run')
  config.epochs = student.epochs = 2
  mtl.train(config, tmp_path / 'teachers')
  assert 'trained for longer' not in capsys.readouterr().out
  mtl.train(student, tmp_path / 'run')
  note = 'distilled began before its teachers (teacher_depth) were trained'
  assert note in capsys.readouterr().out
  assert note in (tmp_path / 'run' / 'results.md').read_text()


@pytest.mark.parametrize(
  ('section', 'method'),
  [('optim', 'single_task'), ('optim', 'distill'), ('distill', 'distill')],
)
def test_a_cosine_cannot_go_on(section, method, config, tmp_path):
  config.method = method
  old = config.to_dict()
  config[section].schedule = 'cosine'
  sections = ('optim', 'distill')
  assert not may_change_from(old, config, schedules=sections)('epochs')
  workdirs.claim(tmp_path / 'run', config.to_dict())
  config.epochs = 2
  with pytest.raises(mtl.InputError) as error:
    train.run(config, tmp_path / 'run')
  assert f'config.{section}.schedule' in error.value.expected
  assert error.value.where == 'config.epochs'


@pytest.mark.parametrize('method', ['single_task', 'multi_task'])
def test_a_cosine_of_adaptors_is_ignored_without_them(
  method, config, tmp_path, monkeypatch
):
  config.method, config.distill.schedule = method, 'cosine'
  workdirs.claim(tmp_path / 'run', config.to_dict())
  config.epochs = 2
  monkeypatch.setattr(train, '_train', lambda *args: None)
  assert train.run(config, tmp_path / 'run').config.epochs == 2
