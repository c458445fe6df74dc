"""--job=evaluate: what is scored, what is written, and what is left out."""

import json

from fixtures.backbones import Tiny
import jax
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.jobs import evaluate
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (32, 32)
TASKS = mtl.datasets.preview('scenes').tasks('depth', 'normals')


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  config = get_config()
  config.tasks, config.batch_size = tuple(TASKS), 4
  config.data.data_dir = str(tmp_path_factory.mktemp('tfds'))
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = SIZE, 4, 4
  config.report.images = 1
  config.parallel.multihost = True
  return config


def make_network(name, *tasks, by_hand=False, seed=0):
  """With random weights."""
  tasks = {t: TASKS[t] for t in tasks or TASKS}
  module = mtl.models.make('tiny', tasks)
  if by_hand:
    module = mtl.models.Network(
      backbone=Tiny(), channels=module.channels, head=module.head
    )
  image = jax.numpy.zeros((1, *SIZE, 3))
  variables = module.init(jax.random.key(seed), image, train=False)
  return TrainedNetwork(name, module, variables, tasks, SIZE)


def make_run(workdir, config, *networks):
  return mtl.write_run(workdir, config.to_dict(), {n.name: n for n in networks})


def run(workdir, config=None, **options):
  evaluate.run(config or evaluate.default_config(workdir), workdir, **options)


def rows(workdir, split='val'):
  return json.loads((workdir / f'results_{split}.json').read_text())['rows']


def test_a_run_of_several_hosts_is_evaluated_on_one(config, tmp_path):
  make_run(tmp_path, config, make_network('both'))
  assert mtl.load(tmp_path).config.parallel.multihost
  assert not evaluate.default_config(tmp_path).parallel.multihost


def test_networks_without_metrics_get_those_of_the_reported_split(
  config, tmp_path
):
  make_run(
    tmp_path, config, make_network('both'), make_network('known', seed=1)
  )
  known = {'depth': {'rmse': 1.0}}
  workdirs.write_metrics(tmp_path, 'known', known)
  run(tmp_path, split='train')
  assert list(mtl.load(tmp_path).metrics) == ['known']
  run(tmp_path)
  metrics = mtl.load(tmp_path).metrics
  assert metrics['both'] == rows(tmp_path)['both']['metrics']
  assert metrics['known'] == known  # as they were
  assert mtl.table(mtl.load(tmp_path)['both']).rows['both'] == metrics['both']


def test_scores_on_other_data_are_not_those_of_the_run(config, tmp_path):
  make_run(tmp_path, config, make_network('both'))
  other = evaluate.default_config(tmp_path)
  other.data.scenes.seed = 1
  run(tmp_path, other)
  assert rows(tmp_path).keys() == {'both'}
  assert mtl.load(tmp_path).metrics == {}


def test_networks_that_cannot_be_opened_are_left_out_and_named(
  config, tmp_path, capsys
):
  workdir, gone = tmp_path / 'run', tmp_path / 'gone'
  make_run(
    workdir,
    config,
    make_network('teacher_depth', 'depth'),
    make_network('by_hand', by_hand=True),
  )
  plan = workdirs.read_plan(workdir) | {
    'teacher_normals': {'row': 'single-task', 'trained_in': str(gone)},
    'late': {'row': 'late'},
  }
  workdirs.write_plan(workdir, plan)
  run(workdir)
  assert rows(workdir).keys() == {'single-task'}
  # Of depth alone, since samples have no other labels.
  assert (workdir / 'predictions_val.png').exists()
  printed = capsys.readouterr().out
  assert 'not scored, since not finished: late\n' in printed
  for name, reason in (
    ('by_hand', 'a network that was made by models.make'),
    ('teacher_normals', str(gone)),
  ):
    _, _, text = printed.partition(f'cannot be opened: {name}\n')
    assert reason in text.partition('not scored')[0]


def test_a_run_without_any_network_to_score_is_refused(config, tmp_path):
  make_run(tmp_path / 'a', config, make_network('by_hand', by_hand=True))
  with pytest.raises(mtl.InputError, match='made by models'):
    run(tmp_path / 'a')
  make_run(tmp_path / 'b', config)
  workdirs.write_plan(tmp_path / 'b', {'late': {'row': 'late'}})
  with pytest.raises(mtl.InputError, match="no 'late'"):
    run(tmp_path / 'b')
