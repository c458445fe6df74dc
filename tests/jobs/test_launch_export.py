"""launch.py --job=export and --job=latency."""

import json

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
from fixtures.launching import launch
from fixtures.toy import SIZE
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.exporting import latency as measuring
from mtl_kd_jax.jobs import export, latency
from mtl_kd_jax.trained import TrainedNetwork

TASKS = mtl.datasets.preview('scenes').tasks('semantic', 'depth')
CONFIG = {'name': 'drawn', 'data': {'name': 'scenes'}, 'tasks': [*TASKS]}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of networks that were not trained."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    networks = {}
    for name, tasks in {
      'distilled': TASKS,
      'teacher_depth': {'depth': TASKS['depth']},
    }.items():
      module = mtl.models.make('tiny', tasks)
      variables = draw_variables(module, SIZE)
      networks[name] = TrainedNetwork(name, module, variables, tasks, SIZE)
    yield mtl.write_run(tmp_path_factory.mktemp('run'), CONFIG, networks)


def test_the_command_says_how_large_the_differences_are(run, tmp_path):
  code, stdout, stderr = launch(
    '--config=tests/fixtures/tiny_config.py',  # registers the backbone
    '--job=export',
    f'--workdir={run.workdir}',
    '--to=saved',
    '--outputs=raw',
    f'--out={tmp_path}/out',
  )
  assert code == 0 and not stderr, stderr
  assert 'compared on rooms of the run' in stdout
  assert 'saved: saved' in stdout
  assert 'largest differences: semantic 0, depth 0 m' in stdout
  folder = mtl.load(tmp_path / 'out')
  assert folder.formats == ('saved',)
  assert not folder.metadata['finished']
  jax.tree.map(
    np.testing.assert_array_equal,
    folder['distilled'].variables,
    run['distilled'].variables,
  )


def test_a_folder_that_is_no_run_is_one_message(tmp_path):
  code, stdout, stderr = launch('--job=export', f'--workdir={tmp_path}')
  assert code == 2 and 'the workdir of an earlier run' in stderr
  assert 'Traceback' not in stdout + stderr
  with pytest.raises(mtl.InputError, match='workdir'):
    export.default_config(None)


@pytest.mark.parametrize(
  'options, found',
  [
    ({'network': 'uniform'}, "no 'uniform'"),
    ({'to': ['tflite']}, 'tflite'),
    ({'out': '.'}, 'checkpoints'),
  ],
  ids=['network', 'format', 'files'],
)
def test_what_cannot_be_exported_is_refused(options, found, run):
  before = sorted(run.workdir.rglob('*'))
  if 'out' in options:
    options = {'out': run.workdir}
  config = export.default_config(run.workdir)
  with pytest.raises(mtl.InputError) as error:
    export.run(config, run.workdir, **options)
  assert found in error.value.found
  assert sorted(run.workdir.rglob('*')) == before


def test_latency_falls_back_on_parts_of_the_network(run, monkeypatch):
  """There is no teacher of one of the tasks."""
  few = {'batch_sizes': (1,), 'seconds': 0, 'rounds': (2, 2)}
  monkeypatch.setattr(
    latency,
    'measure',
    lambda sides, devices: measuring.measure(sides, devices=devices, **few),
  )
  measured = latency.run(run.config, run.workdir)
  assert list(measured) == ['2 networks like distilled', 'distilled']
  content = json.loads((run.workdir / 'latency.json').read_text())
  assert content['networks'].keys() == measured.keys()
  with pytest.raises(mtl.InputError, match='several tasks'):
    latency.run(run.config, run.workdir, network='teacher_depth')
