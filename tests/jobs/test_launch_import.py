"""launch.py --job=import, and the use of the imported networks."""

import json

from fixtures.launching import SEGNET, launch
import numpy as np
import pytest
from safetensors.numpy import save_file

from mtl_kd_jax import datasets, models
from mtl_kd_jax.interop.import_torch import torch_shapes
from mtl_kd_jax.models.network import abstract_init

TASKS = ('semantic', 'depth')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return f'--config.data.data_dir={tmp_path_factory.mktemp("tfds")}'


@pytest.fixture(scope='module')
def torch_file(tmp_path_factory):
  """Random weights for the network of `SEGNET`, in PyTorch's names."""
  size = (32, 32)
  data = datasets.preview('scenes', image_size=size)
  _, like = abstract_init(
    models.make('segnet', data.tasks(*TASKS), width=1 / 32), size
  )
  rng = np.random.default_rng(0)
  weights = {
    name: np.float32(
      rng.normal(0, 0.3, shape) if len(shape) == 4 else rng.uniform(0, 1, shape)
    )
    for name, shape in torch_shapes(like).items()
  }
  path = tmp_path_factory.mktemp('torch') / 'weights.safetensors'
  save_file(weights | {'logsigma': np.zeros(3, np.float32)}, path)
  return path, weights


@pytest.fixture(scope='module')
def imported(torch_file, data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('imported') / 'run'
  arguments = [
    *SEGNET,
    data_dir,
    '--job=import',
    f'--torch={torch_file[0]}',
    '--network=segnet',
    f'--workdir={workdir}',
  ]
  code, stdout, stderr = launch(*arguments)
  assert code == 0, stderr
  return workdir, stdout, arguments


def test_an_import_reports_which_weights_it_used(imported):
  workdir, stdout, _ = imported
  for task in TASKS:
    assert f'teacher_{task}: ' in stdout
    assert (workdir / 'checkpoints' / f'teacher_{task}').is_dir()
  assert 'logsigma' in stdout and 'ignored' in stdout


def test_an_import_is_never_overwritten(imported):
  workdir, _, arguments = imported
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  code, _, stderr = launch(*arguments)
  assert code == 2 and 'left as it is' in stderr
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}


def test_imported_networks_are_scored_and_teach(
  imported, torch_file, data_dir, tmp_path
):
  workdir, _, _ = imported
  code, stdout, stderr = launch(
    '--job=evaluate', f'--workdir={workdir}', figures=False
  )
  assert code == 0, stderr
  assert 'not scored, since not finished: uniform, distilled' in stdout
  assert not stderr
  scores = json.loads((workdir / 'results_val.json').read_text())['rows']
  assert scores.keys() == {'single-task'}
  # Imported networks have no metrics until they are scored.
  for task, metrics in scores['single-task']['metrics'].items():
    path = workdir / 'checkpoints' / f'teacher_{task}' / 'metrics.json'
    assert json.loads(path.read_text()) == {task: metrics}

  code, stdout, stderr = launch(
    *SEGNET,
    data_dir,
    f'--workdir={tmp_path}',
    f'--config.teacher.workdir={workdir}',
    '--config.baseline=False',
    figures=False,
  )
  assert code == 0 and not stderr, stderr
  taught = json.loads((tmp_path / 'results.json').read_text())['rows']
  assert taught['single-task'] == scores['single-task']
  assert taught.keys() == {'single-task', 'distilled'}
  assert not list(tmp_path.glob('checkpoints/teacher_*'))


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('--network=mtan',), '--network'),
    (('--stage=teacher_sky',), 'teacher_depth'),
  ],
  ids=str,
)
def test_an_impossible_import_is_one_message(
  arguments, message, torch_file, tmp_path
):
  code, stdout, stderr = launch(
    *SEGNET,
    '--job=import',
    f'--torch={torch_file[0]}',
    f'--workdir={tmp_path}/run',
    *arguments,
  )
  assert code == 2 and message in stderr
  assert 'Traceback' not in stderr + stdout
  assert not (tmp_path / 'run').exists()


def test_a_teacher_of_another_network_is_refused_before_training(
  imported, data_dir, tmp_path
):
  code, _, stderr = launch(
    *SEGNET,
    data_dir,
    f'--workdir={tmp_path}',
    f'--config.teacher.workdir={imported[0]}',
    '--config.teacher.model.width=0.0625',
  )
  assert code == 2 and 'in place of' in stderr
  assert 'Traceback' not in stderr
