"""launch.py --job=export and --job=latency."""

import json

from fixtures.launching import launch
from fixtures.toy import SIZE
import jax
import jax.numpy as jnp
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.exporting import latency as measuring
from mtl_kd_jax.jobs import latency
from mtl_kd_jax.trained import TrainedNetwork

TASKS = mtl.datasets.preview('scenes').tasks('semantic', 'depth')
CONFIG = {'name': 'drawn', 'data': {'name': 'scenes'}, 'tasks': [*TASKS]}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of networks that were not trained, of a registered backbone."""
  networks = {}
  for name, tasks in {
    'distilled': TASKS,
    'teacher_depth': {'depth': TASKS['depth']},
  }.items():
    module = mtl.models.make('segnet', tasks, width=1 / 64)
    variables = jax.jit(lambda x, m=module: m.init(x, IMAGE, train=False))(
      jax.random.key(0)
    )
    networks[name] = TrainedNetwork(name, module, variables, tasks, SIZE)
  return mtl.write_run(tmp_path_factory.mktemp('run'), CONFIG, networks)


IMAGE = jnp.zeros((1, *SIZE, 3))


def test_the_command_says_how_large_the_differences_are(run, tmp_path):
  code, stdout, stderr = launch(
    '--job=export',
    f'--workdir={run.workdir}',
    '--to=safetensors,saved',
    f'--out={tmp_path}/out',
  )
  assert code == 0 and not stderr, stderr
  assert 'compared on rooms of the run' in stdout
  assert 'safetensors: network.safetensors' in stdout
  assert 'largest differences: semantic 0, depth 0 m' in stdout
  folder = mtl.load(tmp_path / 'out')
  assert folder.formats == ('safetensors', 'saved')
  for format_ in folder.formats:
    network = folder.network(format=format_)
    jax.tree.map(
      lambda a, b: (a == b).all() or pytest.fail('others'),
      network.variables,
      run['distilled'].variables,
    )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('--workdir={empty}',), 'the workdir of an earlier run'),
    ((), '--workdir'),
    (('--workdir={run}', '--network=uniform'), "no 'uniform'"),
    (('--workdir={run}', '--to=tflite'), 'tflite'),
    (('--workdir={run}', '--out={run}'), 'checkpoints'),
  ],
  ids=['no run', 'none', 'network', 'format', 'files'],
)
def test_what_cannot_be_exported_is_one_message(
  arguments, message, run, tmp_path
):
  before = sorted(run.workdir.rglob('*'))
  code, stdout, stderr = launch(
    '--job=export',
    *(a.format(run=run.workdir, empty=tmp_path) for a in arguments),
  )
  assert code == 2 and message in stderr
  assert 'Traceback' not in stdout + stderr
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
