"""Cells of a comparison share teachers, resume, diverge and are collected."""

import json
import math
import pathlib
import threading

from fixtures.backbones import Tiny
from fixtures.trackers import FakeTracker
import jax
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import quickstart
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import collect, compare
from mtl_kd_jax.jobs.cells import record_of
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.trackers import TRACKERS

pytestmark = pytest.mark.usefixtures('without_figures')

VARIATIONS = (
  ('uniform', {'method': 'multi_task'}),
  ('strong', {'distill.weights.depth': 4.0}),
)


@pytest.fixture(scope='module')
def tiny():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    # Cells would compile everything anew, to save memory.
    patch.setattr(jax, 'clear_caches', lambda: None)
    yield


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('rooms'))


@pytest.fixture
def config(tiny, data_dir):
  """Of two seeds, and runs of two steps."""
  base = quickstart.papers_method()
  base.distill.adapt, base.data.val_fraction = 'cosine', 0.0
  base.tasks = ('depth', 'normals')
  base.epochs, base.batch_size = 1, 4
  base.model.backbone, base.model.head = 'tiny', 'dense'
  base.distill.taps = ('decoder',)
  base.data.data_dir = data_dir
  scenes = base.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (16, 16), 8, 4
  base.report.images, base.report.average_epochs = 0, 1
  base.balancing.observe_every = 0
  config = comparison.get_config(base)
  config.variations, config.seeds = VARIATIONS, (0, 7)
  return config


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.is_file()
  }


# ---- What is trained ---------------------------------------------------------


def test_cells_are_runs_that_share_teachers(
  config, tmp_path, capsys, monkeypatch
):
  class Fake(FakeTracker):
    pass

  monkeypatch.setitem(TRACKERS, 'fake', Fake)
  config.base.report.trackers = ('fake', 'jsonl')
  caches = tmp_path / 'teachers'
  config.base.teacher.cache = 'disk'
  config.base.teacher.cache_dir = str(caches)
  config.seeds = (7,)
  workdir = tmp_path / 'compare'
  result = mtl.compare(config, workdir)
  assert [*result.scores] == ['single-task', *dict(VARIATIONS)]
  for row, by_seed in result.scores.items():
    assert [*by_seed] == [7]
    run = mtl.load(workdir / row / 'seed_7')
    assert run.config.seed == 7
    # Each cell is a run: what it has scored is what the table has.
    stages = {
      'single-task': ('teacher_depth', 'teacher_normals'),
      'uniform': ('balanced',),
      'strong': ('distilled',),
    }[row]
    for stage in stages:
      for task, metrics in run[stage].metrics.items():
        assert by_seed[7][task] == metrics
  # Teachers were trained once for each seed, and nowhere else.
  trained = {
    str(p.parent.parent.relative_to(workdir))
    for p in workdir.rglob('checkpoints/teacher_depth')
  }
  assert trained == {'single-task/seed_7'}
  assert len([p for p in caches.iterdir() if p.is_dir()]) == 1
  # Trackers have a run for each, in one group, with all that was reported.
  tracked = {r['about'].workdir: r for r in Fake.runs.values()}
  assert set(tracked) == {
    workdir / row / 'seed_7' for row in ('single-task', *dict(VARIATIONS))
  }
  assert {r['about'].group for r in tracked.values()} == {config.name}
  assert {r['status'] for r in tracked.values()} == {'finished'}
  run = tracked[workdir / 'strong' / 'seed_7']
  assert run['about'].name == f'{config.name}: strong, seed 7'
  ((reported, files),) = run['reports']
  score = result.scores['strong'][7]['depth']['rmse']
  assert reported['distilled/result/depth/rmse'] == score
  assert {'results.md', 'curves.png'} <= set(files)
  assert not list(workdir.rglob('tensorboard'))
  # With what was overridden, and the rest as in the base.
  weights = mtl.load(workdir / 'strong' / 'seed_7').config.distill.weights
  assert (
    weights.depth == 4
    and weights.normals == config.base.distill.weights.normals
  )

  # Started again, it only reads; the same from its folder alone.
  before = files_of(workdir)
  shown = capsys.readouterr().out
  assert '[3/3]' in shown and 'left' in shown
  again = mtl.compare(compare.default_config(workdir), workdir)
  assert again.scores == result.scores
  assert '3 of 3 cells are done' in capsys.readouterr().out
  after = files_of(workdir)
  changed = {n for n in before | after if before.get(n) != after.get(n)}
  assert all(pathlib.Path(n).parent == pathlib.Path('.') for n in changed)


