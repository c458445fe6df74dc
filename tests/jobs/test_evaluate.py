"""--job=evaluate: what is scored, what is written, and what is left out."""

import dataclasses
import html
import json
import shutil
from types import SimpleNamespace

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
from fixtures.launching import run_python
import jax
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.config.experiments import nyuv2
from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.jobs import evaluate
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.reports import results
from mtl_kd_jax.reports.html.facts import show_config
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.checkpointing import Checkpoints
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
  variables = draw_variables(module, SIZE, seed)
  return TrainedNetwork(name, module, variables, tasks, SIZE)


def make_run(workdir, config, *networks):
  return mtl.write_run(workdir, config.to_dict(), {n.name: n for n in networks})


def run(workdir, config=None, **options):
  evaluate.run(config or evaluate.default_config(workdir), workdir, **options)


def rows(workdir, split='val'):
  return json.loads((workdir / f'results_{split}.json').read_text())['rows']


def content(workdir):
  return {
    path: path.readlink()
    if path.is_symlink()
    else path.is_file() and path.read_bytes()
    for path in workdir.rglob('*')
  }


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


def test_samples_that_pad_a_batch_are_not_drawn(config, tmp_path, monkeypatch):
  drawn = []

  def draw(samples, predictions, tasks, path):
    drawn.append((samples, predictions))

  monkeypatch.setattr(results, 'draw_predictions', draw)
  make_run(tmp_path, config, make_network('both'))
  small = evaluate.default_config(tmp_path)
  small.data.scenes.num_val = 3  # of a batch of 4
  small.report.images = 9
  run(tmp_path, small)
  (samples, predictions), source = drawn[0], build(small).dataset.source('val')
  for name in ('image', *TASKS):
    expected = [source[i][name] for i in range(3)]
    np.testing.assert_array_equal(samples[name], expected)
  assert {len(x) for x in predictions['both'].values()} == {3}


def test_each_host_draws_samples_of_its_share(config, monkeypatch):
  config = config.copy_and_resolve_references()
  config.parallel.multihost, config.report.images = False, 9
  experiment = build(config, data=False)
  dataset = SimpleNamespace(source=lambda split: range(3))
  experiment = dataclasses.replace(experiment, dataset=dataset)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  kept = []
  for index in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    kept.append(experiment.num_pictures)
  assert kept == [2, 1]


@pytest.mark.parametrize(
  'change',
  [
    {'data.scenes.seed': 1},
    {'data.sets': {'a': {'name': 'scenes', 'scenes': {'seed': 1}}}},
  ],
  ids=['options', 'sets'],
)
def test_scores_on_other_data_are_not_those_of_the_run(
  change, config, tmp_path
):
  make_run(tmp_path, config, make_network('both'))
  other = evaluate.default_config(tmp_path)
  override(other, change, argument='config')
  run(tmp_path, other)
  assert rows(tmp_path).keys() == {'both'}
  assert mtl.load(tmp_path).metrics == {}
  # Which data they are of stands beside them.
  (key,) = change
  notes = json.loads((tmp_path / 'results_val.json').read_text())['notes']
  (note,) = [text for text in notes if 'other data' in text]
  assert key in note
  assert note in (tmp_path / 'results_val.md').read_text()
  page = (tmp_path / 'results_val.html').read_text()
  assert show_config(other.to_dict()) in html.unescape(page)


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


# ---- What really was scored --------------------------------------------------


def add_best(workdir, network):
  """Gives a network of a run a best checkpoint, of other weights."""
  collections = dict(network.variables)
  state = {
    'step': np.int32(0),
    'params': collections.pop('params'),
    'collections': collections,
  }
  checkpoints = Checkpoints(workdirs.checkpoint_dir(workdir, network.name))
  checkpoints.save_if_best(0, state, 1.0)
  checkpoints.close()


@pytest.fixture
def best_config(config):
  best = config.copy_and_resolve_references()
  best.select = 'best'
  return best


@pytest.mark.parametrize(
  'chosen, checkpoint, title',
  [
    (
      (),
      'last',
      "last checkpoints (none has a score on split 'val' to choose the best "
      "by) on split 'val'",
    ),
    (
      ('one',),
      'best',
      "best checkpoints (chosen on split 'val'; the last of two, without a "
      "score there) on split 'val'",
    ),
    (
      ('one', 'two'),
      'best',
      "best checkpoints (chosen on split 'val') on split 'val'",
    ),
  ],
  ids=['none', 'some', 'all'],
)
def test_the_title_says_which_checkpoints_could_be_chosen(
  chosen, checkpoint, title, best_config, tmp_path, capsys
):
  networks = [make_network(n, 'depth') for n in ('one', 'two')]
  make_run(tmp_path, best_config, *networks)
  for network in networks:
    if network.name in chosen:
      add_best(tmp_path, network)
  run(tmp_path)
  assert title in capsys.readouterr().out
  written = json.loads((tmp_path / 'results_val.json').read_text())
  assert written['checkpoint'] == checkpoint
  assert written['not_chosen'] == [
    n.name for n in networks if n.name not in chosen
  ]


