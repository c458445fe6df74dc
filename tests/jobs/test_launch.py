"""launch.py as a user starts it: in a process of its own."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import threading
import time

from fixtures.backbones import Tiny
from fixtures.launching import TINY, launch, start, start_interpreter
from fixtures.once import made_once
from fixtures.tensorboard import scalars
import numpy as np
from PIL import Image
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.runtime.lock import exclusive


@pytest.fixture(scope='module')
def run_once(tmp_path_factory):
  """The folder and the output of a run that all tests share.

  No fork: the other tests compare their runs with one that has imported
  everything itself, and has its own random seed for hashes.
  """

  def run(folder):
    process = start_interpreter(
      *('-X', 'importtime'),
      'launch.py',
      *TINY,
      f'--config.data.data_dir={folder / "tfds"}',
      f'--workdir={folder / "run"}',
      JAX_LOG_COMPILES='1',
    )
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr
    (folder / 'stderr.txt').write_text(stderr)
    return str(folder), stdout

  folder, stdout = made_once(tmp_path_factory, 'launch', run)
  return pathlib.Path(folder), stdout


@pytest.fixture(scope='module')
def data_dir(run_once):
  return f'--config.data.data_dir={run_once[0] / "tfds"}'


@pytest.fixture
def finished(run_once, tmp_path):
  """The workdir of a run, and what the run printed.

  A copy: other processes test with the same run.
  """
  folder, stdout = run_once
  return shutil.copytree(folder / 'run', tmp_path / 'finished'), stdout


def test_what_is_compiled_ahead_is_not_compiled_again(run_once):
  """Other shapes are traced once more, and another placement is compiled."""
  stderr = (run_once[0] / 'stderr.txt').read_text()
  done = {'Finished tracing {}', 'Finished XLA compilation of jit({})'}
  # Four stages, of which two have several tasks.
  for name, times in (('train_step', 4), ('measure_conflict', 2)):
    for text in done:
      assert stderr.count(f'{text.format(name)} ') == times


def test_what_takes_seconds_to_import_is_not_imported(run_once):
  lines = (run_once[0] / 'stderr.txt').read_text().splitlines()
  imported = [
    line.rpartition('|')[2].strip()
    for line in lines
    if line.startswith('import time')
  ]
  assert 'tensorboardX.event_file_writer' in imported
  assert not any(name.startswith('torch.') for name in imported)
  assert 'scipy.stats' not in imported


def parameters(workdir, stage):
  """The last parameters of a stage's network, read by orbax alone."""
  import orbax.checkpoint as ocp

  folder = workdir / 'checkpoints' / stage / 'last'
  newest = max(int(p.name) for p in folder.iterdir())
  state = ocp.StandardCheckpointer().restore(folder / str(newest) / 'state')
  leaves = {}

  def collect(prefix, tree):
    for key, value in tree.items():
      if isinstance(value, dict):
        collect(f'{prefix}/{key}', value)
      else:
        leaves[f'{prefix}/{key}'] = np.asarray(value)

  collect('', state['params'])
  return leaves


