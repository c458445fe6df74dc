"""Trackers get each line once, whatever happens to a run or to them."""

import json
import math
import types

from fixtures.trackers import FakeTracker, logged, shown
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import trackers
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.preemption import Stopped
from mtl_kd_jax.runtime.trackers import TRACKERS, check_trackers

CONFIG = {'name': 'run', 'distill': {'weights': {'depth': 1.0}, 'taps': ('a',)}}


@pytest.fixture
def fake(monkeypatch):
  class Fake(FakeTracker):
    pass

  monkeypatch.setitem(TRACKERS, 'fake', Fake)
  return Fake


def train(
  folder,
  names,
  *,
  start=0,
  stop=8,
  stage='student',
  error=None,
  on_begin=lambda: None,
  **options,
):
  """A process that takes some steps of a stage; steps 4 and 8 are scored."""
  writer = MetricWriter(folder, **options)
  writer.track(names, name='run', config=CONFIG)
  with writer.closed_on_error():
    with writer.stage(stage, start=start, steps=8, steps_per_epoch=4) as report:
      on_begin()
      for step in range(start + 1, stop + 1):
        report.train([(step, {'loss/depth': 1 / step, 'loss': 2 / step})])
        if step % 4 == 0:
          report.evaluation(step, {'depth': {'rmse': step / 8}})
    if error is not None:
      raise error
  return writer


def killed(folder, names, **steps):
  """As `train`, by a process that is killed after its last step."""
  path, before = folder / 'trackers.json', []

  def keep():
    before.append(path.read_bytes() if path.exists() else None)

  train(folder, names, on_begin=keep, **steps).close('stopped')
  if before[0] is not None:
    path.write_bytes(before[0])


def set_apart(workdir):
  """Event files of one second, which real runs do not have, share a name."""
  for folder in workdir.glob('tensorboard/*'):
    for file in folder.glob('events.out.*'):
      file.rename(folder / f'events.{len(list(folder.iterdir()))}')


# ---- Every tracker of the registry -------------------------------------------


@pytest.mark.parametrize('name', TRACKERS)
# Of the libraries themselves, where they are loaded late.
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_tracker_shows_what_the_log_says(name, tmp_path, monkeypatch, capsys):
  pytest.importorskip(TRACKERS[name].LIBRARY)
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
  monkeypatch.chdir(tmp_path)  # of MLflow's artifacts
  workdir = tmp_path / 'run'
  workdir.mkdir()
  train(workdir, (name,), stage='teacher').close()
  # Killed twice, both times behind the checkpoint of step 4.
  for start, stop in ((0, 7), (4, 5)):
    killed(workdir, (name,), start=start, stop=stop)
    set_apart(workdir)
  writer = train(workdir, (name,), start=4)
  (tmp_path / 'results.md').write_text('| a |')
  results = {'student': {'depth': {'rmse': 0.5, 'none': None}}}
  writer.report(results, [tmp_path / 'results.md'])
  writer.close()
  log = logged(read_log(workdir))
  assert len(log) == 2 * (2 * 8 + 2)
  pairs = zip(shown(name, workdir), log, strict=True)
  assert all(
    one[:3] == other[:3] and one[3] == pytest.approx(other[3])
    for one, other in pairs
  )
  assert 'warning' not in capsys.readouterr().out


@pytest.mark.parametrize('name', [*TRACKERS, 'jsonl'])
def test_a_library_that_is_missing_is_named_with_the_command(name, monkeypatch):
  monkeypatch.setattr(
    trackers.importlib.util, 'find_spec', lambda library: None
  )
  if name == 'jsonl':
    check_trackers((name,))
    return
  with pytest.raises(InputError) as error:
    check_trackers((name,))
  assert error.value.argument == 'trackers'
  assert TRACKERS[name].LIBRARY in error.value.found
  assert f'pip install {TRACKERS[name].LIBRARY}' in error.value.do


@pytest.mark.parametrize(
  'names, found',
  [
    (('tensorboard', 'comet'), "'comet'"),
    ('tensorboard', "'tensorboard'"),
    (('tensorboard', 'jsonl', 'tensorboard'), "'tensorboard' 2 times"),
    ((3,), '3'),
  ],
)
def test_names_that_are_none_are_refused(names, found):
  with pytest.raises(InputError) as error:
    check_trackers(names)
  assert found in error.value.found