def test_networks_of_another_run_are_chosen_as_this_run_chooses(
  config, best_config, tmp_path
):
  a, b = tmp_path / 'a', tmp_path / 'b'
  make_run(a, config, make_network('teacher_depth', 'depth'))
  add_best(a, make_network('teacher_depth', 'depth', seed=1))
  make_run(b, best_config)
  plan = {'teacher_depth': {'row': 'single-task', 'trained_in': str(a)}}
  workdirs.write_plan(b, plan)
  run(a)
  run(b)
  assert rows(a) != rows(b)
  assert mtl.load(b).metrics == {}


# ---- Another config ----------------------------------------------------------


def of_another_width(stored):
  stored.model.width = 2.0


def of_another_balancer(stored):
  stored.balancing.name = 'gradnorm'


def of_a_shipped_config(stored):
  """As --config=configs/nyuv2.py, with the data of the run."""
  shipped = nyuv2.get_config()
  shipped.data, shipped.tasks = stored.data, stored.tasks
  shipped.batch_size, shipped.report = stored.batch_size, stored.report
  return shipped


@pytest.fixture(scope='module')
def mtan(config, tmp_path_factory):
  """An evaluated import of one network, what is in its folder, its scores."""
  workdir = tmp_path_factory.mktemp('mtan') / 'run'
  tasks = {'depth': TASKS['depth']}
  module = mtl.models.make('mtan', tasks, width=1 / 32)
  _, like = abstract_init(module, SIZE)
  draw = np.random.default_rng(0).random
  variables = jax.tree.map(lambda x: draw(x.shape, np.float32), like)
  network = TrainedNetwork('both', module, variables, tasks, SIZE)
  other = config.copy_and_resolve_references()
  other.report.images = 0
  make_run(workdir, other, network)
  run(workdir)
  return workdir, content(workdir), rows(workdir)


@pytest.mark.parametrize(
  'change',
  [of_another_width, of_another_balancer, of_a_shipped_config],
)
def test_networks_are_those_of_the_run_whatever_the_config_says(change, mtan):
  workdir, before, scores = mtan
  config = evaluate.default_config(workdir)
  run(workdir, change(config) or config)
  assert rows(workdir) == scores
  after = content(workdir)
  assert after.keys() == before.keys()
  differing = {p.stem for p in after if after[p] != before[p]}
  assert differing <= {'results_val'}  # which has the config's name


# ---- The config of a run -----------------------------------------------------

LAUNCH = """
import runpy, sys
sys.path.append('tests')
from fixtures.backbones import Tiny
from mtl_kd_jax.models import BACKBONES
BACKBONES['tiny'] = Tiny
sys.argv[0] = 'launch.py'
runpy.run_path('launch.py', run_name='__main__')
"""


def test_the_config_of_a_run_takes_overrides(config, tmp_path):
  """Of any type, also with values apart from their flags."""
  workdir = tmp_path / 'a run, mit Ümläuten 跑'
  make_run(workdir, config, make_network('both'))
  run(workdir)  # prepares the data
  code, stdout, stderr = run_python(
    '-c',
    LAUNCH,
    '--job=evaluate',
    '--workdir',
    workdir,
    '--config.report.images',
    '0',
    '--noconfig.data.check',
    '--config.name=again',
    "--config.tasks=('normals', 'depth')",
  )
  assert code == 0, stderr
  assert 'again: last checkpoints' in stdout and stderr == ''
  assert 'predictions_val.png' not in stdout
  assert list(rows(workdir)['both']['metrics']) == ['normals', 'depth']


def test_the_config_of_a_run_has_the_types_of_the_defaults(config, tmp_path):
  other = config.copy_and_resolve_references()
  with other.unlocked():
    other.data.mine = {'sizes': [[1, 2]], 'more': {'names': ['a']}}
  make_run(tmp_path, other)
  stored = evaluate.default_config(tmp_path)
  assert stored.tasks == config.tasks
  assert stored.data.scenes.image_size == SIZE
  assert stored.data.mine.to_dict() == {
    'sizes': ((1, 2),),
    'more': {'names': ('a',)},
  }
  assert stored.is_locked


