"""Tasks of one's own, from a config and from Python, all the way to the table.

One small network of six tasks is trained; the rest is traced.
"""

import dataclasses
import json
import re

from fixtures.backbones import Tiny
from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax import methods
from mtl_kd_jax.config import defaults
from mtl_kd_jax.config.build import build
from mtl_kd_jax.datasets import Dataset, Label
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks import KINDS
from mtl_kd_jax.tasks.base import Metric, Task, ratio
from mtl_kd_jax.tasks.kinds import options_of

SIZE = (16, 16)
CLASSES = ('sun', 'rain', 'fog')
LABELS = {
  'near': Label('depth', unit='m'),
  'far': Label('depth', unit='m'),
  'nose': Label('points', channels=2),
  'weather': Label('image_class', classes=CLASSES),
  'heat': Label('regression', unit='K', channels=1),
}


class Pictures:
  """Random pictures with all labels."""

  def __len__(self):
    return 8

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    depth = rng.uniform(1, 5, (*SIZE, 1)).astype(np.float32)
    points = np.stack([*rng.uniform(0, 31, (2, 2)), [1, 1]], -1)
    return {
      'image': rng.random((*SIZE, 3)).astype(np.float32),
      'near': depth,
      'far': 3 * depth,
      'nose': points.astype(np.float32),
      'weather': np.array(index % 3, np.int32),
      'heat': depth - 2,
    }


DATA = Dataset('own', SIZE, LABELS, {'train': Pictures, 'val': Pictures})


def make_heat():
  """A task of one's own: a `Task`, which nothing registers."""

  def error(prediction, label):
    return prediction[..., 0] - jnp.nan_to_num(label[..., 0])

  return Task(
    name='heat',
    channels=1,
    valid=lambda y: ~jnp.isnan(y[..., 0]),
    loss=lambda p, y: jnp.log(jnp.cosh(error(p, y))),
    statistics=lambda p, y, valid: {
      'count': jnp.sum(valid),
      'bias': jnp.sum(jnp.where(valid, error(p, y), 0)),
    },
    metrics=lambda s: {'bias': abs(ratio(s['bias'], s['count']))},
    columns={'bias': Metric('Bias', 'K', False)},
    headline='bias',
    render=lambda x, y: np.zeros((*x.shape[:2], 3), np.uint8),
  )