# ---- What every tracker can rely on ------------------------------------------


def test_a_run_that_continues_stays_the_same_in_its_tracker(fake, tmp_path):
  error = Stopped('stopped', 15)
  with pytest.raises(Stopped):
    train(tmp_path, ('fake',), stop=6, error=error, group='comparison')
  (run,) = fake.runs.values()
  assert run['status'] == 'stopped'
  assert run['about'] == (tmp_path, 'run', CONFIG, 'comparison')
  train(tmp_path, ('fake',), start=4).close()
  assert [*fake.runs] == ['run0'] and run['status'] == 'finished'
  assert run['begun'] == [('student', 0), ('student', 4)]
  assert [line.number for line in run['lines']] == [*range(10)]
  train_lines = [x for x in run['lines'] if x.kind == 'train']
  assert [x.step for x in train_lines] == [*range(1, 9)]
  assert train_lines[1].values == {'loss/depth': 0.5, 'loss': 1.0}
  with pytest.raises(ZeroDivisionError):
    train(tmp_path, ('fake',), stage='other', error=ZeroDivisionError())
  assert run['status'] == 'failed'


def test_killed_again_and_again_no_step_is_doubled(fake, tmp_path):
  for start, stop in ((0, 7), (4, 5), (4, 6), (4, 8)):
    killed(tmp_path, ('fake',), start=start, stop=stop)
  assert fake.steps('student') == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]  # and scores


def test_a_tracker_that_fails_costs_nothing_and_catches_up(
  fake, tmp_path, capsys, monkeypatch
):
  class Other(FakeTracker):
    pass

  monkeypatch.setitem(TRACKERS, 'other', Other)
  names = ('other', 'fake')
  train(tmp_path, names, stop=2).close('stopped')
  fake.failing.add('log')
  train(tmp_path, names, start=2, stop=6)  # and never closed
  assert fake.steps('student') == [1, 2]
  assert Other.steps('student') == [1, 2, 3, 4, 4, 5, 6]
  out = capsys.readouterr().out
  assert out.count("warning: the tracker 'fake' failed") == 1
  assert 'ConnectionError: no answer to log' in out
  assert len(read_log(tmp_path)) == 7
  fake.failing = {'close'}
  train(tmp_path, names, start=4, stop=8).close()
  assert fake.steps('student') == Other.steps('student')
  assert Other.runs['run0']['status'] == 'finished'


def test_who_does_not_answer_is_refused_once_and_then_left_out(
  fake, tmp_path, capsys
):
  fake.failing = {'open'}
  with pytest.raises(InputError, match='no answer to open') as error:
    train(tmp_path, ('fake',))
  assert error.value.argument == 'trackers'
  assert error.value.do.startswith('start the server')
  assert read_log(tmp_path) == [] and capsys.readouterr().out == ''
  fake.failing = set()
  train(tmp_path, ('fake',), stop=2).close('stopped')
  fake.failing = {'open'}
  train(tmp_path, ('fake',), start=2, stop=6).close('stopped')  # goes on
  assert "warning: the tracker 'fake' failed" in capsys.readouterr().out
  fake.failing = set()
  train(tmp_path, ('fake',), start=6).close()
  assert fake.steps('student') == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_a_tracker_that_is_named_late_or_left_out_lacks_nothing(fake, tmp_path):
  train(tmp_path, (), stage='teacher').close()
  killed(tmp_path, ('fake',), stop=3)
  assert fake.steps('teacher') == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
  train(tmp_path, (), start=3, stop=6).close('stopped')
  train(tmp_path, ('fake',), start=6).close()
  assert fake.steps('student') == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_tensorboard_is_given_the_stages_of_which_it_has_nothing(tmp_path):
  train(tmp_path, (), stage='teacher').close()
  killed(tmp_path, (), stop=6)
  for start in (4, 8):
    train(tmp_path, ('tensorboard',), start=start).close()
    pairs = zip(
      shown('tensorboard', tmp_path), logged(read_log(tmp_path)), strict=True
    )
    assert all(one[:3] == other[:3] for one, other in pairs)


