"""The front door in Python: train, load, predict; as in a notebook."""

import ast
import contextlib
import copy
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from fixtures.backbones import Tiny
from fixtures.once import made_once
from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax import trainer
from mtl_kd_jax.config.renames import RENAMED
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.training.loss_terms import as_scalar

SIZE = (16, 16)


@pytest.fixture(scope='module', autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    yield


def open_data(folder):
  return mtl.datasets.make(
    'scenes', image_size=SIZE, num_train=8, num_val=4, data_dir=folder
  )


def make_network(data, **options):
  tasks = data.tasks('depth', 'normals')
  return mtl.models.make('tiny', tasks, **options)


def make_trainer(data, workdir, **options):
  config = {'balancing.observe_every': 1, 'data.check': False}
  return mtl.Trainer(
    data, workdir, epochs=1, batch_size=4, config=config | options
  )


def test_other_hosts_find_what_the_first_one_has_written(tmp_path, monkeypatch):
  """They read the config of the workdir as soon as they are let through."""
  there = []

  @contextlib.contextmanager
  def main_process_first():
    yield
    there.append((tmp_path / 'run' / 'config.json').exists())

  monkeypatch.setattr(trainer, 'main_process_first', main_process_first)
  make_trainer(open_data(tmp_path / 'data'), tmp_path / 'run')
  assert there == [True]


@pytest.mark.parametrize('name', ['a/b', '..', 'x' * 300])
def test_a_name_that_is_refused_leaves_the_run_as_it_is(name, tmp_path):
  data = open_data(tmp_path / 'data')
  fit = make_trainer(data, tmp_path / 'run')
  with pytest.raises(
    InputError, match='a name of a stage that can be a folder'
  ):
    fit(make_network(data), name)
  assert list(mtl.load(tmp_path / 'run')) == []
  assert not (tmp_path / 'run' / 'plan.json').exists()


@dataclasses.dataclass
class Notebook:
  """What a few cells leave behind."""

  data: object
  workdir: object
  teachers: dict | None = None
  kd: object = None

  def cells(self):
    """The cells, run again."""
    fit, net = make_trainer(self.data, self.workdir), make_network(self.data)
    teachers = {t: fit(net.only(t)) for t in net.channels}
    kd = fit(
      net,
      name='distilled',
      distill=mtl.distill(teachers, taps=('bottleneck', 'decoder')),
      balancer=mtl.balancing.make('nash_mtl'),
    )
    return teachers, kd


@pytest.fixture(scope='module')
def notebook(tmp_path_factory):
  """Trained by one of xdist's workers; each goes on with a copy of the run."""

  def train(folder):
    _, kd = Notebook(open_data(folder / 'data'), folder / 'run').cells()
    return str(folder), digest(kd.variables), kd.metrics

  folder, *result = made_once(tmp_path_factory, 'notebook', train)
  workdir = tmp_path_factory.mktemp('notebook') / 'run'
  shutil.copytree(pathlib.Path(folder) / 'run', workdir)
  cells = Notebook(open_data(pathlib.Path(folder) / 'data'), workdir)
  cells.teachers, cells.kd = cells.cells()
  # What is read is what the session had that trained it.
  assert [digest(cells.kd.variables), cells.kd.metrics] == result
  return cells


def digest(variables):
  """Of every bit of the arrays."""
  leaves = jax.tree.leaves(jax.device_get(variables))
  return hashlib.sha256(b''.join(x.tobytes() for x in leaves)).hexdigest()


def assert_identical(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  same = jax.tree.map(np.array_equal, *jax.device_get((one, two)))
  assert all(jax.tree.leaves(same))


# ---- Trainer -----------------------------------------------------------------


def test_what_is_trained_has_metrics_a_table_and_a_figure(notebook):
  assert [t.name for t in notebook.teachers.values()] == [
    'teacher_depth',
    'teacher_normals',
  ]
  assert set(notebook.kd.metrics) == {'depth', 'normals'}
  table = mtl.table(notebook.teachers, notebook.kd)
  for word in ('single-task', 'distilled', 'AbsErr', 'ΔMTL'):
    assert word in str(table) and word in table._repr_markdown_()
  assert table.rows['single-task'].keys() == {'depth', 'normals'}
  figure = notebook.kd.plot_conflict()
  assert len(figure.axes) > 1
  assert notebook.teachers['depth'].plot_conflict() is None


def test_the_same_lines_read_what_is_there_and_train_nothing(notebook):
  before = read_log(notebook.workdir)
  teachers, kd = notebook.cells()
  assert read_log(notebook.workdir) == before
  assert_identical(kd.variables, notebook.kd.variables)
  assert teachers['depth'].metrics == notebook.teachers['depth'].metrics


def test_a_stage_that_was_begun_otherwise_is_refused(notebook):
  fit, net = (
    make_trainer(notebook.data, notebook.workdir),
    make_network(notebook.data),
  )
  with pytest.raises(mtl.InputError) as error:
    fit(
      net,
      name='distilled',
      distill=mtl.distill(notebook.teachers, taps=('decoder',)),
      balancer=mtl.balancing.make('nash_mtl', max_norm=2.0),
    )
  found = error.value.found
  assert 'balancer was' in found and 'max_norm=2.0' in found
  assert 'distill.distill.taps' in found
  with pytest.raises(mtl.InputError, match='seed was 0 and is 1'):
    make_trainer(notebook.data, notebook.workdir, seed=1)


def test_a_trainer_and_a_config_train_the_same_bits(notebook, tmp_path):
  """One path: what launch.py would have trained with these settings."""
  config = mtl.get_config()
  config.method, config.tasks = 'single_task', ('depth',)
  config.epochs, config.batch_size = 1, 4
  config.optim.learning_rate, config.optim.schedule = 1e-3, 'cosine'
  config.model.backbone = 'tiny'
  options = dict(notebook.data.options)
  config.data.data_dir = str(options.pop('data_dir'))
  config.data.scenes.update(options)
  config.report.average_epochs = 0
  run = mtl.train(config, tmp_path / 'run')
  assert list(run) == ['teacher_depth']
  assert_identical(
    run['teacher_depth'].variables, notebook.teachers['depth'].variables
  )
  assert run.metrics['teacher_depth'] == notebook.teachers['depth'].metrics


def test_the_best_are_compared_with_single_task_networks_on_one_split(
  notebook, tmp_path
):
  data, tasks = notebook.data, ('depth', 'normals')
  options = {'select': 'best', 'data.val_fraction': 0.5}
  fit, net = make_trainer(data, tmp_path, **options), make_network(data)
  singles = {t: fit(net.only(t)) for t in tasks}
  fit(net.only('depth'), 'other')
  both = fit(net)
  run = mtl.load(tmp_path)
  rows = {name: about['row'] for name, about in run.plan.items()}
  assert rows == {
    'teacher_depth': 'single-task',
    'teacher_normals': 'single-task',
    'other': 'other',
    'multi_task': 'multi_task',
  }
  assert list(run) == list(rows)
  assert list(mtl.table(run).rows) == ['single-task', 'other', 'multi_task']
  reference = run.single_task_metrics()
  assert list(reference) == list(tasks)
  for task in tasks:  # on the held-out split, and not on the reported one
    scored = [
      e
      for e in run.log
      if e['stage'] == f'teacher_{task}' and e['kind'] == 'eval'
    ]
    headline = both.tasks[task].headline
    assert reference[task][headline] == pytest.approx(
      scored[-1][f'{task}/{headline}']
    )
    assert reference[task] != singles[task].metrics[task]
  # A later session reads what this one wrote.
  assert make_trainer(data, tmp_path, **options)._single_task == reference


def test_teachers_see_the_whole_batch_under_pmap(notebook, tmp_path):
  """And what comes of it can be used without a mapped axis."""
  losses = {}
  teacher = mtl.load(notebook.workdir)['teacher_depth']
  for mode in ('jit', 'pmap'):
    fit = make_trainer(
      notebook.data, tmp_path / mode, **{'parallel.mode': mode}
    )
    trained = fit(
      make_network(notebook.data).only('depth'),
      distill=mtl.distill({'depth': teacher}, batch_norm='batch'),
    )
    run = mtl.load(tmp_path / mode)
    losses[mode] = [
      e['alignment/depth'] for e in run.log if e['kind'] == 'train'
    ]
    assert trained.network.backbone.axis_name is None
    assert trained.predict(np.zeros((*SIZE, 3))).depth.shape == SIZE
  np.testing.assert_allclose(losses['pmap'], losses['jit'], rtol=1e-4)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda d, w: make_trainer(d, w, **{'optim.rate': 1}), "'optim.rate'"),
    (
      lambda d, w: make_trainer(d, w, **{'data.scales': 1.0}),
      'of the type tuple',
    ),
    (
      lambda d, w: make_trainer(d, w, **{'balancing.name': 'mgda'}),
      'does not read',
    ),
    (
      lambda d, w: make_trainer(d, w, **{'parallel.multihost': True}),
      'joined the others',
    ),
    (lambda d, w: mtl.Trainer(d, w, epochs=0), 'above 0'),
    (lambda d, w: mtl.Trainer(d, w, epochs=2.5), 'epochs of the type int'),
    (
      lambda d, w: make_trainer(d, w)(
        make_network(d), balancer=mtl.balancing.make('modo')
      ),
      'splits the batch into 3',
    ),
    (
      lambda d, w: make_trainer(d, w)(
        make_network(d),
        balancer=mtl.balancing.make('graddrop', over_batch=True),
      ),
      'needs their values',
    ),
    (
      lambda d, w: make_trainer(d, w)(mtl.models.make('tiny', {'depth': 3})),
      'labels of depth, 3 channels',
    ),
    (
      lambda d, w: make_trainer(d, w)(
        make_network(d), distill=mtl.distill({}, taps=('decoder',)), name=''
      ),
      'a teacher',
    ),
    (lambda d, w: make_network(d).only('sky'), 'tasks of the network'),
    (
      lambda d, w: make_trainer(d, w, select='best')(make_network(d)),
      'networks of single tasks, to compare',
    ),
  ],
  ids=[
    'key',
    'type',
    'unread',
    'hosts',
    'epochs',
    'half',
    'batch',
    'features',
    'labels',
    'teachers',
    'only',
    'best',
  ],
)
def test_what_cannot_be_is_refused_before_training(
  call, message, notebook, tmp_path
):
  with pytest.raises(mtl.InputError, match=message):
    call(notebook.data, tmp_path / 'run')
  assert not list((tmp_path / 'run').glob('checkpoints/*'))


