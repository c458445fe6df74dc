"""Cases that reports of users led to; their README says what each must give.

They are not part of the repository: the tests are skipped where they are not
beside it, as in CI. Every file of the cases is run here. Commands of shell
scripts are run with the options that stand in the scripts, with a network that
compiles faster. What the cases have in common with others is tested in
tests/jobs, tests/training/test_normalization.py and tests/balancing.
"""

import ast
import dataclasses
import importlib.util
import io
import json
import pathlib
import re
import runpy
import sys

from fixtures.backbones import Tiny
from fixtures.paths import SHARED_CASES
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import mtl_kd_jax as mtl
from mtl_kd_jax import datasets, methods, models
from mtl_kd_jax.config.build import build
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import evaluate, inspect

pytestmark = pytest.mark.skipif(
  not SHARED_CASES.is_dir(), reason='no cases beside the repository'
)


def open_case(name, suffix='jpg', **semantic):
  described = {
    'classes': ('road', 'building', 'sky'),
    'ids': (1, 2, 3),
    'ignore': (0,),
    **semantic,
  }
  return datasets.make(
    'folder',
    data_dir=str(SHARED_CASES / name),
    image='{split}/photo/{frame}.' + suffix,
    semantic={'files': '{split}/ids/{frame}.png', **described},
  )


def check(dataset):
  """What is printed while all of it is checked."""
  console = Console(file=io.StringIO(), width=200)
  check_dataset(dataset, dataset.sources, console=console)
  return console.file.getvalue()


# ---- Data --------------------------------------------------------------------


def test_photos_are_turned_by_their_exif_orientation():
  dataset = open_case('exif3')
  assert 'train: 3 of 3 pictures have an EXIF orientation' in check(dataset)
  for split in dataset.sources:
    source = dataset.source(split)
    for i in range(len(source)):
      red, ids = source[i]['image'][..., 0], source[i]['semantic']
      assert np.corrcoef(red.ravel(), ids.ravel())[0, 1] > 0.99


def test_one_class_is_refused():
  with pytest.raises(InputError) as error:
    open_case('oneclass', 'png', classes=('fg',), ids=(255,), ignore=(0,))
  assert error.value.argument == 'semantic.classes'


def test_photos_in_another_case_are_named():
  with pytest.raises(InputError) as error:
    open_case('upper')
  for name in ('0000.JPG', '0001.JPG', '0002.JPG', '0003.JPG'):
    assert name in error.value.found
  assert '4 beside 4' in error.value.found


@pytest.fixture
def hunt(tmp_path, monkeypatch):
  """The config of the cases, with the data that it is for."""
  monkeypatch.setattr(sys, 'argv', ['gen.py', str(tmp_path)])
  runpy.run_path(str(SHARED_CASES / 'gen.py'), run_name='__main__')
  config = runpy.run_path(str(SHARED_CASES / 'hunt.py'))['get_config']()
  config.data.data_dir = str(tmp_path / 'plain')
  return config


def test_sound_data_are_sound(hunt, tmp_path, capsys):
  assert check(build(hunt).dataset) == ''
  inspect.run(hunt, tmp_path / 'run')
  assert 'nothing looks wrong' in capsys.readouterr().out


# ---- Runs --------------------------------------------------------------------


def options_in(script):
  """Config key -> value, of the options in a script; as Python where it is."""
  text = (SHARED_CASES / script).read_text()
  found = re.findall(r'--config\.([\w.]+)=([^\s"`]+)', text)
  assert found
  return {key: _value(text) for key, text in found if '$' not in text}