# ---- Wrong and hostile inputs ------------------------------------------------


def rewritten(name, change):
  """Changes what a JSON file holds."""

  def damage(workdir):
    path = workdir / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))

  return damage


def with_value(key, value):
  """A config with another value, None to remove it."""

  def change(config):
    *path, last = key.split('.')
    for part in path:
      config = config[part]
    config[last] = value

  return rewritten('config.json', change)


def of_text(name, text):
  def damage(workdir):
    path = workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.write_bytes(text)

  return damage


def as_folder(name):
  def damage(workdir):
    (workdir / name).unlink(missing_ok=True)
    (workdir / name).mkdir()

  return damage


def as_loop(name):
  def damage(workdir):
    path = workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path)

  return damage


REFUSED = {
  'no text': of_text('config.json', b'\xff\xfe'),
  'empty': of_text('config.json', b''),
  'half': of_text('config.json', b'{"data": {'),
  'a list': of_text('config.json', b'[1]'),
  'NaN': of_text('config.json', b'NaN'),
  'nothing in it': of_text('config.json', b'{}'),
  'a folder': as_folder('config.json'),
  'a loop': as_loop('config.json'),
  'without data': rewritten('config.json', lambda config: config.pop('data')),
  'data a list': with_value('data', [1]),
  'data null': with_value('data', None),
  'report null': with_value('report', None),
  'a string as a section': with_value('data.scenes', 'x'),
  'parallel a string': with_value('parallel', 'jit'),
  'a string as a number': with_value('batch_size', '4'),
  'a list as a number': with_value('batch_size', [4]),
  'null as a number': with_value('batch_size', None),
  'NaN as a number': with_value('batch_size', float('nan')),
  'tasks null': with_value('tasks', None),
  'tasks a number': with_value('tasks', 3),
  'a list as a name': with_value('data.name', ['scenes']),
  'a string as a size': with_value('data.scenes.image_size', '32'),
  'an unknown split': with_value('data.eval_split', '../val'),
  'a dot in a key': with_value('data', {'a.b': 1}),
  'plan half': of_text('plan.json', b'{"stages": ['),
  'plan a list': of_text('plan.json', b'[]'),
  'plan without stages': of_text('plan.json', b'{}'),
  'plan a folder': as_folder('plan.json'),
  'checkpoints a file': of_text('checkpoints', b''),
  'checkpoints a loop': as_loop('checkpoints'),
  'results a folder': as_folder('results_val.json'),
}


@pytest.fixture(scope='module')
def sound(config, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    workdir = tmp_path_factory.mktemp('sound') / 'run'
    other = config.copy_and_resolve_references()
    other.report.images = 0
    make_run(workdir, other, make_network('one'))
  return workdir


@pytest.mark.parametrize('damage', REFUSED.values(), ids=REFUSED)
def test_a_damaged_run_is_one_message_and_stays_as_it_is(
  damage, sound, tmp_path
):
  workdir = shutil.copytree(sound, tmp_path / 'run')
  damage(workdir)
  before = content(workdir)
  with pytest.raises(mtl.InputError) as error:
    run(workdir)
  assert str(workdir) in str(error.value) or 'config.' in error.value.where
  assert content(workdir) == before


def test_a_table_that_cannot_be_written_is_printed(sound, tmp_path, capsys):
  workdir = shutil.copytree(sound, tmp_path / 'run')
  as_folder('results_val.json')(workdir)
  with pytest.raises(mtl.InputError, match='tables above'):
    run(workdir)
  assert 'common: last checkpoints' in capsys.readouterr().out
  assert mtl.load(workdir).metrics == {}


@pytest.mark.parametrize(
  'workdir', ['nowhere', 'file', 'loop', '\0', 'x' * 300]
)
def test_what_is_no_run_is_refused(workdir, tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  before = content(tmp_path)
  with pytest.raises(mtl.InputError) as error:
    run(tmp_path / workdir)
  assert error.value.argument == 'workdir'
  assert content(tmp_path) == before


@pytest.mark.parametrize('there', [{}, {'depth': SimpleNamespace(channels=2)}])
def test_data_without_the_labels_of_the_run_are_refused(there):
  other = SimpleNamespace(
    tasks=there,
    dataset=SimpleNamespace(name='other'),
    parallel=None,
    config=None,
  )
  with pytest.raises(mtl.InputError, match='depth with 1 channels'):
    evaluate._score(make_network('both', 'depth'), other)