def test_a_run_ends_with_its_table_and_files(finished):
  workdir, stdout = finished
  results = json.loads((workdir / 'results.json').read_text())
  assert results['chosen_on'] == 'held_out'
  assert "chosen on split 'held_out'" in stdout
  assert 'mean of the last epoch on' in stdout
  assert list(results['rows']) == ['single-task', 'uniform', 'distilled']
  markdown = (workdir / 'results.md').read_text()
  for row in results['rows'].values():
    for task, metrics in row['metrics'].items():
      for metric, value in metrics.items():
        column = results['columns'][task][metric]
        if f' {column["title"]} ' not in markdown:
          continue  # it stands in tables of all metrics
        decimals = 2 if column['unit'] in '%°' else 4
        if column['unit'] == '':
          decimals = 4
        assert f'{value:.{decimals}f}' in markdown
        assert f'{value:.{decimals}f}' in stdout
  assert set(results['rows']['distilled']['gains']) == {
    'delta_mtl',
    'delta_m',
    'delta_p',
  }
  for name in ('curves.png', 'balancing.png', 'predictions.png'):
    picture = np.asarray(Image.open(workdir / name).convert('L'))
    assert min(picture.shape) > 200 and picture.std() > 10
  log = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert {json.loads(line)['stage'] for line in log} == {
    'teacher_semantic',
    'teacher_depth',
    'uniform',
    'distilled',
  }
  # The conflict between tasks: in the log, in TensorBoard, in the report.
  seen = [json.loads(line) for line in log if '"kind": "balance"' in line]
  assert [(e['stage'], e['step']) for e in seen] == [
    (stage, step) for stage in ('uniform', 'distilled') for step in (1, 2, 3, 4)
  ]
  shown = scalars(workdir / 'tensorboard' / 'distilled')
  for key in ('norm/depth', 'norm/alignment/depth', 'cosine/depth/semantic'):
    values = [(e['step'], e[key]) for e in seen if e['stage'] == 'distilled']
    there = [(step, x) for step, tag, x in shown if tag.endswith(key)]
    assert [step for step, _ in there] == [1, 2, 3, 4]
    np.testing.assert_allclose(there, values, rtol=1e-5)
  assert 'cosine/depth/alignment/depth' in seen[-1]
  assert markdown.count("Balance of '") == 2
  # A table of parameters at the start; the adaptors have their own row.
  assert 'adaptors' in stdout and 'compiling' in stdout


def test_a_second_run_skips_what_is_finished(finished, data_dir):
  workdir, _ = finished
  before = (workdir / 'results.json').read_text()
  code, stdout, stderr = launch(
    *TINY, data_dir, f'--workdir={workdir}', figures=False
  )
  assert code == 0, stderr
  assert 'compiling' not in stdout
  assert (workdir / 'results.json').read_text() == before


def test_evaluate_scores_a_finished_run_on_any_split(finished, data_dir):
  workdir, _ = finished
  original = (workdir / 'results.json').read_text()
  for split in ('val', 'train'):
    code, stdout, stderr = launch(
      *TINY,
      data_dir,
      '--job=evaluate',
      f'--workdir={workdir}',
      f'--split={split}',
      figures=False,
    )
    assert code == 0, stderr
    assert 'distilled' in stdout and repr(split) in stdout
  again = json.loads((workdir / 'results_val.json').read_text())
  expected = json.loads(original)
  assert expected.pop('mean_of_last_epochs')['rows'] == again['rows']
  assert again == expected
  other = json.loads((workdir / 'results_train.json').read_text())
  assert other['rows'] != again['rows']
  assert (workdir / 'results.json').read_text() == original


def test_another_config_is_refused_and_nothing_is_touched(finished, data_dir):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  code, _, stderr = launch(
    *TINY, data_dir, f'--workdir={workdir}', '--config.optim.learning_rate=0.5'
  )
  assert code == 2
  assert 'optim.learning_rate was 0.003 and is 0.5' in stderr
  assert 'Traceback' not in stderr
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}


def test_a_workdir_in_use_is_refused_and_nothing_is_touched(finished, data_dir):
  workdir, _ = finished

  def state():
    files = (p for p in workdir.rglob('*') if p.name != '.lock')
    return {p: p.stat().st_mtime_ns for p in files}

  before = state()
  with exclusive(workdir):
    code, _, stderr = launch(*TINY, data_dir, f'--workdir={workdir}')
    assert code == 2 and f'process {os.getpid()} on' in stderr
    assert 'Traceback' not in stderr
  assert before == state()