def test_shares_of_the_cells_are_all_of_them(config, tmp_path):
  cells = comparison.make_cells(config, tmp_path)
  shares = [compare._share(cells, f'{i}/3') for i in (1, 2, 3)]
  assert {id(c) for share in shares for c in share} == set(map(id, cells))
  assert sum(map(len, shares)) == len(cells)
  assert compare._share(cells, 'none') == []
  assert compare._share(cells, 'all') == cells


def test_a_share_trains_the_teachers_that_it_needs(config, tmp_path):
  config.variations, config.seeds = VARIATIONS[:1], (0,)
  result = mtl.compare(config, tmp_path, cells='2/2')  # not single-task
  assert set(result.scores['uniform']) == {0}
  assert set(result.scores['single-task']) == {0}

  # With another base, what is there is refused, and left as it is.
  before = files_of(tmp_path)
  config.base.optim.learning_rate = 0.5
  with pytest.raises(InputError, match='learning_rate was'):
    mtl.compare(config, tmp_path)
  assert files_of(tmp_path) == before


def test_cells_that_diverge_or_are_in_use_do_not_end_the_others(
  config, tmp_path, capsys
):
  config.seeds = (0,)
  config.variations = (
    ('wild', {'distill.weights.depth': 3e38}),
    VARIATIONS[0],
  )
  held, end = threading.Event(), threading.Event()

  def hold():
    with exclusive(tmp_path / 'uniform' / 'seed_0'):
      held.set()
      end.wait()

  other = threading.Thread(target=hold)
  other.start()
  held.wait()
  try:
    result = mtl.compare(config, tmp_path)
  finally:
    end.set()
    other.join()
  shown = capsys.readouterr().out
  assert 'another process trains it' in shown and 'diverged' in shown
  assert result.scores['wild'] == result.scores['uniform'] == {}
  assert result.missing['uniform'] == {0: 'not trained'}
  wild = result.missing['wild']
  assert 'diverged' in wild[0]
  # Where nobody has the one, it is trained; the other would diverge again.
  record = json.loads((tmp_path / 'wild' / 'seed_0' / 'cell.json').read_text())
  again = mtl.compare(config, tmp_path)
  assert again.missing['wild'] == wild and 0 in again.scores['uniform']
  now = json.loads((tmp_path / 'wild' / 'seed_0' / 'cell.json').read_text())
  assert now == record


def test_cells_that_need_other_teachers_have_their_own(config):
  config.variations += (('wide', {'model.width': 0.5}),)
  cells = comparison.make_cells(config, pathlib.Path('x'))
  rows = {c.row: c.single_task for c in cells}
  own = 'single-task of wide'
  assert rows == {
    'single-task': 'single-task',
    own: own,
    'uniform': 'single-task',
    'strong': 'single-task',
    'wide': own,
  }
  (wide,) = (c for c in cells if (c.row, c.seed) == ('wide', 7))
  assert wide.config.teacher.model.width == 0.5
  assert wide.config.teacher.workdir.endswith(f'{own}/seed_7')
  # The base is as it was.
  assert config.base.model.width == mtl.get_config('quickstart').model.width


