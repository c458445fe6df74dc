"""Files of a run that say something else than what was written."""

import json
import shutil

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (16, 16)
STAGE = 'checkpoints/one/stage.json'
METRICS = 'checkpoints/one/metrics.json'


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    tasks = mtl.datasets.preview('scenes').tasks('semantic', 'depth')
    module = mtl.models.make('tiny', tasks)
    variables = draw_variables(module, SIZE)
    network = TrainedNetwork('one', module, variables, tasks, SIZE)
    workdir = tmp_path_factory.mktemp('sound') / 'run'
    mtl.write_run(workdir, mtl.get_config().to_dict(), {'one': network})
  workdirs.write_metrics(workdir, 'one', {'depth': {'rmse': 1.0}})
  return workdir


@pytest.fixture
def workdir(sound, tmp_path, monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  return shutil.copytree(sound, tmp_path / 'run')


def put(workdir, name, key, value):
  """Sets what stands under a key with dots, e.g. 'stages.0.row'."""
  path = workdir / name
  document = json.loads(path.read_text())
  *parts, last = [int(x) if x.isdigit() else x for x in key.split('.')]
  place = document
  for part in parts:
    place = place[part]
  place[last] = value
  path.write_text(json.dumps(document))


def is_refused(workdir, use, file):
  """Checks that the message names the file, and that nothing changes."""
  before = {p: p.is_file() and p.read_bytes() for p in workdir.rglob('*')}
  with pytest.raises(mtl.InputError) as error:
    use(mtl.load(workdir))
  assert error.value.where.startswith(str(workdir / file))
  after = {p: p.is_file() and p.read_bytes() for p in workdir.rglob('*')}
  assert after == before


def test_a_sound_run_is_opened(workdir):
  assert mtl.load(workdir)['one'].metrics == {'depth': {'rmse': 1.0}}


@pytest.mark.parametrize(
  'key, value',
  [
    ('network', None),
    ('network', [1]),
    ('network', {}),
    ('network.magic', 1),
    ('network.image_size', None),
    ('network.image_size', 'ab'),
    ('network.image_size', [float('nan'), 32]),
    ('network.image_size', [32]),
    ('network.image_size', [0, 32]),
    ('network.spec', [1]),
    ('network.spec', {}),
    ('network.spec.backbone', [1]),
    ('network.spec.backbone', None),
    ('network.spec.width', 'x'),
    ('network.spec.magic', 1),
    ('network.labels', None),
    ('network.labels', [1]),
    ('network.labels.depth', None),
    ('network.labels.depth', {}),
    ('network.labels.depth.quantity', [1]),
    ('network.labels.depth.classes', None),
    ('network.labels.depth.classes', [1]),
    ('network.labels.depth.colors', 3),
    ('network.labels.depth.colors', [3]),
    ('network.labels.depth.magic', 1),
  ],
  ids=str,
)
def test_another_description_of_a_network_is_one_message(key, value, workdir):
  put(workdir, STAGE, key, value)
  is_refused(workdir, lambda run: run['one'], STAGE)


@pytest.mark.parametrize(
  'key, value',
  [
    ('stages', None),
    ('stages', {'one': 1}),
    ('stages.0', 'one'),
    ('stages.0.row', None),
    ('stages.0.row', ['a']),
    ('stages.0.name', 3),
    ('stages.0.name', None),
    ('stages.0.name', ''),
    ('stages.0.name', '..'),
    ('stages.0.name', '../../other/checkpoints/one'),
    ('stages.0.name', '/etc'),
    ('stages.0.name', 'a\0b'),
    ('stages.0.name', 'x' * 300),
    ('stages.0.trained_in', 3),
    ('stages.0.trained_in', ['x']),
  ],
  ids=lambda x: str(x)[:30],
)
def test_another_plan_is_one_message(key, value, workdir):
  put(workdir, 'plan.json', key, value)
  is_refused(workdir, lambda run: run.plan, 'plan.json')


@pytest.mark.parametrize(
  'key, value',
  [('depth', None), ('depth', [1.0]), ('depth.rmse', '1'), ('depth.rmse', {})],
  ids=str,
)
def test_other_metrics_are_one_message(key, value, workdir):
  put(workdir, METRICS, key, value)
  is_refused(workdir, lambda run: run.metrics, METRICS)
  is_refused(workdir, mtl.table, METRICS)


@pytest.mark.parametrize('file', ['config.json', 'plan.json', STAGE, METRICS])
@pytest.mark.parametrize(
  'text', [b'', b'{"', b'[]', b'null', b'NaN', b'\xff', b'[' * 10**5]
)
def test_a_file_that_is_broken_is_one_message(file, text, workdir):
  (workdir / file).write_bytes(text)

  def use(run):
    run.plan, run['one'], run.metrics

  folder = '' if file == 'config.json' else file
  is_refused(workdir, use, folder)


@pytest.mark.parametrize('name', ['', '..', 'a/b', '../a', 'x' * 300, 'a\n'])
def test_a_stage_has_a_name_that_can_be_a_folder(name, workdir):
  with pytest.raises(mtl.InputError) as error:
    workdirs.claim_stage(workdir, name, {})
  assert error.value.argument == 'name'
