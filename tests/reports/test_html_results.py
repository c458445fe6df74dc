"""results.html: whole, safe, and the same numbers as the other files."""

import types

from fixtures.html import check_page, elements, read_html, rows_of
from fixtures.samples import random_batch
import numpy as np
import pytest

from mtl_kd_jax.labels import Label
from mtl_kd_jax.reports import results as results_module
from mtl_kd_jax.reports.results import Rows, report_results
from mtl_kd_jax.reports.verdict import verdict
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.stage import SINGLE_TASK

SIZE = (8, 12)
HOSTILE = (
  '</script><script>alert("1")</script>\n<b onclick=\'x\'>{{ 7*7 }}&amp;'
)
STAGES = {'y': 'uniform', HOSTILE: 'distilled'}


def make_labels(name='a', unit='m'):
  return {
    'semantic': Label('class', classes=(name, 'b', 'c', 'd')),
    'depth': Label('depth', unit=unit),
    'normals': Label('normal'),
  }


def make_run(*, keep=10, names=(SINGLE_TASK, 'uniform', 'distilled'), **label):
  labels = make_labels(**label)
  tasks = make_tasks(labels, labels, dataset='toy')
  rows, rng = Rows(tasks), np.random.default_rng(0)
  batch = random_batch(keep, SIZE) if keep else {}
  for i, name in enumerate(names):
    shapes = {t: (keep, *SIZE, task.channels) for t, task in tasks.items()}
    rows.add(
      name,
      types.SimpleNamespace(
        metrics={
          t: {m: 20.0 + i + j for j, m in enumerate(task.columns)}
          for t, task in tasks.items()
        },
        predictions={t: rng.random(shapes[t]) for t in tasks if keep},
        samples={k: batch[k] for k in ('image', *tasks) if keep},
        pictures=min(keep, 2),
      ),
    )
  return rows


def make_log(stages=STAGES):
  return [
    {
      'stage': stage,
      'kind': kind,
      'step': step,
      'epoch': step / 2,
      'time': 1000.0 + 100 * step,
      'loss': 1.0,
      **{f'loss/{t}': 1 / step for t in make_labels()},
      **{f'norm/{t}': 1.0 + step for t in make_labels()},
    }
    for stage in stages
    for step in (1, 2, 4)
    for kind in ('train', 'balance')
  ]


def write(rows, folder, **options):
  printed = []
  results = report_results(
    rows,
    folder,
    printed.append,
    **{
      'name': 'toy run',
      'split': 'val',
      'checkpoint': 'last',
      'chosen_on': 'val',
      **options,
    },
  )
  return results, printed


def read(folder, name='results.html'):
  root = read_html((folder / name).read_text('utf-8'))
  check_page(root)
  return root


@pytest.fixture(autouse=True)
def no_png(monkeypatch):
  """What the other files show is tested in test_results.py."""
  for name in ('draw_curves', 'draw_balance', 'draw_predictions'):
    monkeypatch.setattr(results_module, name, lambda *args, **kwargs: False)


def test_a_page_has_all_that_was_found(tmp_path):
  workdirs.claim(tmp_path, {'epochs': 12, 'name': 'toy'})
  rows = make_run()
  stages = {'y': 'uniform', 'x': 'distilled'}
  results, printed = write(
    rows, tmp_path, log=make_log(stages), stages=stages, notes=['Note: aha.']
  )
  assert 'results.html' in printed[-1]
  root = read(tmp_path)
  text = root.text
  assert verdict(rows.metrics, rows.tasks) in text and 'Note: aha.' in text
  assert results.balance.split('\n\n')[0] in text
  assert len(list(root.all('svg'))) == 2  # curves and balance
  assert '"epochs": 12' in text and 'jax ' in text and 'command' in text
  (times,) = [t for t in root.all('table') if 'Time of' in t.text]
  assert [cell for cell, _ in rows_of(times)['x']][:3] == [
    '4',
    '2',
    '5 min 0 s',
  ]
  # Eight samples and, not among them, the worst or the best: an image, three
  # labels, nine predictions and nine maps of errors.
  samples = list(root.all('article'))
  assert 8 <= len(samples) <= 10
  assert {len(list(s.all('img'))) for s in samples} == {1 + 3 + 9 + 9}
  marks = [mark.text for s in samples for mark in s.all('span', 'mark')]
  assert marks == ['worst', 'best']
  assert 'first 10 samples' in text and 'for distilled' in text