def nothing(output, teachers, batch, extras, *, axis_name=None):
  return 0.0


def term(fn=nothing, **options):
  return mtl.LossTerm('a/b', fn, **options)


def returns(value):
  def fn(output, teachers, batch, extras, *, axis_name=None):
    return value

  return fn


def reads_depth(output, teachers, batch, extras, *, axis_name=None):
  return jnp.mean(output.predictions['depth'])


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda d, w: mtl.Trainer('scenes', w, epochs=1), "'scenes'"),
    (lambda d, w: mtl.Trainer(d, None, epochs=1), 'found:  None'),
    (lambda d, w: mtl.Trainer('runs/a', d, epochs=1), 'found:  a Dataset'),
    (lambda d, w: mtl.Trainer(d, w, epochs=1, tasks=['depth']), 'by name'),
    (
      lambda d, w: mtl.Trainer(d, w, epochs=1, tasks={'dept': d.tasks()}),
      "did you mean 'depth'",
    ),
    (lambda d, w: mtl.Trainer(d, w, epochs=1, tasks={'depth': 1}), 'a Task'),
    (lambda d, w: mtl.Trainer(d, w, epochs=1, config=['a']), 'a dictionary'),
    (lambda d, w: make_trainer(d, w, **{'optim.ema': None}), 'found:  None'),
    (lambda d, w: mtl.Trainer(d, w, epochs='3'), 'where:  argument epochs'),
    (
      lambda d, w: mtl.Trainer(d, w, epochs=1, learning_rate=None),
      'where:  argument learning_rate',
    ),
    (lambda d, w: d.tasks(['depth', 'normals']), 'each by itself'),
    (lambda d, w: make_network(d).only(['depth']), 'each by itself'),
    (lambda d, w: mtl.datasets.make(pathlib.Path('/data')), 'a PosixPath'),
    (lambda d, w: mtl.models.make(['tiny'], d.tasks()), 'a list'),
    (lambda d, w: mtl.models.make('tiny', d), 'found:  a Dataset'),
    (lambda d, w: mtl.models.make('tiny', ['depth']), 'tasks by name'),
    (lambda d, w: mtl.models.make('tiny', {}), 'one task or more'),
    (lambda d, w: mtl.models.make('tiny', {'depth': 0}), 'tasks.depth'),
    (lambda d, w: make_network(d, width='0.5'), "'0.5'"),
    (lambda d, w: make_network(d, image_size=32), 'whole pixels'),
    (lambda d, w: make_network(d, image_size=(32.0, 32.0)), 'whole pixels'),
    (lambda d, w: mtl.balancing.make(['mgda']), 'a known balancer'),
    (lambda d, w: mtl.balancing.make('mgd'), "did you mean 'mgda'"),
    (lambda d, w: mtl.get_config(5), 'the name of an experiment'),
    (lambda d, w: mtl.get_config('configs/quickstart.py'), "'quickstart'"),
    (lambda d, w: mtl.train('quickstart', w), 'a config'),
    (lambda d, w: mtl.train(w, mtl.get_config()), 'found:  a ConfigDict'),
    (
      lambda d, w: mtl.train(mtl.get_config('compare/quickstart'), w),
      '--job=compare',
    ),
    (lambda d, w: mtl.compare('compare/quickstart', w), 'of a comparison'),
    (
      lambda d, w: mtl.compare(
        mtl.get_config('compare/quickstart'), w, cells=3
      ),
      'a share such as',
    ),
    (lambda d, w: mtl.load(None), 'found:  None'),
    (lambda d, w: mtl.evaluate(5), 'found:  5'),
  ],
)
def test_an_argument_of_another_kind_is_named(
  call, message, notebook, tmp_path
):
  with pytest.raises(mtl.InputError, match=message):
    call(notebook.data, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda fit, net, own: fit('tiny'), "found:  'tiny'"),
    (lambda fit, net, own: fit(own['depth']), 'a TrainedNetwork'),
    (lambda fit, net, own: fit(net, balancer='mgda'), r"make\('mgda'\)"),
    (lambda fit, net, own: fit(net, distill=own), 'mtl.distill returns'),
    (lambda fit, net, own: mtl.distill([*own.values()]), 'a list'),
    (lambda fit, net, own: mtl.distill({'depth': net}), 'a trained network'),
    (
      lambda fit, net, own: fit(
        net, distill=mtl.distill({'depth': own['normals']})
      ),
      'which predicts normals',
    ),
    (lambda fit, net, own: mtl.distill(own, weights=2.0), 'by task'),
    (lambda fit, net, own: mtl.distill(own, taps=5), 'names of features'),
    (
      lambda fit, net, own: fit(net, distill=mtl.distill(own, taps=[None])),
      'names of features',
    ),
    (
      lambda fit, net, own: fit(
        net, distill=mtl.distill(own, weights={'depth': '1'})
      ),
      'a finite number',
    ),
    (lambda fit, net, own: mtl.distill(own, baseline='uniform'), "'uniform'"),
    (lambda fit, net, own: fit(net, terms=term()), 'a LossTerm'),
    (lambda fit, net, own: fit(net, terms=[nothing]), 'a function'),
    (lambda fit, net, own: fit(net, terms=[term(weight=jnp.nan)]), 'nan'),
    (lambda fit, net, own: fit(net, terms=[term(weight='1')]), "with '1'"),
    (lambda fit, net, own: fit(net, terms=[term(tasks='depth')]), 'a tuple'),
    (
      lambda fit, net, own: fit(net, terms=[term(lambda output: 0)]),
      'does not',
    ),
    (
      lambda fit, net, own: fit(net, terms=[term(returns(jnp.ones(3)))]),
      r'float32 \[3\]',
    ),
    (lambda fit, net, own: fit(net, terms=[term(returns(None))]), 'None'),
    (
      lambda fit, net, own: fit(net, terms=[term(reads_depth)]),
      r"tasks=\('depth',\)",
    ),
    (lambda fit, net, own: fit(net, extras=[net]), 'by name'),
    (lambda fit, net, own: fit(net, extras={'a': net}), 'an ExtraNetwork'),
  ],
)
def test_what_is_trained_is_checked_by_kind(call, message, notebook, tmp_path):
  fit, net = make_trainer(notebook.data, tmp_path), make_network(notebook.data)
  with pytest.raises(mtl.InputError, match=message):
    call(fit, net, notebook.teachers)
  # No step was saved: nothing was trained.
  assert not list(tmp_path.glob('checkpoints/*/*/*'))