@pytest.fixture(scope='module', autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  heat = make_heat()
  fit = mtl.Trainer(
    DATA,
    tmp_path_factory.mktemp('own') / 'run',
    epochs=1,
    batch_size=8,
    tasks={'heat': heat},
    config={'data.check': False, 'data.flip': True, 'data.scales': (1.5,)},
  )
  network = mtl.models.make('tiny', {**DATA.tasks(), 'heat': heat})
  return fit(network)


# ---- A trained network -------------------------------------------------------


def test_tasks_of_one_kind_have_columns_of_their_own(trained):
  text = f'{mtl.table(trained)}'
  for title in ('near', 'far', 'Acc', 'PCK', 'Bias'):
    assert title in text, title
  for detail in ('δ1', 'mAcc', 'ECE'):
    assert detail not in text
  everything = dataclasses.replace(mtl.table(trained), all_metrics=True)
  for detail in ('δ1', 'mAcc', 'ECE'):
    assert detail in f'{everything}'
  row = json.loads(everything.json())['rows']['multi_task']['metrics']
  assert row['near']['delta_1'] >= 0 and row['heat']['bias'] >= 0


def test_predictions_have_the_form_of_their_kind(trained, tmp_path):
  image = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
  prediction = trained.predict(image)
  shapes = {name: x.shape for name, x in prediction.items()}
  assert shapes == {
    'near': (40, 50),
    'far': (40, 50),
    'nose': (2, 3),
    'weather': (3,),
    'heat': (40, 50),
  }
  assert prediction.weather.sum() == pytest.approx(1)
  tiled = trained.predict(image, tile=(32, 32))
  assert tiled.weather.sum() == pytest.approx(1)
  folder = prediction.save(tmp_path / 'saved', overview=False)
  record = json.loads((folder / 'prediction.json').read_text())
  assert record['tasks']['weather']['classes'] == [*CLASSES]
  np.testing.assert_allclose(
    record['tasks']['weather']['values'], prediction.weather, atol=1e-6
  )
  assert len(record['tasks']['nose']['values']) == 2
  for name in prediction:
    assert prediction.render(name).dtype == np.uint8


def test_a_run_is_opened_again_with_the_task_that_it_was_given(trained):
  run = mtl.load(trained.workdir)
  with pytest.raises(InputError, match='the task heat') as error:
    run['multi_task']
  assert error.value.argument == 'tasks'
  again = run.network('multi_task', tasks={'heat': make_heat()})
  jax.tree.map(
    np.testing.assert_array_equal, again.variables, trained.variables
  )
  assert again.tasks['weather'].label.classes == CLASSES
  assert again.tasks['nose'].label.num_channels == 2


# ---- The page ----------------------------------------------------------------


def read_page():
  return (REPOSITORY / 'docs/own_tasks.md').read_text()


def test_the_page_runs_and_its_config_builds():
  names = {}
  for block in re.findall(r'```python\n(.*?)```', read_page(), re.DOTALL):
    exec(block, names)
  tasks = build(names['get_config'](), data=False).tasks
  assert [task.kind for task in tasks.values()] == [
    'classes',
    'depth',
    'binary',
    'heatmap',
    'image_classes',
  ]
  loss = names['own'].loss(jnp.full((1, 2, 2, 1), 2.0), jnp.ones((1, 2, 2, 1)))
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


def test_the_page_lists_every_kind_with_its_options():
  table = read_page().partition('## Kinds')[2].partition('Three entries')[0]
  rows = dict(re.findall(r'^\| `(\w+)` \|.*\| (.*?) ?\|$', table, re.MULTILINE))
  assert [*rows] == [*KINDS]
  for name, options in rows.items():
    known = [x for x in options_of(name) if x not in ('kind', 'head', 'taps')]
    assert re.findall(r'`(\w+)`', options) == known, name


# ---- A config ----------------------------------------------------------------

TASKS = {
  'road': {'kind': 'classes', 'classes': ('other', 'road'), 'ohem': 0.5},
  'edges': {'kind': 'binary', 'head': 'own'},
  'weather': {'kind': 'image_classes', 'classes': CLASSES},
  'light': {
    'kind': 'image_regression',
    'column': 'weather',
    'taps': ('bottleneck',),
  },
}
FILES = {
  'road': '{split}/road/{frame}.png',
  'edges': '{split}/edges/{frame}.png',
}


def make_config(**changes):
  config = defaults.get_config()
  config.tasks = tuple(TASKS)
  for name, description in TASKS.items():
    files = {'files': FILES[name]} if name in FILES else {}
    config.task[name] = {**description, **files, **changes.get(name, {})}
  config.data.name = 'folder'
  config.data.folder.image_size = SIZE
  config.data.folder.rows = 'labels.csv'
  config.model.backbone, config.model.head = 'tiny', 'dense'
  config.batch_size = 4
  return config


def plan_of(config):
  experiment = build(config, data=False)
  return experiment, methods.plan(experiment)


def test_tasks_come_from_the_config_alone(monkeypatch):
  class Own(mtl.models.HEADS['dense']):
    """A head of another name."""

  monkeypatch.setitem(mtl.models.HEADS, 'own', Own)
  experiment, plan = plan_of(make_config())
  assert list(experiment.tasks) == [*TASKS]
  assert experiment.tasks['road'].options == {'ohem': 0.5}
  student = plan['distilled']
  heads = {t: make.func for t, make in student.network.heads.items()}
  pooled = mtl.models.IMAGE_HEADS['pooled']
  assert heads == {'edges': Own, 'weather': pooled, 'light': pooled}
  weights = {t.name: t.weight for t in student.terms}
  assert all(weights[f'alignment/{name}'] == 1 for name in TASKS)
  # As alignments say: maps, pooled maps, or maps of a task of pictures.
  adaptors = student.abstract_state.extras['adaptors']['params']
  assert {n for n in adaptors if 'weather' in n or 'light' in n} == {
    'weather_pooled_to_pooled',
    'light_bottleneck_to_bottleneck',
  }
  batch = {
    'image': jax.ShapeDtypeStruct((4, *SIZE, 3), jnp.float32),
    **{
      name: jax.ShapeDtypeStruct((4, *label.shape(SIZE)), label.dtype)
      for name, label in experiment.dataset.labels.items()
    },
  }
  frozen = {
    task: plan[name].abstract_state.variables
    for task, name in student.inputs.items()
  }
  _, measured = jax.eval_shape(
    student.train_step.function, student.abstract_state, frozen, batch
  )
  assert {f'loss/{n}' for n in TASKS} <= measured.keys()


@pytest.mark.parametrize(
  'changes, where, what',
  [
    ({'road': {'kind': 'clases'}}, 'config.task.road.kind', 'classes'),
    ({'road': {'ohem': 0}}, 'config.task.road.ohem', 'a share'),
    ({'road': {'pallete': 'a'}}, 'config.task.road.pallete', 'palette'),
    ({'edges': {'head': 'pooled'}}, 'config.task.edges.head', 'known head'),
    ({'weather': {'files': 'a'}}, 'config.task.weather.files', 'table'),
    ({'light': {'taps': ('neck',)}}, 'config.distill.taps', 'a feature'),
    ({'light': {'kind': 'tests:nothing'}}, 'config.task.light.kind', 'a kind'),
  ],
)
def test_what_is_wrong_is_named_with_its_key(changes, where, what):
  changes = {'edges': {'head': 'dense'}, **changes}
  with pytest.raises(InputError) as error:
    plan_of(make_config(**changes))
  assert error.value.where == where
  assert what in f'{error.value}'


def test_two_tasks_of_one_name_are_refused():
  config = make_config()
  config.tasks = ('road', 'edges', 'road')
  with pytest.raises(InputError, match='different tasks') as error:
    build(config, data=False)
  assert error.value.where == 'config.tasks'


def test_the_labels_of_a_data_set_can_be_learned_otherwise():
  config = defaults.get_config()
  config.batch_size = 4
  config.task.semantic = {
    'kind': 'classes',
    'weights': (1.0, *[2.0] * 8),
    'head': 'dense',
  }
  config.task.depth = {'kind': 'regression'}
  config.tasks = ('semantic', 'normals')
  task = build(config, data=False).tasks['semantic']
  assert len(task.options['weights']) == 9 and task.head == 'dense'
  config.tasks = ('depth',)
  with pytest.raises(InputError, match="choose 'depth'") as error:
    build(config, data=False)
  assert error.value.where == 'config.task.depth.kind'
  config.task.depth = {'kind': 'depth', 'files': 'a'}
  with pytest.raises(InputError, match="the data set 'folder'") as error:
    build(config, data=False)
  assert error.value.where == 'config.task.depth.files'