def _value(text):
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def files_with_content(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_evaluating_with_another_config_changes_no_checkpoint(
  hunt, tmp_path, monkeypatch
):
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  hunt.method, hunt.model.backbone = 'multi_task', 'tiny'
  hunt.model.head = 'dense'
  workdir = tmp_path / 'run'
  mtl.train(hunt, workdir)
  before = files_with_content(workdir / 'checkpoints')

  def scores(**changes):
    config = hunt.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    evaluate.run(config, workdir)
    assert files_with_content(workdir / 'checkpoints') == before
    rows = json.loads((workdir / 'results_val.json').read_text())['rows']
    return {name: row['metrics'] for name, row in rows.items()}

  expected = scores()
  assert expected
  overrides = options_in('evaluate_moves_good_checkpoints.sh')
  assert overrides == {'model.width': 0.25, 'balancing.name': 'uncertainty'}
  assert scores(**overrides) == expected


def test_single_values_of_a_deeplab_are_refused(hunt):
  # The script reads such a run, which there cannot be any more.
  changes = options_in('batch_one_deeplab.py')
  assert changes.pop('batch_size') == 1
  hunt.update_from_flattened_dict(changes)
  hunt.method, hunt.model.width = 'single_task', 1 / 16
  experiment = build(hunt)
  one = dataclasses.replace(
    experiment.parallel, mesh=jax.sharding.Mesh(jax.devices()[:1], ('batch',))
  )
  experiment = dataclasses.replace(experiment, parallel=one)
  methods.plan(experiment)
  experiment.config.batch_size = 1
  with pytest.raises(InputError, match='aspp_pooled') as error:
    methods.plan(experiment)
  assert error.value.where == 'config.batch_size'


# ---- Balancers ---------------------------------------------------------------


def test_names_that_a_balancer_was_not_made_for_are_refused(capsys):
  with pytest.raises(InputError, match='the tasks of the losses'):
    runpy.run_path(str(SHARED_CASES / 'one_task_per_step.py'))
  outcomes = re.findall(r'^\w+: (\w+)', capsys.readouterr().out, re.MULTILINE)
  assert len(outcomes) > 10 and set(outcomes) == {'InputError'}


def test_losses_that_are_no_scalars_are_refused(capsys):
  runpy.run_path(str(SHARED_CASES / 'shape1.py'))
  lines = re.findall(
    r'^\((1?),?\) (\w+) (\S+)', capsys.readouterr().out, re.MULTILINE
  )
  rules = {'gradnorm', 'db_mtl', 'moco', 'upgrad'}
  for shape, outcome in ('', '(4,'), ('1', 'InputError'):
    assert {rule for s, rule, _ in lines if s == shape} == rules
    assert {o for s, _, o in lines if s == shape} == {outcome}


# ---- A task and a dataset of one's own ---------------------------------------


def load(path, name):
  """Imports a file of the cases as a module of the package."""
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def custom(monkeypatch):
  """The config of the case, as if its files were in their folders."""
  case = SHARED_CASES / 'custom_task'
  for part in ('tasks/edges', 'tasks/heat', 'datasets/toy'):
    name = f'mtl_kd_jax.{part.replace("/", ".")}'
    monkeypatch.setitem(sys.modules, name, load(case / f'{part}.py', name))
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  config = load(case / 'configs/toy.py', 'toy').get_config()
  config.model.backbone, config.model.head = 'tiny', 'dense'
  config.distill.taps = ('bottleneck', 'decoder')
  return config


def test_tasks_and_a_dataset_of_ones_own_are_trained(custom, tmp_path, capsys):
  experiment = build(custom)
  assert tuple(experiment.tasks)[-2:] == ('edges', 'heat')
  assert 'heat' not in check(experiment.dataset)
  plan = methods.plan(experiment)
  student = plan.stages[-1]
  assert {'teacher_edges', 'teacher_heat'} <= {s.name for s in plan.stages}
  batch = student.parallel.shard(next(student.data.train(0)))
  # Zoomed and mirrored, as config.data says; a heat map keeps its values.
  assert 0 <= batch['heat'].min() and batch['heat'].max() <= 1
  frozen = {
    task: plan[name].abstract_state.variables
    for task, name in student.inputs.items()
  }
  _, losses = jax.eval_shape(
    student.train_step.function, student.abstract_state, frozen, batch
  )
  for name in ('edges', 'heat'):
    assert {f'loss/{name}', f'alignment/{name}'} <= losses.keys()
  for name in ('edges', 'heat'):
    task, label = experiment.tasks[name], batch[name]
    prediction = jnp.zeros((*label.shape[:3], task.channels))
    valid = task.valid(label)
    metrics = task.metrics(
      jax.device_get(task.statistics(prediction, label, valid))
    )
    assert np.isfinite(metrics[task.headline])
    assert np.isfinite(task.loss(prediction, label)).all()
  inspect.run(custom, tmp_path / 'run')
  assert 'nothing looks wrong' in capsys.readouterr().out


def test_a_dataset_without_options_needs_no_section(custom):
  with custom.unlocked():
    del custom.data['toy']
  assert build(custom).dataset.name == 'toy'
  assert build(custom, data=False).dataset.image_size == (32, 64)


# ---- All of them -------------------------------------------------------------


def test_every_case_is_run():
  here = pathlib.Path(__file__).read_text()
  for path in SHARED_CASES.iterdir():
    # Two processes are those of tests/jobs/test_launch_hosts.py.
    if path.name not in ('README.md', '__pycache__', 'multihost.sh'):
      assert f"'{path.name}" in here or f"'{path.stem}'" in here, path.name