def test_numbers_of_numpy_are_numbers(notebook, tmp_path):
  fit = mtl.Trainer(
    notebook.data,
    tmp_path,
    epochs=np.int64(1),
    batch_size=np.int32(4),
    learning_rate=np.float64(1e-3),
    config={'data.check': np.bool_(False)},
  )
  assert json.loads((tmp_path / 'config.json').read_text())['batch_size'] == 4
  assert type(fit.config.optim.learning_rate) is float


@pytest.mark.parametrize('value', [0.5, 1, jnp.bfloat16(0.5), np.float16(0.5)])
def test_a_term_may_be_any_number(value):
  scalar = as_scalar(value, 'a/b')
  assert scalar.dtype == jnp.float32 and scalar == float(value)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'taps': 'neck'}, 'a feature of the backbone'),
    ({'weights': {'depth': -1.0}}, '0 or more'),
    ({'weights': {'depht': 1.0}}, 'tasks that there are'),
    ({'learning_rate': 0.0}, 'above 0'),
    ({'weight_decay': 'small'}, 'of the type float'),
    ({'loss': 'taps'}, 'a known distillation loss'),
    ({'sharpness': 1.0}, 'distill.feature_l2.sharpness'),
    ({'batch_norm': 'eval'}, 'running, batch'),
    ({'adapt': 'gap'}, 'neither trained on nor reported'),
    ({'adapt': 'baseline'}, 'neither trained on nor reported'),
    ({'choose': 'best'}, 'neither trained on nor reported'),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_a_wrong_distillation_is_refused(change, message, notebook, tmp_path):
  fit, net = make_trainer(notebook.data, tmp_path), make_network(notebook.data)
  teachers = {'depth': notebook.teachers['depth']}
  with pytest.raises(mtl.InputError, match=message):
    fit(net, distill=mtl.distill(teachers, **change))
  assert not list(tmp_path.glob('checkpoints/*'))