def test_the_table_has_the_numbers_of_the_other_files(tmp_path):
  rows = make_run(keep=0)
  rows.metrics['uniform']['depth'] = {'abs_error': float('nan')}
  results, _ = write(rows, tmp_path)
  (table,) = read(tmp_path).all('table', 'sortable')
  markdown = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in results.markdown().splitlines()
    if line.startswith('|')
  ][2:]
  cells = rows_of(table)
  assert list(cells) == [line[0] for line in markdown]
  for name, *expected in markdown:
    for (text, value), number in zip(cells[name], expected, strict=True):
      assert text.startswith(number)
      if number == '–':
        assert value is None
      else:
        assert float(value) == pytest.approx(float(number), abs=5.1e-3)
  # 21 instead of 20: better for mIoU, worse for the mean angle.
  assert cells['uniform'][0][0] == '21.00+5.0\N{NO-BREAK SPACE}%'
  assert cells['uniform'][5][0] == '21.00-5.0\N{NO-BREAK SPACE}%'


@pytest.mark.parametrize('all_metrics', [False, True])
def test_a_page_of_all_metrics_has_them(all_metrics, tmp_path):
  write(make_run(keep=0), tmp_path, all_metrics=all_metrics)
  page = (tmp_path / 'results.html').read_text('utf-8')
  assert ('SIlog' in page) == ('IoU b' in page) == all_metrics
  read(tmp_path)


def test_names_are_texts_whatever_they_contain(tmp_path):
  workdirs.claim(tmp_path, {'name': HOSTILE, HOSTILE: [HOSTILE]})
  rows = make_run(
    names=(SINGLE_TASK, HOSTILE, 'distilled'), name=HOSTILE, unit=HOSTILE
  )
  write(
    rows,
    tmp_path,
    name=HOSTILE,
    split=HOSTILE,
    log=make_log(),
    stages=STAGES,
    notes=[HOSTILE],
  )
  root = read(tmp_path)
  assert 'b' not in {e.tag for e in elements(root)}
  line = HOSTILE.replace('\n', ' ')
  (heading,) = root.all('h1')
  assert heading.text == line
  tables = [rows_of(t) for t in root.all('table', 'sortable')]
  assert line in tables[0]
  captions = [x.text for x in root.all('figcaption')]
  assert any(x.startswith(line) for x in captions)
  assert any('<script>alert' in x.text for x in root.all('svg'))
  assert HOSTILE in root.text  # the note
  assert '{{ 7*7 }}' in root.text


def test_a_run_that_has_little_has_a_page(tmp_path):
  """One network, which is the reference of no other; no log, no config."""
  for keep in (0, 1):
    rows = make_run(keep=keep, names=('imported',))
    write(rows, tmp_path, suffix='_train')
    root = read(tmp_path, 'results_train.html')
    assert len(list(root.all('article'))) == keep
    assert not list(root.all('span', 'mark')) and not list(root.all('svg'))
    assert not list(root.all('pre'))


@pytest.mark.parametrize('error', [ValueError('no'), OSError('full')])
def test_a_page_that_fails_is_a_warning(error, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(results_module, 'make_results_page', fail)
  _, printed = write(make_run(keep=0), tmp_path)
  names = {p.name for p in tmp_path.iterdir()}
  assert names == {'results.json', 'results.md'}
  (warning,) = [x for x in printed if 'warning' in str(x)]
  assert 'results.html is not written' in warning and str(error) in warning
  assert printed[-1].endswith('results.json, results.md')


def test_a_page_of_a_quickstart_is_small(tmp_path, monkeypatch):
  """Noise cannot be compressed: real pictures are smaller than this."""
  monkeypatch.setattr(f'{__name__}.SIZE', (64, 96))
  write(make_run(keep=9), tmp_path)
  # Nine times: an image, and normals of a label and three networks, in 18 kB.
  assert (tmp_path / 'results.html').stat().st_size < 9 * 22 * 18_500 * 4 / 3
