"""What a job writes and prints of its networks, and of which samples."""

import io
import json
import math
import types

from fixtures.samples import LABELS, random_batch
import numpy as np
import pytest
from rich.console import Console

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports import results as results_module
from mtl_kd_jax.reports.results import (
  Rows,
  average_metrics,
  average_rows,
  report_results,
)
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.stage import SINGLE_TASK

SIZE = (16, 24)
TASKS = make_tasks(LABELS, LABELS, dataset='toy')
STAGES = {f'alone_{t}': SINGLE_TASK for t in TASKS} | {'y': 'distilled'}


def evaluation(tasks, *, value=1.0, seed=0, keep=1):
  """As `evaluate` returns it, of samples that only this process has seen."""
  batch = random_batch(keep, SIZE, seed=seed) if keep else {}
  rng = np.random.default_rng(seed)
  return types.SimpleNamespace(
    metrics={t: dict.fromkeys(TASKS[t].columns, value) for t in tasks},
    predictions={
      t: rng.random((keep, *SIZE, TASKS[t].channels)) for t in tasks if keep
    },
    samples={k: batch[k] for k in ('image', *tasks) if keep},
    pictures=min(keep, 2),
  )


def make_log(epochs=3, stages=STAGES):
  """Losses, metrics of two splits, and gradients of all tasks."""
  log = []
  for stage in stages:
    tasks = [t for t in TASKS if stage in (f'alone_{t}', 'y')]
    for step in range(1, epochs + 1):
      line = {'stage': stage, 'step': step, 'epoch': float(step)}
      values = {f'loss/{t}': 1 / step for t in tasks}
      values |= {f'weight/{t}': 1.0 for t in tasks}
      log.append(line | {'kind': 'train', 'loss': 1.0} | values)
      names = [f'{t}/{m}' for t in tasks for m in TASKS[t].columns]
      log.append(line | {'kind': 'eval'} | dict.fromkeys(names, 100.0))
      log.append(line | {'kind': 'test'} | dict.fromkeys(names, float(step)))
      if len(tasks) > 1:
        norms = {f'norm/{t}': 1.0 + i for i, t in enumerate(tasks)}
        log.append(line | {'kind': 'balance'} | norms)
  return log


def make_rows(keep=1):
  rows = Rows(TASKS)
  for task in TASKS:
    rows.add(SINGLE_TASK, evaluation([task], keep=keep))
  rows.add('distilled', evaluation(TASKS, value=2.0, keep=keep))
  return rows


def report(rows, workdir, **options):
  """The results, and what was printed in 250 columns."""
  console = Console(file=io.StringIO(), width=250)

  def print_wide(x):
    console.print(x, markup=False, soft_wrap=True)

  options = {
    'name': 'toy run',
    'split': 'val',
    'checkpoint': 'last',
    'chosen_on': 'held_out',
  } | options
  results = report_results(rows, workdir, print_wide, **options)
  return results, console.file.getvalue()


@pytest.fixture
def drawn(monkeypatch):
  """Writes empty pictures; returns what each was drawn of."""
  calls = {}

  def fake(name):
    def draw(*args, **kwargs):
      *args, path = args
      calls[path.name] = (args, kwargs)
      path.touch()
      return True

    monkeypatch.setattr(results_module, name, draw)

  for name in ('draw_curves', 'draw_balance', 'draw_predictions'):
    fake(name)
  return calls


# ---- Rows -------------------------------------------------------------------


def test_networks_that_share_a_row_are_merged():
  rows = make_rows()
  assert list(rows.metrics) == list(rows.predictions)
  assert list(rows.metrics) == [SINGLE_TASK, 'distilled']
  for row, value in ((SINGLE_TASK, 1.0), ('distilled', 2.0)):
    assert rows.metrics[row].keys() == rows.predictions[row].keys()
    assert rows.metrics[row] == evaluation(TASKS, value=value).metrics


def test_samples_are_those_of_the_first_evaluation():
  rows = Rows(TASKS)
  first = evaluation(['depth'], seed=3)
  rows.add('a', first)
  rows.add('b', evaluation(TASKS, seed=4))
  for name in ('image', 'depth'):
    np.testing.assert_array_equal(rows.samples[name], first.samples[name])
  # It had no labels of the other tasks.
  assert rows.samples.keys() == {'image', *TASKS}


def test_adding_leaves_evaluations_as_they_are():
  one = evaluation(['depth'])
  rows = Rows(TASKS)
  rows.add(SINGLE_TASK, one)
  rows.add(SINGLE_TASK, evaluation(['semantic']))
  assert list(one.metrics) == ['depth'] and list(one.predictions) == ['depth']
  assert list(one.samples) == ['image', 'depth']


# ---- The report -------------------------------------------------------------


def test_all_files_are_written_and_the_table_is_printed(tmp_path):
  """With real figures, the only ones here; what they show: test_plots.py."""
  results, text = report(
    make_rows(), tmp_path, log=make_log(), stages=STAGES, average_epochs=2
  )
  files = {
    'results.json',
    'results.md',
    'results.html',
    'curves.png',
    'balancing.png',
    'predictions.png',
  }
  assert {p.name for p in tmp_path.iterdir()} == files
  assert (tmp_path / 'results.json').read_text() == results.json()
  assert all(name in text.splitlines()[-1] for name in files)
  assert results.title in text and results.average_title in text
  # The mean of the epochs 2 and 3.
  assert results.averages['distilled']['depth']['rmse'] == 2.5
  assert results.averages[SINGLE_TASK].keys() == TASKS.keys()
  assert "Balance of 'y'" in results.balance and results.balance in text
  document = json.loads(results.json())
  gains = document['rows']['distilled']['gains']
  assert all(math.isfinite(gain) for gain in gains.values())