def test_a_baseline_predicts_what_the_student_does(notebook, tmp_path):
  fit = make_trainer(notebook.data, tmp_path, **{'data.val_fraction': 0.5})
  net, teachers = make_network(notebook.data), notebook.teachers

  def refuses(message, **options):
    distill = mtl.distill(teachers, **options)
    with pytest.raises(mtl.InputError, match=message):
      fit(net, distill=distill)

  depth = teachers['depth']
  refuses('a baseline to compare', adapt='baseline')
  refuses('a baseline to compare', choose='best')
  refuses('a network that predicts', adapt='baseline', baseline=depth)
  refuses("adapt='baseline'", baseline=depth)


# ---- Run ---------------------------------------------------------------------


def test_a_run_is_opened_any_later_day_and_reading_changes_nothing(notebook):
  before = {
    p: (p.stat().st_mtime_ns, p.read_bytes())
    for p in notebook.workdir.rglob('*')
    if p.is_file()
  }
  run = mtl.load(notebook.workdir)
  assert list(run) == ['teacher_depth', 'teacher_normals', 'distilled']
  assert 'distilled' in run and len(run) == 3 and 'sky' not in run
  assert run.get('sky') is None
  loaded = run['distilled']
  assert loaded.image_size == notebook.kd.image_size == SIZE
  assert_identical(loaded.variables, notebook.kd.variables)
  assert loaded.metrics == notebook.kd.metrics == run.metrics['distilled']
  assert run.config.epochs == 1 and run.log
  assert list(run.plan)[-1] == 'distilled'
  assert run.plan['teacher_depth']['row'] == 'single-task'
  # Adaptors and other helpers are no part of it.
  assert set(loaded.variables['params']) == {
    'backbone',
    'head_depth',
    'head_normals',
  }
  after = {
    p: (p.stat().st_mtime_ns, p.read_bytes())
    for p in notebook.workdir.rglob('*')
    if p.is_file()
  }
  assert after == before


