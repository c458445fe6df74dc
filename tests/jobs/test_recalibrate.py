"""Networks are scored with statistics that belong to their weights."""

import json

from fixtures.backbones import Tiny
import numpy as np
import pytest

import mtl_kd_jax as mtl

pytestmark = pytest.mark.usefixtures('without_figures')


def statistics(trained):
  return trained.variables['batch_stats']['backbone']['BatchNorm_0']


def note(workdir, name='results'):
  """What a report says of the statistics."""
  (text,) = json.loads((workdir / f'{name}.json').read_text())['notes']
  assert f'{text}\n' in (workdir / f'{name}.md').read_text()
  return text


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size, config.baseline = 1, 4, False
  config.model.backbone = 'tiny'
  config.data.data_dir, config.data.check = str(tmp_path / 'data'), False
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (16, 16), 8, 4
  config.report.images, config.report.average_epochs = 0, 0
  return config


def test_a_run_is_scored_and_read_with_recalibrated_statistics(
  config, tmp_path
):
  config.recalibrate = 10_000  # more than there are
  config.select, config.report.average_epochs = 'best', 1
  workdir, name = tmp_path / 'run', 'teacher_depth'
  run = mtl.train(config, workdir)
  recalibrated = run[name]
  file = workdir / 'checkpoints' / name / 'statistics.npz'
  written = file.stat().st_mtime_ns
  # After two steps the running means have hardly left 0.
  running = run.network(name, recalibrated=False)
  ratio = statistics(running)['mean'] / statistics(recalibrated)['mean']
  np.testing.assert_allclose(ratio, 1 - 0.9**2, atol=0.05)
  assert recalibrated.recalibrated_over == 2 and running.recalibrated_over == 0
  text = note(workdir)
  assert 'computed anew over 2 batches of training.' in text
  assert 'With the running means: single-task, depth: ' in text
  assert text.endswith(
    'Of the running means: the means over the last epochs, the choice of the '
    'best checkpoints.'
  )
  # Evaluation uses them too, and training again computes nothing anew.
  scores = run.metrics[name]
  mtl.evaluate(workdir)
  again = json.loads((workdir / 'results_val.json').read_text())
  assert again['rows']['single-task']['metrics']['depth'] == scores['depth']
  assert note(workdir, 'results_val') == text.replace(
    'the means over the last epochs, ', ''
  )
  mtl.train(config, workdir)
  assert file.stat().st_mtime_ns == written
  assert run.metrics[name] == scores
  # The report is about what was scored, not about what the config says.
  file.unlink()
  mtl.evaluate(workdir)
  assert note(workdir, 'results_val') == (
    'Statistics of BatchNorm: the running means of training.'
  )


def test_teachers_of_another_run_keep_their_statistics(config, tmp_path):
  mtl.train(config, tmp_path / 'teachers')
  config.method, config.recalibrate = 'multi_task', 2
  config.teacher.workdir = str(tmp_path / 'teachers')
  mtl.train(config, tmp_path / 'run')
  expected = (
    'Statistics of BatchNorm: the running means of training (teacher_depth); '
    'computed anew over 2 batches of training (balanced).'
  )
  assert note(tmp_path / 'run').startswith(expected)
  mtl.evaluate(tmp_path / 'run')
  assert note(tmp_path / 'run', 'results_val').startswith(expected)