def copy_teachers(finished, workdir):
  """Copies a finished run as if it had ended after its single-task networks."""
  removed = ('uniform', 'distilled')
  shutil.copytree(finished, workdir)
  for name in removed:
    shutil.rmtree(workdir / 'checkpoints' / name)
    shutil.rmtree(workdir / 'tensorboard' / name)
  for path in workdir.iterdir():
    if path.is_file() and path.name not in ('config.json', 'metrics.jsonl'):
      path.unlink()
  log = workdir / 'metrics.jsonl'
  lines = log.read_text().splitlines(keepends=True)
  kept = [line for line in lines if json.loads(line)['stage'] not in removed]
  log.write_text(''.join(kept))


@contextlib.contextmanager
def reading(workdir):
  """Opens a workdir again and again, as another process might."""
  count, errors, ended = [0], [], threading.Event()

  def read():
    try:
      while not ended.wait(0.5):
        run = mtl.load(workdir)
        for name in run:
          assert run[name].variables
        assert run.plan and run.log
        count[0] += 1
    except Exception as error:
      errors.append(error)

  thread = threading.Thread(target=read)
  thread.start()
  yield count
  ended.set()
  thread.join()
  assert not errors


def test_a_run_stopped_and_then_killed_resumes_to_identical_parameters(
  finished, data_dir, tmp_path, monkeypatch
):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  workdir = tmp_path / 'run'
  copy_teachers(finished[0], workdir)
  arguments = (*TINY, data_dir, f'--workdir={workdir}')
  # Many checkpoints, so that a kill is likely to interrupt one.
  arguments = (*arguments, '--config.checkpoint.every_steps=1')

  def interrupt(signum, when):
    process = start(*arguments, figures=False)
    deadline = time.time() + 600
    while process.poll() is None and time.time() < deadline:
      if when():
        process.send_signal(signum)
        break
      time.sleep(0.002)
    _, stderr = process.communicate(timeout=600)
    assert 'Traceback' not in stderr
    assert not (workdir / 'results.json').exists()
    return process.returncode, stderr

  def logged():
    """The first step, of four, stands in the log."""
    line = '"stage": "uniform", "kind": "train", "step": 1'
    return line in (workdir / 'metrics.jsonl').read_text()

  def saving():
    last = workdir / 'checkpoints' / 'distilled' / 'last'
    return any('tmp' in path.name for path in last.glob('*'))

  code, stderr = interrupt(signal.SIGTERM, logged)
  assert code == 128 + signal.SIGTERM
  assert 'run the same command again' in stderr
  assert re.search('in stage uniform after step [123] of 4', stderr)
  with reading(workdir) as count:
    code, _ = interrupt(signal.SIGKILL, saving)
    assert code == -signal.SIGKILL
    code, stdout, stderr = launch(*arguments, figures=False)
  assert code == 0, stderr
  assert count[0] > 1
  for finished_before in ('teacher_semantic', 'teacher_depth', 'uniform'):
    assert f'{finished_before}] step' not in stdout
  for name in ('uniform', 'distilled'):
    expected, resumed = (parameters(w, name) for w in (finished[0], workdir))
    assert expected.keys() == resumed.keys()
    for key, value in expected.items():
      np.testing.assert_array_equal(resumed[key], value, err_msg=key)
  tables = [w / 'results.md' for w in (finished[0], workdir)]
  assert tables[0].read_text() == tables[1].read_text()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--config.epocs=3',), 'epocs'),
    (('--config.epochs=many',), 'epochs'),
    (('--config.model.widht=1.0',), 'widht'),
    (('--config=configs/nothing.py',), 'nothing.py'),
    (('--job=trian',), 'trian'),
    (('--wrkdir=x',), 'wrkdir'),
    (('stray',), 'stray'),
    (('--config.tasks=("semantic", "sky")',), "'sky'"),
    (('--config.batch_size=0',), 'config.batch_size'),
    (
      ('--config=configs/nyuv2.py', '--config.data.data_dir=/nowhere'),
      "the dataset 'scenes' needs no download",
    ),
    (('--config.balancing.level=features',), 'config.balancing.grad_wrt'),
    (('--config.data.keep_labels=one',), 'config.data.label_fraction'),
    (('--job=data',), '--job=inspect'),
  ],
  ids=lambda x: x[-1] if isinstance(x, tuple) else '',
)
def test_a_wrong_command_line_is_one_message(arguments, message, tmp_path):
  config = (
    () if '--config=' in arguments[0] else ('--config=configs/common.py',)
  )
  workdir = tmp_path / 'run'
  code, stdout, stderr = launch(*config, *arguments, f'--workdir={workdir}')
  assert code == 2
  assert message in stderr
  assert 'Traceback' not in stderr and 'Traceback' not in stdout
  assert not workdir.exists()