def test_what_a_run_does_not_have_is_named_with_what_it_has(notebook, tmp_path):
  with pytest.raises(mtl.InputError) as error:
    mtl.load(notebook.workdir)['uniform']
  assert 'distilled' in error.value.expected
  assert "no 'uniform'" in error.value.found
  with pytest.raises(mtl.InputError, match='name of a stage'):
    mtl.load(notebook.workdir)[0]
  with pytest.raises(mtl.InputError, match='by name'):
    mtl.load(notebook.workdir).network('distilled', tasks=['depth'])
  with pytest.raises(mtl.InputError, match='the workdir of an earlier run'):
    mtl.load(tmp_path)


def test_a_run_of_an_earlier_version_is_opened(notebook, tmp_path):
  """Its config has other keys, and its checkpoints another layout."""
  config = mtl.get_config().to_dict()
  config['data']['scenes']['image_size'] = SIZE
  config['model']['backbone'] = 'tiny'
  config['tasks'] = ['depth', 'normals']
  for old, new in RENAMED.items():
    *path, last = new.split('.')
    node = config
    for part in path:
      node = node[part]
    value = node.pop(last)
    *path, last = old.split('.')
    node = config
    for part in path:
      node = node[part]
    node[last] = value
  del config['method'], config['distill']['loss']
  (tmp_path / 'config.json').write_text(json.dumps(config))
  variables = notebook.kd.variables
  checkpoints = Checkpoints(tmp_path / 'checkpoints' / 'distilled')
  state = {
    'step': jnp.int32(2),
    'params': {**variables['params'], 'adaptors': {'x': jnp.ones(2)}},
    'batch_stats': variables['batch_stats'],
    'opt_state': (),
    'balancer_state': (),
  }
  checkpoints.save(2, state, finished=True)
  checkpoints.close()

  run = mtl.load(tmp_path)
  assert list(run) == ['distilled']
  assert_identical(run['distilled'].variables, variables)
  assert list(run.plan) == [
    'teacher_depth',
    'teacher_normals',
    'uniform',
    'distilled',
  ]
  assert run['distilled'].predict(np.zeros((*SIZE, 3))).depth.shape == SIZE
  # Read, but not continued, and that in one message.
  config = mtl.get_config()
  config.data.scenes.update(image_size=SIZE, num_train=8, num_val=4)
  config.data.data_dir = str(notebook.data.options['data_dir'])
  config.model.backbone, config.batch_size = 'tiny', 4
  before = (tmp_path / 'config.json').read_bytes()
  with pytest.raises(mtl.InputError, match='one of an earlier version'):
    mtl.train(config, tmp_path)
  assert (tmp_path / 'config.json').read_bytes() == before