def test_rows_of_other_data_are_known_by_their_keys(config):
  config.variations += (
    ('less', {'data.scenes.num_train': 4}),
    ('other', {'data.eval_split': 'train', 'data.scenes.seed': 9}),
  )
  cells = comparison.make_cells(config, pathlib.Path('x'))
  how = (
    'data.eval_split "train" instead of "val"; '
    'data.scenes.num_train 8 instead of none; '
    'data.scenes.seed 9 instead of 0'
  )
  own = 'single-task of other'
  found = collect._other_data(cells, 'uniform')
  assert found == {'other': how, own: how}
  of_other = collect._other_data(cells, 'other').keys()
  assert of_other == {c.row for c in cells} - {'other', own}


# ---- Files that are damaged --------------------------------------------------


@pytest.mark.parametrize(
  'text',
  [
    '{"seconds": null, "devices": 5, "versions": null, "diverged": []}',
    '{"seconds": "abc"}',
    '{"seconds": NaN}',
    '{"seconds": -1}',
    f'{{"seconds": {"9" * 400}}}',
    '[' * 100_000,
    '[]',
    'x',
  ],
)
def test_what_is_damaged_in_the_record_of_a_cell_is_not_known(text, tmp_path):
  (tmp_path / 'cell.json').write_text(text)
  assert record_of(tmp_path) == {}


@pytest.mark.parametrize('text', ['{"stages": []}', ''])
def test_a_finished_cell_without_stages_is_one_message(text, tmp_path):
  if text:
    (tmp_path / 'plan.json').write_text(text)
  with pytest.raises(InputError, match='the stages of a finished cell'):
    collect._reported_stages(tmp_path)


def test_a_metric_with_too_many_digits_is_none(tmp_path):
  metrics = {'depth': {'rmse': 10**400, 'none': None, 'one': 1}}
  workdirs.write_metrics(tmp_path, 'uniform', metrics)
  found = collect._metrics(tmp_path, ['uniform'])['depth']
  assert math.isnan(found['rmse']) and math.isnan(found['none'])
  assert found['one'] == 1


# ---- What is refused, before anything is trained -----------------------------


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('variations', (('a', {'balancing.nam': 'x'}),), 'balancing.nam'),
    ('variations', (('a', {}), ('a', {})), "'a' twice"),
    ('variations', (('a/b', {}),), 'a/b'),
    ('variations', (('..', {}),), r'\.\.'),
    ('variations', (('single-task', {}),), 'single-task'),
    ('variations', (('Compare.md', {}),), 'found: +Compare.md'),
    ('variations', (('config.json', {}),), 'found: +config.json'),
    ('variations', (('a', {'seed': 3}),), "seed in 'a'"),
    ('variations', (('a', {'epochs': 'x'}),), "'x'"),
    ('variations', (('a', {'balancing.name': 'mgdaa'}),), 'mgdaa'),
    ('variations', ('a',), 'a'),
    ('variations', (), 'none'),
    ('seeds', (0, 1, 0), r'\(0, 1, 0\)'),
    ('seeds', (), r'\(\)'),
    ('seeds', (-1,), '-1'),
    ('reference', 'b', 'b'),
  ],
)
def test_a_wrong_comparison_is_one_message(
  key, value, message, config, tmp_path
):
  config[key] = value
  with pytest.raises(InputError, match=message):
    mtl.compare(config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('cells', ['', '0/3', '4/3', '1', 'x/y', '-1/3'])
def test_a_wrong_share_is_one_message(cells, config, tmp_path):
  with pytest.raises(InputError, match='a share such as 2/8'):
    mtl.compare(config, tmp_path, cells=cells)


def test_the_folder_of_a_run_is_refused(config, tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(InputError, match='the workdir of a run'):
    mtl.compare(config, tmp_path)


def test_an_experiment_is_no_comparison(config, tmp_path):
  with pytest.raises(InputError, match='config of a comparison'):
    mtl.compare(config.base, tmp_path)
