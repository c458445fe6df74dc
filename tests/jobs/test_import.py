"""--job=import, and the use of the imported networks."""

import json

from fixtures.launching import run_python
from fixtures.layers import make_shallow
import numpy as np
import pytest
from safetensors.numpy import save_file

import mtl_kd_jax as mtl
from mtl_kd_jax import models
from mtl_kd_jax.interop.import_torch import torch_shapes
from mtl_kd_jax.jobs import import_weights
from mtl_kd_jax.models.network import abstract_init

pytestmark = pytest.mark.usefixtures('without_figures')

TASKS = ('semantic', 'depth')
SIZE = (32, 32)
# Of a SegNet.
NETWORK = {
  'model.head': 'dense',
  'model.width': 1 / 32,
  'distill.taps': ('bottleneck', 'decoder'),
}
# launch.py, with networks as shallow as those of the other tests.
SHALLOW = """
import runpy, sys, types
sys.path.append('tests')
from fixtures.layers import make_shallow
make_shallow(types.SimpleNamespace(setattr=setattr))
runpy.run_path('launch.py', run_name='__main__')
"""


@pytest.fixture(scope='module', autouse=True)
def shallow_segnet():
  with pytest.MonkeyPatch.context() as patch:
    make_shallow(patch)
    yield


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('data'))


@pytest.fixture
def config(data_dir):
  """Of one epoch of one step."""
  config = mtl.get_config()
  config.method, config.tasks, config.baseline = 'distill', TASKS, False
  config.epochs, config.batch_size = 1, 4
  config.update_from_flattened_dict({'model.backbone': 'segnet', **NETWORK})
  config.data.data_dir, config.data.check = data_dir, False
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = SIZE, 4, 4
  config.report.images, config.report.average_epochs = 0, 0
  return config


@pytest.fixture(scope='module')
def torch_file(tmp_path_factory):
  """Random weights in PyTorch's names, and one that no network has."""
  tasks = mtl.datasets.preview('scenes', image_size=SIZE).tasks(*TASKS)
  _, like = abstract_init(models.make('segnet', tasks, width=1 / 32), SIZE)
  rng = np.random.default_rng(0)
  weights = {
    name: np.float32(
      rng.normal(0, 0.3, shape) if len(shape) == 4 else rng.uniform(0, 1, shape)
    )
    for name, shape in torch_shapes(like).items()
  }
  path = tmp_path_factory.mktemp('torch') / 'weights.safetensors'
  save_file(weights | {'logsigma': np.zeros(3, np.float32)}, path)
  return str(path)


@pytest.fixture
def imported(config, torch_file, tmp_path):
  return import_weights.run(
    config, tmp_path / 'imported', torch=torch_file
  ).workdir


def test_the_command_reports_which_weights_it_used(torch_file, tmp_path):
  workdir = tmp_path / 'run'
  code, stdout, stderr = run_python(
    '-c',
    SHALLOW,
    '--job=import',
    '--config=configs/quickstart.py',
    f'--config.tasks={TASKS}',
    *(f'--config.{key}={value}' for key, value in NETWORK.items()),
    '--network=segnet',  # which the config's is not
    f'--torch={torch_file}',
    f'--workdir={workdir}',
  )
  assert code == 0, stderr
  for task in TASKS:
    assert f'teacher_{task}: ' in stdout
    assert (workdir / 'checkpoints' / f'teacher_{task}').is_dir()
  assert 'logsigma' in stdout and 'ignored' in stdout


def test_an_import_is_never_overwritten(config, torch_file, imported):
  before = {p: p.stat().st_mtime_ns for p in imported.rglob('*')}
  with pytest.raises(mtl.InputError, match='left as it is'):
    import_weights.run(config, imported, torch=torch_file)
  assert before == {p: p.stat().st_mtime_ns for p in imported.rglob('*')}


def test_imported_networks_are_scored_and_teach(
  config, imported, tmp_path, capsys
):
  scores = mtl.evaluate(imported).metrics
  assert 'not scored, since not finished: distilled' in capsys.readouterr().out
  assert scores.keys() == {f'teacher_{task}' for task in TASKS}
  # Imported networks have no metrics until they are scored.
  for name, metrics in scores.items():
    path = imported / 'checkpoints' / name / 'metrics.json'
    assert json.loads(path.read_text()) == metrics

  config.teacher.workdir = str(imported)
  taught = mtl.train(config, tmp_path / 'run')
  assert taught.metrics.keys() == {'distilled'}
  results = json.loads((taught.workdir / 'results.json').read_text())['rows']
  assert results.keys() == {'single-task', 'distilled'}
  for task in TASKS:
    expected = scores[f'teacher_{task}'][task]
    assert results['single-task']['metrics'][task] == expected
  assert not list(taught.workdir.glob('checkpoints/teacher_*'))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'network': 'mtan'}, '--network'),
    ({'stage': 'teacher_sky'}, 'teacher_depth'),
  ],
  ids=['network', 'stage'],
)
def test_an_impossible_import_is_refused(
  options, message, config, torch_file, tmp_path
):
  with pytest.raises(mtl.InputError, match=message):
    import_weights.run(config, tmp_path / 'run', torch=torch_file, **options)
  assert not (tmp_path / 'run').exists()


def test_a_teacher_of_another_network_is_refused_before_training(
  config, imported, tmp_path
):
  config.teacher.workdir, config.teacher.model.width = str(imported), 1 / 16
  with pytest.raises(mtl.InputError, match='in place of'):
    mtl.train(config, tmp_path / 'run')