# ---- Predict -----------------------------------------------------------------


def test_a_picture_of_any_size_is_predicted_in_its_own(notebook, tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (50, 70, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  of_array = notebook.kd.predict(pixels)
  assert of_array.depth.shape == (50, 70)
  assert of_array.depth.dtype == np.float32
  assert of_array['normals'].shape == (50, 70, 3)
  length = np.linalg.norm(of_array.normals, axis=-1)
  np.testing.assert_allclose(length, 1, atol=1e-4)
  for same in (
    tmp_path / 'a.png',
    str(tmp_path / 'a.png'),
    Image.fromarray(pixels),
    pixels / 255,
  ):
    again = notebook.kd.predict(same)
    np.testing.assert_allclose(again.depth, of_array.depth, atol=1e-5)
  assert of_array.render('depth').shape == (50, 70, 3)
  assert of_array.tasks['depth'].label.unit == 'm'
  assert 'float32 [50, 70] m' in repr(of_array)
  assert copy.deepcopy(of_array).depth.shape == (50, 70)
  with pytest.raises(AttributeError, match='semantic'):
    _ = of_array.semantic


def test_at_the_size_of_training_a_prediction_is_the_networks(notebook):
  image = notebook.data.source('val')[0]['image']
  direct = jax.jit(notebook.kd.apply)(notebook.kd.variables, image[None])
  predicted = notebook.kd.predict(image)
  np.testing.assert_allclose(
    predicted.depth, direct['depth'][0, ..., 0], atol=1e-5
  )


def test_a_turned_photograph_is_turned_back(notebook, tmp_path):
  pixels = np.zeros((32, 32, 3), np.uint8)
  pixels[:16] = 200
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down
  turned = pixels[::-1, ::-1]
  Image.fromarray(turned).save(tmp_path / 'b.png', exif=exif)
  expected = notebook.kd.predict(pixels).depth
  np.testing.assert_allclose(
    notebook.kd.predict(tmp_path / 'b.png').depth, expected, atol=1e-5
  )
  assert np.abs(notebook.kd.predict(turned).depth - expected).max() > 1e-3


def test_what_is_not_predicted_cannot_be_shown(notebook):
  prediction = notebook.teachers['depth'].predict(np.zeros((*SIZE, 3)))
  with pytest.raises(mtl.InputError, match='is predicted: depth'):
    prediction.render('normals')
  with pytest.raises(mtl.InputError, match="found:  'depth'"):
    prediction.render('depth', like='depth')


def test_prediction_refuses_what_is_no_picture(notebook):
  with pytest.raises(mtl.InputError, match='no user'):
    notebook.kd.predict('~nobody-of-this-name/x.jpg')


@pytest.mark.parametrize(
  'workdir',
  ('~nobody-of-this-name/a', 'a\0b', 'http://a/b', pathlib.Path('http://a/b')),
)
@pytest.mark.parametrize(
  'call',
  [
    lambda w: mtl.train(mtl.get_config(), w),
    mtl.evaluate,
    lambda w: mtl.Trainer(None, w, epochs=1),
  ],
  ids=['train', 'evaluate', 'Trainer'],
)
def test_a_workdir_that_nothing_can_be_called_is_refused(call, workdir):
  with pytest.raises(
    mtl.InputError, match=r'no user|null byte|bucket'
  ) as error:
    call(workdir)
  assert error.value.argument == 'workdir'


# ---- The package -------------------------------------------------------------


def test_every_public_name_is_there_and_documented():
  for name in mtl.__all__:
    assert name in dir(mtl)
    value = getattr(mtl, name)
    assert isinstance(value, str) or value.__doc__, name
  with pytest.raises(AttributeError):
    _ = mtl.nothing


def test_editors_see_what_is_imported_late():
  """Names under TYPE_CHECKING, which stand for `__getattr__`."""
  tree = ast.parse(pathlib.Path(mtl.__file__).read_text())
  (block,) = [
    node
    for node in tree.body
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
  ]
  seen = {
    alias.name: node.module
    for node in block.body
    for alias in node.names
    if node.module.startswith('mtl_kd_jax')
  }
  functions = {'train', 'compare', 'evaluate'}
  late = {n for n in seen if n in mtl.__all__}
  assert late | functions | {'__version__'} == set(mtl.__all__)
  for name in late:
    module = importlib.import_module(seen[name])
    expected = getattr(module, name, None) or importlib.import_module(
      f'mtl_kd_jax.{name}'
    )
    assert getattr(mtl, name) is expected, name


def test_importing_the_package_is_cheap():
  program = (
    'import sys, mtl_kd_jax; '
    "print([m for m in ('jax', 'tensorflow_datasets', 'matplotlib') "
    'if m in sys.modules])'
  )
  out = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'


IN_AN_EMPTY_FOLDER = """
import pathlib, sys
import mtl_kd_jax as mtl
assert pathlib.Path(mtl.__file__).is_relative_to(sys.argv[1]), mtl.__file__
sys.path.append(sys.argv[3])
from fixtures.backbones import Tiny
mtl.models.BACKBONES['tiny'] = Tiny  # one's own
assert mtl.get_config('quickstart').name == 'quickstart'
assert mtl.get_config('nyuv2:url').epochs == 200
assert len(mtl.get_config('compare/quickstart').seeds) > 1
assert pathlib.Path(mtl.__file__).with_name('py.typed').exists()
run = mtl.load(sys.argv[2])
import numpy as np
from mtl_kd_jax.reports.html.results import make_results_page
table = mtl.table(run['distilled'])
page = make_results_page(
  table, {}, {}, workdir=run.workdir, log=(), stages={}, chosen_on='val'
)
assert '<style>' in page and '<script>' in page and 'AbsErr' in page
prediction = run['distilled'].predict(np.zeros((40, 50, 3)))
print(prediction.depth.shape, prediction.save('here').name)
import runpy
sys.argv = ['mtl_kd_jax', '--job=taps', '--config=quickstart']
runpy.run_module('mtl_kd_jax', run_name='__main__', alter_sys=True)
"""


def test_a_wheel_in_an_empty_folder_opens_a_run_and_predicts(
  notebook, tmp_path
):
  # A copy: a wheel also has in it what an earlier one left in build/.
  source = tmp_path / 'source'
  source.mkdir()
  shutil.copytree(
    REPOSITORY / 'mtl_kd_jax',
    source / 'mtl_kd_jax',
    ignore=shutil.ignore_patterns('__pycache__'),
  )
  for name in ('pyproject.toml', 'setup.cfg', 'README.md', 'LICENSE'):
    shutil.copy(REPOSITORY / name, source)
  options = ('-q', '--no-deps', '--no-build-isolation', '-w', tmp_path)
  built = subprocess.run(
    [sys.executable, '-m', 'pip', 'wheel', *options, source],
    capture_output=True,
    text=True,
  )
  assert built.returncode == 0, built.stderr
  (wheel,) = tmp_path.glob('*.whl')
  site, empty = tmp_path / 'site', tmp_path / 'empty'
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    archive.extractall(site)
  assert not [n for n in names if n.startswith(('tests/', 'configs/'))]
  empty.mkdir()
  out = subprocess.run(
    [
      sys.executable,
      '-c',
      IN_AN_EMPTY_FOLDER,
      site,
      notebook.workdir,
      REPOSITORY / 'tests',
    ],
    cwd=empty,
    env=os.environ | {'PYTHONPATH': str(site)},
    capture_output=True,
    text=True,
  )
  first, *table = out.stdout.splitlines()
  assert first == '(40, 50) here', out.stderr
  assert out.returncode == 0 and 'layer4' in '\n'.join(table), out.stderr
  assert (empty / 'here' / 'prediction.json').exists()