def test_a_full_disk_ends_tensorboard_and_no_training(
  tmp_path, capsys, monkeypatch
):
  from tensorboardX import record_writer

  class Disk:
    room = 300

    def write(self, data):
      self.room -= len(data)
      if self.room < 0:
        raise OSError('no space left')

    def flush(self):
      pass

    close = flush

  monkeypatch.setattr(record_writer, 'open_file', lambda path: Disk())
  train(tmp_path, ('tensorboard',)).close()
  out = capsys.readouterr().out
  assert out.count("warning: the tracker 'tensorboard' failed") == 1
  assert 'no space left' in out
  assert len(read_log(tmp_path)) == 10


def test_what_is_no_number_in_a_log_is_none(tmp_path):
  line = {'stage': 's', 'kind': 'train', 'step': 1, 'epoch': 1.0}
  values = ['x', [1], {'a': 1}, None, math.nan, math.inf, 10**400, True, 0.5]
  text = json.dumps({**line, **{f'v{i}': x for i, x in enumerate(values)}})
  (tmp_path / 'metrics.jsonl').write_text(text)
  (found,) = read_log(tmp_path)
  assert list(found.values()) == [*line.values(), *[None] * 7, True, 0.5]


def test_results_are_reported_once(fake, tmp_path):
  results = {'student': {'depth': {'rmse': 0.5, 'nan': float('nan')}}}
  for rmse in (0.5, 0.5, 0.25):
    writer = train(tmp_path, ('fake',), start=8)
    results['student']['depth']['rmse'] = rmse
    writer.report(results, [tmp_path / 'results.md'])
    writer.close()
  assert fake.runs['run0']['reports'] == [
    ({'student/result/depth/rmse': x}, ['results.md']) for x in (0.5, 0.25)
  ]


@pytest.mark.parametrize(
  'damage',
  [
    '',
    '[]',
    '{"fake": 3}',
    '{"fake": {"id": "run0"}}',
    'null',
    '[' * 100_000,
    *(
      '{"fake": {"id": "a", "lines": 1, "results": {}, "follows": true, '
      f'"sent": {{"student": {sent}}}}}}}'
      for sent in ('5', 'null', '{"train": "x"}')
    ),
  ],
)
def test_a_damaged_record_begins_a_new_run(damage, fake, tmp_path):
  train(tmp_path, ('fake',), stop=4).close('stopped')
  (tmp_path / 'trackers.json').write_text(damage)
  train(tmp_path, ('fake',), start=4).close()
  assert [*fake.runs] == ['run0', 'run1']
  assert fake.steps('student', 'run1') == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_other_processes_track_nothing(fake, tmp_path):
  train(tmp_path, ('fake',), enabled=False).close()
  assert fake.runs == {} and [*tmp_path.iterdir()] == []


# ---- What W&B and MLflow are told, without them ------------------------------


def test_wandb_is_given_rows_that_it_takes(tmp_path, monkeypatch):
  """Rows keep their numbers; and go on where the server's have ended."""
  rows, opened = [], {}

  class Run(types.SimpleNamespace):
    offline, url, dir = False, 'https://wandb.test/r', str(tmp_path / 'a' / 'b')

    def log(self, row, *, step):
      rows.append((step, row))

    def define_metric(self, name, **options):
      pass

    def finish(self, *, exit_code):
      rows.append(exit_code)

  def init(**options):
    opened.update(options)
    return Run(step=5)

  library = types.ModuleType('wandb')
  library.init, library.Settings = init, dict
  monkeypatch.setitem(__import__('sys').modules, 'wandb', library)
  monkeypatch.setattr(
    trackers.importlib.util, 'find_spec', lambda library: True
  )
  monkeypatch.setenv('WANDB_PROJECT', 'rooms')
  train(tmp_path, ('wandb',), stop=2, group='compare').close()
  record = json.loads((tmp_path / 'trackers.json').read_text())['wandb']
  assert opened['id'] == record['id'] and opened['resume'] == 'allow'
  assert (opened['project'], opened['group']) == ('rooms', 'compare')
  assert opened['dir'] == str(tmp_path) and opened['name'] == 'run'
  first = {'student/train/loss/depth': 1.0, 'student/train/loss': 2.0}
  assert rows[0] == (5, {**first, 'student/step': 1})
  assert rows[1][0] == 6 and rows[2] == 0