def test_a_missing_config_or_run_is_explained(tmp_path):
  code, _, stderr = launch()
  assert code == 2 and 'configs/quickstart.py' in stderr
  code, _, stderr = launch('--job=evaluate', f'--workdir={tmp_path}')
  assert code == 2 and 'the workdir of an earlier run' in stderr


def test_evaluating_an_unfinished_run_is_refused(finished, tmp_path):
  (tmp_path / 'config.json').write_text(
    (finished[0] / 'config.json').read_text()
  )
  code, _, stderr = launch('--job=evaluate', f'--workdir={tmp_path}')
  assert code == 2 and 'a finished run' in stderr
  assert not (tmp_path / 'checkpoints').exists()


def test_divergence_ends_with_its_own_exit_code(data_dir, tmp_path):
  code, _, stderr = launch(
    *TINY,
    data_dir,
    f'--workdir={tmp_path}',
    '--config.optim.learning_rate=1e38',
    '--config.epochs=3',
  )
  assert code == 3
  assert 'in stage teacher_semantic, step' in stderr
  assert 'Nothing of this stage was saved' in stderr
  assert 'Traceback' not in stderr


def test_an_old_key_in_a_config_file_is_answered_with_the_new_one(tmp_path):
  config = tmp_path / 'old.py'
  config.write_text(
    'from configs import common\n'
    'def get_config():\n'
    '  config = common.get_config()\n'
    '  config.optim.step_epochs = 3\n'
    '  return config\n'
  )
  code, _, stderr = launch(f'--config={config}', f'--workdir={tmp_path}/run')
  assert code == 2 and 'config.optim.decay_every_epochs' in stderr
  assert 'Traceback' not in stderr


def test_a_misspelled_key_in_a_config_file_is_one_message(tmp_path):
  config = tmp_path / 'mine.py'
  config.write_text(
    'from configs import common\n'
    'def get_config():\n'
    '  config = common.get_config()\n'
    '  config.epocs = 3\n'
    '  return config\n'
  )
  code, _, stderr = launch(f'--config={config}', f'--workdir={tmp_path}/run')
  assert code == 2 and 'Did you mean "epochs"' in stderr
  assert f'{config}, line 4' in stderr
  assert 'Traceback' not in stderr and len(stderr.splitlines()) == 4


def test_taps_needs_no_data_and_leaves_no_files(tmp_path):
  code, stdout, stderr = launch(
    '--job=taps',
    '--config=configs/nyuv2.py:mtan',
    '--config.teacher.model.backbone=segnet',
    '--config.teacher.model.width=0.5',
    "--config.distill.taps=('decoder:bottleneck',)",
    f'--workdir={tmp_path}/run',
  )
  assert code == 0, stderr
  for part in (
    'student: mtan x 1',
    'teachers: segnet x 0.5',
    '[b 288 384 64]',
    '[b 9 12 256]',
    '64 to 256 channels, resized to 9 x 12',
  ):
    assert part in stdout
  assert not (tmp_path / 'run').exists()


def test_inspect_reads_as_many_samples_as_requested(data_dir, tmp_path):
  code, stdout, stderr = launch(
    *TINY, data_dir, '--job=inspect', '--samples=2', f'--workdir={tmp_path}/run'
  )
  assert code == 0, stderr
  assert 'train: 12 samples, 2 read' in stdout
  assert 'without' in stdout and 'cone' in stdout
  assert (tmp_path / 'run' / 'data.png').exists()
