"""Logs and progress: what is written, and what survives an interruption."""

import errno
import io
import json
import os
import re
import types

from fixtures.tensorboard import scalars
import pytest
from rich.console import Console

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import stage_progress
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.metric_writer import MetricWriter

NAN, INF = float('nan'), float('inf')


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
  for name in ('FORCE_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
    monkeypatch.delenv(name, raising=False)


def losses(depth, semantic=1.0):
  return {'loss/depth': depth, 'loss/semantic': semantic, 'loss': depth + 1}


def run_stage(folder, name='student', *, start=0, stop=4, per_epoch=4):
  """One line for each step, as of a run that is stopped after `stop`."""
  reporter = with_tensorboard(folder)
  with reporter.stage(
    name, start=start, steps=8, steps_per_epoch=per_epoch
  ) as report:
    for step in range(start + 1, stop + 1):
      report.train([(step, losses(step / 10))])


def with_tensorboard(folder):
  reporter = MetricWriter(folder)
  reporter.track(('tensorboard',), name='run', config={})
  return reporter


def steps_of(folder, stage):
  return [e['step'] for e in read_log(folder) if e['stage'] == stage]


def test_a_line_holds_the_mean_over_its_steps(tmp_path):
  reporter = MetricWriter(tmp_path)
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.train([(1, losses(2.0)), (2, losses(4.0, 3.0))])
    report.train([(3, losses(8.0))])
  text = (tmp_path / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert lines == read_log(tmp_path)
  assert [line.pop('time') > 1e9 for line in lines] == [True, True]
  assert lines == [
    {
      'stage': 's',
      'kind': 'train',
      'step': 2,
      'epoch': 0.5,
      'loss/depth': 3.0,
      'loss/semantic': 2.0,
      'loss': 4.0,
    },
    {
      'stage': 's',
      'kind': 'train',
      'step': 3,
      'epoch': 0.75,
      'loss/depth': 8.0,
      'loss/semantic': 1.0,
      'loss': 9.0,
    },
  ]


def test_evaluations_are_lines_of_their_own(tmp_path):
  reporter = MetricWriter(tmp_path)
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.train([(4, losses(2.0))])
    report.pause('evaluating')
    report.evaluation(4, {'depth': {'rmse': 0.5}, 'semantic': {'miou': 20.0}})
    report.train([(5, losses(1.0))])
  train, evaluation, after = read_log(tmp_path)
  assert (train['kind'], after['kind']) == ('train', 'train')
  assert evaluation['kind'] == 'eval'
  assert (evaluation['step'], evaluation['epoch']) == (4, 1.0)
  assert evaluation['depth/rmse'] == 0.5
  assert evaluation['semantic/miou'] == 20.0


def test_lines_are_on_disk_before_the_stage_ends(tmp_path):
  reporter = MetricWriter(tmp_path)
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.train([(1, losses(2.0))])
    assert len(read_log(tmp_path)) == 1


@pytest.mark.filterwarnings('ignore')
def test_what_is_not_finite_becomes_null(tmp_path):
  reporter = MetricWriter(tmp_path)
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.evaluation(4, {'depth': {'a': NAN, 'b': INF, 'c': -INF, 'd': 1.0}})
  text = (tmp_path / 'metrics.jsonl').read_text()

  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')

  line = json.loads(text, parse_constant=refuse)
  assert [line[f'depth/{x}'] for x in 'abcd'] == [None, None, None, 1.0]


def test_resuming_drops_the_later_lines_of_that_stage_alone(tmp_path):
  run_stage(tmp_path, 'teacher', stop=8)
  run_stage(tmp_path, 'student', stop=6)
  before = read_log(tmp_path)
  run_stage(tmp_path, 'student', start=4, stop=5)
  assert steps_of(tmp_path, 'student') == [1, 2, 3, 4, 5]
  assert steps_of(tmp_path, 'teacher') == list(range(1, 9))
  assert read_log(tmp_path)[:12] == before[:12]  # kept as they were


def test_beginning_again_drops_all_lines_of_that_stage(tmp_path):
  run_stage(tmp_path, 'teacher', stop=2)
  run_stage(tmp_path, 'student', stop=3)
  run_stage(tmp_path, 'student', stop=1)
  assert steps_of(tmp_path, 'student') == [1]
  assert steps_of(tmp_path, 'teacher') == [1, 2]


@pytest.mark.parametrize('cut', [1, 2, 30])
def test_a_half_written_last_line_is_dropped(tmp_path, cut):
  run_stage(tmp_path, stop=3)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text()[:-cut])
  expected = [1, 2, 3] if cut == 1 else [1, 2]  # only the newline is missing
  assert steps_of(tmp_path, 'student') == expected
  run_stage(tmp_path, start=3, stop=4)
  assert steps_of(tmp_path, 'student') == [*expected, 4]
  assert path.read_text().endswith('}\n')


def test_no_log_is_an_empty_one(tmp_path):
  assert read_log(tmp_path) == []


@pytest.mark.parametrize(
  'damage',
  [
    b'\xff\xfe',
    b'\0' * 100,
    b'[1]',
    b'7',
    b'null',
    b'{"stage": "student", "kind": "train", "step": 1}',
    b'{"stage": ["student"], "kind": "train", "step": 1, "epoch": 1.0}',
    b'{"stage": "student", "kind": "train", "step": "1", "epoch": 1.0}',
    b'[' * 10**5,
  ],
  ids=lambda x: x[:60],
)
def test_what_is_no_line_is_left_out_and_stays(tmp_path, damage):
  run_stage(tmp_path, stop=2)
  path = tmp_path / 'metrics.jsonl'
  first, second, _ = path.read_bytes().split(b'\n')
  path.write_bytes(b'\n'.join((first, damage, second, damage)))
  assert steps_of(tmp_path, 'student') == [1, 2]
  run_stage(tmp_path, start=2, stop=3)
  assert steps_of(tmp_path, 'student') == [1, 2, 3]
  assert path.read_bytes().split(b'\n')[:3] == [first, damage, second]


def test_a_log_that_cannot_be_read_or_written_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.mkdir()
  with pytest.raises(InputError) as error:
    read_log(tmp_path)
  assert error.value.where == str(path)
  with pytest.raises(InputError):
    run_stage(tmp_path)
  path.rmdir()
  (tmp_path / 'tensorboard').write_text('a file')
  with pytest.raises(
    InputError, match="'tensorboard' that can be opened"
  ) as error:
    run_stage(tmp_path)
  assert error.value.argument == 'trackers'


@pytest.mark.skipif(
  not os.path.exists('/dev/full'), reason='a disk that is always full'
)
def test_a_full_disk_ends_a_stage_with_a_message(tmp_path):
  report = MetricWriter(tmp_path).stage(
    's', start=0, steps=8, steps_per_epoch=4
  )
  with pytest.raises(InputError, match='No space left'), report:
    report._log.close()
    report._log._file = open('/dev/full', 'ab', buffering=0)
    report.train([(1, losses(2.0))])


def test_a_full_disk_at_the_end_of_a_stage_is_a_message(tmp_path, monkeypatch):
  report = MetricWriter(tmp_path).stage(
    's', start=0, steps=8, steps_per_epoch=4
  )

  def close():
    raise OSError(errno.ENOSPC, 'No space left on device')

  with pytest.raises(InputError, match='No space left') as error, report:
    report.train([(1, losses(2.0))])
    report._log._file.close()
    monkeypatch.setattr(
      report._log, '_file', types.SimpleNamespace(close=close)
    )
  assert error.value.where == str(tmp_path)


def test_tensorboard_shows_what_the_log_says(tmp_path):
  reporter = with_tensorboard(tmp_path)
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.train([(1, losses(0.5)), (2, losses(1.5))])
    report.evaluation(2, {'depth': {'rmse': 0.25}})
  assert scalars(tmp_path / 'tensorboard' / 's') == [
    (2, 'train/loss/depth', 1.0),
    (2, 'train/loss/semantic', 1.0),
    (2, 'train/loss', 2.0),
    (2, 'eval/depth/rmse', 0.25),
  ]


@pytest.mark.parametrize('start', [0, 2])
def test_tensorboard_shows_what_the_log_says_after_resuming(tmp_path, start):
  run_stage(tmp_path, stop=4)
  folder = tmp_path / 'tensorboard' / 'student'
  # Two runs within a second, which real ones are not, would share a name.
  (first,) = folder.iterdir()
  first.rename(folder / 'events.out.tfevents.0000000001.host')
  run_stage(tmp_path, start=start, stop=5)
  logged = [(e['step'], e['loss/depth']) for e in read_log(tmp_path)]
  shown = [
    (step, pytest.approx(value))
    for step, tag, value in scalars(folder)
    if tag == 'train/loss/depth'
  ]
  assert logged == shown


def test_steps_without_a_label_do_not_count_in_a_mean(tmp_path, capsys):
  steps = [
    (1, losses(0.0) | {'labeled/depth': 0.0, 'labeled/semantic': 1.0}),
    (2, losses(3.0) | {'labeled/depth': 1.0, 'labeled/semantic': 1.0}),
    (3, losses(5.0) | {'labeled/depth': 1.0, 'labeled/semantic': 1.0}),
  ]
  reporter = with_tensorboard(tmp_path)
  with reporter.stage('s', start=0, steps=4, steps_per_epoch=4) as report:
    report.train(steps)
    report.train([(4, losses(0.0) | {'labeled/depth': 0.0})])
  some, none = read_log(tmp_path)
  assert some['loss/depth'] == 4.0
  assert none['loss/depth'] is None and none['loss'] == 1.0
  assert 'labeled/depth' not in some
  assert 'depth no label' in capsys.readouterr().out.splitlines()[-1]
  logged = [
    (step, value)
    for step, tag, value in scalars(tmp_path / 'tensorboard' / 's')
    if tag == 'train/loss/depth'
  ]
  assert logged == [(3, 4.0)]


def test_without_a_terminal_there_are_plain_lines(tmp_path, capsys):
  run_stage(tmp_path, stop=8)
  out = capsys.readouterr().out
  assert '\x1b' not in out and '\r' not in out
  lines = out.splitlines()
  assert all(line.startswith('[student] step ') for line in lines)
  # The first and the last at least; not one for each.
  assert 'step 0/8' in lines[0]
  assert 'step 8/8' in lines[-1]
  assert len(lines) < 8
  for part in ('depth 0.800', 'semantic 1.000', '1.800'):
    assert part in lines[-1]


def test_long_plain_lines_are_not_broken(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '40')
  MetricWriter(tmp_path).print('x ' * 100)
  assert len(capsys.readouterr().out.splitlines()) == 1


def test_brackets_are_printed_and_not_taken_for_markup(tmp_path, capsys):
  MetricWriter(tmp_path).print('[red] [/] in [h w 3]')
  assert capsys.readouterr().out == '[red] [/] in [h w 3]\n'


def test_on_a_terminal_there_is_a_progress_bar(tmp_path):
  reporter = MetricWriter(tmp_path)
  out = io.StringIO()
  reporter.console = Console(file=out, force_terminal=True, width=160)
  with reporter.stage('student', start=3, steps=8, steps_per_epoch=4) as report:
    for step in range(4, 9):
      report.train([(step, losses(0.5))])
    report.pause('evaluating')
    report.evaluation(8, {'depth': {'rmse': 0.25}})
  text = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', out.getvalue())
  for part in ('student', '8/8', 'evaluating', 'depth 0.500'):
    assert part in text
  assert out.getvalue().count('\x1b[?25l') == out.getvalue().count('\x1b[?25h')


def test_compiling_and_evaluating_do_not_count_as_slow_steps(
  tmp_path, capsys, monkeypatch
):
  now = [0.0]
  # The time of day, which may be set back, counts for nothing here.
  clock = types.SimpleNamespace(time=lambda: -now[0], monotonic=lambda: now[0])
  monkeypatch.setattr(stage_progress, 'time', clock)
  reporter = MetricWriter(tmp_path)
  with reporter.stage('s', start=2, steps=25, steps_per_epoch=5) as report:
    now[0] += 100  # compiling, with the first step
    report.train([(3, losses(1.0))])
    now[0] += 1
    report.train([(4, losses(1.0)), (5, losses(1.0))])
    report.pause('evaluating')
    now[0] += 50
    report.evaluation(5, {})
    now[0] += 10
    report.train([(step, losses(1.0)) for step in range(6, 26)])
  # 2 steps in 1 s, 20 steps in 10 s.
  last = capsys.readouterr().out.splitlines()[-1]
  assert re.search(r'(\S+) steps/s', last)[1] == '2.0', last


def test_a_disabled_reporter_writes_and_prints_nothing(tmp_path, capsys):
  reporter = MetricWriter(tmp_path, enabled=False)
  reporter.track(('tensorboard',), name='run', config={})
  reporter.print('text')
  with reporter.stage('s', start=0, steps=8, steps_per_epoch=4) as report:
    report.train([(8, losses(2.0))])
    report.pause('evaluating')
    report.evaluation(8, {'depth': {'rmse': 0.5}})
  assert list(tmp_path.iterdir()) == []
  captured = capsys.readouterr()
  assert (captured.out, captured.err) == ('', '')


def test_an_error_inside_a_stage_comes_through_and_closes_the_log(tmp_path):
  with pytest.raises(ZeroDivisionError):
    with with_tensorboard(tmp_path).stage(
      's', start=0, steps=8, steps_per_epoch=4
    ) as report:
      report.train([(1, losses(2.0))])
      raise ZeroDivisionError
  assert steps_of(tmp_path, 's') == [1]
  assert len(scalars(tmp_path / 'tensorboard' / 's')) == 3