def test_a_run_with_a_single_teacher_so_far_is_reported(tmp_path):
  """Samples have labels of the tasks that were scored, and no others."""
  rows = Rows(TASKS)
  rows.add(SINGLE_TASK, evaluation(['depth']))
  results, text = report(rows, tmp_path)
  assert (tmp_path / 'predictions.png').exists()
  assert 'predictions.png' in text
  metrics = json.loads(results.json())['rows'][SINGLE_TASK]['metrics']
  assert metrics['semantic'] == dict.fromkeys(TASKS['semantic'].columns)


def test_figures_are_drawn_of_what_was_evaluated_and_logged(tmp_path, drawn):
  rows, log = make_rows(keep=3), make_log()
  report(rows, tmp_path, log=log, stages=STAGES, suffix='_x')
  (samples, predictions, tasks), _ = drawn.pop('predictions_x.png')
  assert drawn == {
    'curves_x.png': ([log, TASKS], {'split': 'held_out', 'rows': STAGES}),
    'balancing_x.png': ([log, TASKS], {}),
  }
  # Of three samples that are kept, two are pictures.
  assert samples.keys() == rows.samples.keys() and tasks == TASKS
  assert predictions.keys() == rows.predictions.keys()
  for shown, kept in [
    (samples, rows.samples),
    *((predictions[row], rows.predictions[row]) for row in predictions),
  ]:
    for name, x in shown.items():
      np.testing.assert_array_equal(x, kept[name][:2])


def test_without_log_and_samples_there_are_only_tables(tmp_path, drawn):
  results, text = report(
    make_rows(keep=0), tmp_path, suffix='_train', average_epochs=2
  )
  names = {p.name for p in tmp_path.iterdir()}
  files = {f'results_train.{x}' for x in ('html', 'json', 'md')}
  assert names == files and not drawn
  assert not results.averages and not results.balance
  assert 'mean of the last' not in text and results.title in text


def test_the_split_of_the_choice_is_named_for_the_best_only(tmp_path, drawn):
  last, _ = report(make_rows(), tmp_path)
  best, _ = report(make_rows(), tmp_path, checkpoint='best')
  assert (last.chosen_on, best.chosen_on) == ('', 'held_out')


@pytest.mark.parametrize('checkpoint', ['last', 'best'])
@pytest.mark.parametrize('chosen', ['', 'a', 'b', 'ab'])
def test_the_last_is_named_where_none_could_be_chosen(
  chosen, checkpoint, tmp_path, drawn
):
  results, text = report(
    make_rows(),
    tmp_path,
    checkpoint=checkpoint,
    chosen={stage: stage in chosen for stage in 'ab'},
  )
  best = checkpoint == 'best'
  assert results.checkpoint == ('best' if best and chosen else 'last')
  assert results.not_chosen == [x for x in 'ab' if best and x not in chosen]
  assert results.title in text
  assert ('none has a score' in text) == (best and not chosen)


def test_what_cannot_be_written_is_printed(tmp_path, drawn):
  (tmp_path / 'results.md').mkdir()
  printed = []
  with pytest.raises(InputError, match='see the tables above') as error:
    report_results(
      make_rows(),
      tmp_path,
      printed.append,
      name='toy run',
      split='val',
      checkpoint='last',
      chosen_on='val',
    )
  assert error.value.where == str(tmp_path)
  (results,) = printed
  assert results.rows == make_rows().metrics


# ---- Means over the last epochs ---------------------------------------------


def test_metrics_of_the_last_epochs_are_averaged():
  log = make_log(epochs=4, stages=['y'])
  mean = average_metrics(log, 'y', TASKS, 3)
  assert mean == {t: dict.fromkeys(TASKS[t].columns, 3.0) for t in TASKS}


def test_epochs_that_were_not_scored_have_no_mean():
  """As those between the end of a run and that of the one it became."""
  log = [e for e in make_log(epochs=4, stages=['y']) if e['epoch'] != 3]
  mean = average_metrics(log, 'y', TASKS, 2)
  assert all(math.isnan(x) for t in mean.values() for x in t.values())
  mean = average_metrics(log, 'y', TASKS, 1)
  assert mean == {t: dict.fromkeys(TASKS[t].columns, 4.0) for t in TASKS}


def test_an_epoch_without_score_or_label_has_no_mean():
  log = make_log(epochs=3, stages=['y'])
  log[-2]['depth/rmse'] = None  # the last evaluation of the reported split
  assert log[-2]['kind'] == 'test'
  depth = average_metrics(log, 'y', TASKS, 2)['depth']
  assert math.isnan(depth.pop('rmse')) and set(depth.values()) == {2.5}
  for stage, count in (('y', 4), ('unknown', 1)):
    mean = average_metrics(log, stage, TASKS, count)
    assert all(math.isnan(x) for t in mean.values() for x in t.values())


def test_stages_of_one_row_are_averaged_for_their_own_tasks():
  stages = STAGES | {'unscored': 'other'}
  rows = average_rows(make_log(), stages, TASKS, 2)
  assert list(rows) == [SINGLE_TASK, 'distilled', 'other']
  expected = {t: dict.fromkeys(TASKS[t].columns, 2.5) for t in TASKS}
  assert rows[SINGLE_TASK] == rows['distilled'] == expected
  assert rows['other'] == {}
