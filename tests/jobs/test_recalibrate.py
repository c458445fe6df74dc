"""Networks are scored with statistics that belong to their weights."""

import json

from fixtures.backbones import Tiny
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.reports.statistics import describe_statistics
from mtl_kd_jax.tasks import make_tasks


def statistics(trained):
  return trained.variables['batch_stats']['backbone']['BatchNorm_0']


def test_a_run_is_scored_and_read_with_recalibrated_statistics(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size, config.recalibrate = 1, 4, 2
  config.model.backbone = 'tiny'
  config.data.data_dir, config.data.check = str(tmp_path / 'data'), False
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (32, 32), 8, 4
  workdir, name = tmp_path / 'run', 'teacher_depth'
  run = mtl.train(config, workdir)
  recalibrated = run[name]
  file = workdir / 'checkpoints' / name / 'statistics.npz'
  written = file.stat().st_mtime_ns
  # After two steps the running means have hardly left 0.
  file.rename(tmp_path / 'away')
  running = run[name]
  (tmp_path / 'away').rename(file)
  ratio = statistics(running)['mean'] / statistics(recalibrated)['mean']
  np.testing.assert_allclose(ratio, 1 - 0.9**2, atol=0.05)
  document = json.loads((workdir / 'results.json').read_text())
  assert 'over 2 batches' in document['statistics']
  assert (
    'With the running means: single-task, depth: '
    in (workdir / 'results.md').read_text()
  )
  # Evaluation uses them too, and training again computes nothing anew.
  scores = run.metrics[name]
  mtl.evaluate(workdir)
  again = json.loads((workdir / 'results_val.json').read_text())
  assert again['rows']['single-task']['metrics']['depth'] == scores['depth']
  mtl.train(config, workdir)
  assert file.stat().st_mtime_ns == written
  assert run.metrics[name] == scores


@pytest.mark.parametrize(
  ('old', 'expected'),
  [
    (0.60, 'The running means give the same'),
    (1.09, 'uniform, depth: AbsErr 1.09 instead of 0.6 m.'),
  ],
)
def test_a_difference_of_more_than_a_few_percent_is_reported(old, expected):
  data = mtl.datasets.preview('scenes', image_size=(32, 32))
  tasks = make_tasks(('depth',), data.labels, dataset='scenes')
  rows, running = (
    {'uniform': {'depth': {tasks['depth'].headline: x}}} for x in (0.6, old)
  )
  text = describe_statistics(rows, running, tasks, num_batches=8)
  assert expected in text and 'over 8 batches' in text
  assert describe_statistics(rows, running, tasks, num_batches=0) == ''
