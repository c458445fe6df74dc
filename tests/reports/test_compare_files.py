"""The report in all formats: they agree, and say what they do not know."""

import csv
import io
import json
import re

from fixtures.comparisons import (
  SINGLE,
  better,
  make_comparison,
  make_scores,
  typical,
)
from PIL import Image
import pytest
from rich.console import Console

from mtl_kd_jax.reports.compare.document import make_csv
from mtl_kd_jax.reports.compare.latex import escape_latex, make_latex

NAN = float('nan')
HOSTILE = 'a|b_1 & 50% $x$ {#} *c* <b>~^\\ [link](x) `d`\n|'


def tables(text):
  """Title -> heading -> row -> cell, of Markdown."""
  found = {}
  for part in re.split(r'^## ', text, flags=re.M)[1:]:
    title, *lines = part.splitlines()
    split = [
      [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
      for line in lines
      if line.startswith('|')
    ]
    if split:
      assert len({len(cells) for cells in split}) == 1, title
      head, _, *rows = split
      found[title] = {
        heading: {row[0]: row[i] for row in rows}
        for i, heading in enumerate(head)
      }
  return found


def means(comparison):
  return next(iter(tables(comparison.markdown()).values()))


def verdict(comparison, row):
  lines = comparison.markdown().splitlines()
  (line,) = [x for x in lines if x.startswith(f'- {row} ')]
  return line


# ---- Words -------------------------------------------------------------------


def test_a_winner_is_called_with_its_interval():
  comparison = make_comparison(typical())
  line = verdict(comparison, 'distilled')
  assert re.search(
    r'is better than uniform in ΔMTL by 7\.00 \(6\.\d+ to 7\.\d+, 5 seeds\)',
    line,
  )
  assert line.endswith('metrics: better in all 10.')
  assert re.search(
    r'distilled in ΔMTL by 7\.00 \(6\.\d+ to 7\.\d+, 5 seeds\)',
    verdict(
      make_comparison(typical(), reference='distilled'), 'uniform is worse than'
    ),
  )


def test_no_winner_is_called_where_zero_is_in_the_interval():
  line = verdict(make_comparison(typical()), 'nash_mtl')
  assert 'cannot be told from uniform in ΔMTL (+' in line
  assert 'undecided in all 10' in line
  assert 'better' not in line and 'worse' not in line


def test_a_winner_that_the_correction_takes_back_says_so():
  rows = {f'row{i}': [0.0, 0.1, -0.1] for i in range(20)}
  scores = make_scores(
    **{SINGLE: [0] * 3, 'uniform': [0] * 3, 'lucky': [1, 1.4, 1.8], **rows}
  )
  line = verdict(make_comparison(scores), 'lucky')
  assert 'is better' in line and 'not after the correction for all rows' in line


@pytest.mark.parametrize('n', [1, 2])
def test_few_seeds_have_no_interval_and_the_report_says_so(n):
  comparison = make_comparison(typical(n))
  text = comparison.markdown()
  assert f'No row has more than {n} seed' in text
  assert ('there is no spread either' in text) == (n == 1)
  table, _ = text.split('## How to read')
  assert '±' not in table and ' to ' not in table and '**' not in table
  assert 'no winner is called' in verdict(comparison, 'distilled')
  deviations = tables(text)['ΔMTL, compared with uniform']['sd']
  assert (deviations['distilled'] == '–') == (n == 1)


def test_missing_seeds_are_counted_and_explained():
  scores = typical()
  del scores['distilled'][2], scores['nash_mtl'][1], scores[SINGLE][1]
  scores['late'] = {}
  comparison = make_comparison(
    scores,
    missing={
      'distilled': {2: 'diverged in step 12 of distilled'},
      'nash_mtl': {1: 'not trained yet'},
    },
  )
  cells = means(comparison)['mIoU % ↑']
  assert cells['distilled'].endswith('(n=4)**')
  assert cells['nash_mtl'].endswith('(n=4)') and cells['late'] == '–'
  assert 'n=' not in cells['uniform']
  assert means(comparison)['ΔMTL % ↑']['uniform'].endswith('(n=4)')
  for text in (comparison.markdown(), str(comparison)):
    assert 'distilled: diverged in step 12 of distilled (seed 2)' in text
    assert 'nash_mtl: not trained yet (seed 1)' in text
    assert 'late: no numbers (seeds 0, 1, 2, 3, 4)' in text
    assert 'ΔMTL, Δm, Δp of uniform, distilled (seed 1): a metric' in text


def test_metrics_without_labels_are_explained_once_for_all_rows():
  scores = typical()
  for cells in scores.values():
    for metrics in cells.values():
      metrics['depth']['rmse'] = NAN
  comparison = make_comparison(scores)
  assert set(means(comparison)['RMSE m ↓'].values()) == {'–'}
  text = comparison.markdown()
  assert text.count('the split has no label of it') == 1
  assert 'RMSE of all rows (seeds 0, 1, 2, 3, 4)' in text


def test_many_comparisons_are_counted():
  text = make_comparison(typical()).markdown()
  assert (
    'of the 30 differences in metrics with an interval, about 1.5 would' in text
  )


# ---- Tables ------------------------------------------------------------------


def test_means_have_half_of_their_interval_and_the_best_is_bold():
  comparison = make_comparison(typical())
  analysis = comparison.analysis
  miou = analysis.columns[0]
  low, high = analysis.summaries[miou]['distilled'].interval
  cells = means(comparison)['mIoU % ↑']
  assert (
    cells['distilled'] == f'**{(low + high) / 2:.2f} ± {(high - low) / 2:.2f}**'
  )
  assert not any('*' in cells[row] for row in cells if row != 'distilled')
  assert means(comparison)['ΔMTL % ↑'][SINGLE] == '+0.00'


def test_differences_in_full():
  comparison = make_comparison(typical())
  cells = tables(comparison.markdown())['ΔMTL, compared with uniform']
  assert cells['better by %']['distilled'] == '+7.00'
  assert cells['better by %']['uniform'] == 'reference'
  assert cells['won']['distilled'] == '5 of 5'
  assert cells['chance']['distilled'] == '>99.9 %'
  assert cells['p (Holm)']['distilled'] == '<0.001'
  difference = comparison.analysis.differences[comparison.analysis.main]
  low, high = difference['distilled'].summary.bootstrap
  assert cells['95 % (bootstrap)']['distilled'] == f'+{low:.2f} to +{high:.2f}'
  # An error that is smaller is better by a positive number.
  everything = tables(comparison.markdown())['Better than uniform by']
  assert everything['AbsErr m']['distilled'].startswith('+0.0350 ± ')


def test_the_protocol_of_the_literature_is_a_table_of_its_own():
  averages = typical()
  averages['distilled'] = {s: better(3) for s in range(5)}
  averages['nash_mtl'][4]['depth']['rmse'] = NAN
  comparison = make_comparison(typical(), averages=averages, average_epochs=10)
  plain = make_comparison(typical()).markdown()
  assert 'Mean of the last' not in plain
  text = comparison.markdown()
  (title,) = [t for t in tables(text) if 'literature' in t]
  assert title.startswith('Mean of the last 10 epochs')
  table = tables(text)[title]
  assert (
    list(table)[-2:] == ['Δm % ↓', 'mean rank ↓'] and 'ΔMTL % ↑' not in table
  )
  assert table['mIoU % ↑']['distilled'].strip('*') == '41.20 ± 0.00'
  assert 'RMSE of nash_mtl (seed 4): not all of the last 10 epochs' in text
  document = json.loads(comparison.json())
  mean = document['mean_of_last_epochs']
  assert mean['epochs'] == 10
  row = mean['rows']['distilled']['metrics']['semantic']['miou']
  assert row['seeds']['0'] == pytest.approx(41.2)
  # The other tables are as without.
  shared = [t for t in tables(plain) if t != title]
  assert all(tables(plain)[t] == tables(text)[t] for t in shared)


@pytest.mark.parametrize('width', [70, 100, 250])
def test_a_terminal_shows_every_cell_in_its_width(width):
  comparison = make_comparison(typical(), facts={'hours': '3.4'})
  out = io.StringIO()
  Console(file=out, width=width, color_system=None).print(comparison)
  text = out.getvalue()
  assert max(map(len, text.splitlines())) <= width and '…' not in text
  for table in tables(comparison.markdown()).values():
    for cells in table.values():
      for cell in cells.values():
        assert cell.strip('*') in text
  assert 'hours: 3.4' in text
  assert text.index('is better than uniform') > text.index('hours')


def test_names_that_are_markup_stand_for_themselves():
  scores = typical()
  scores = {HOSTILE if r == 'distilled' else r: x for r, x in scores.items()}
  comparison = make_comparison(
    scores, name=HOSTILE, reference=HOSTILE, facts={HOSTILE: HOSTILE}
  )
  text = comparison.markdown()
  tables(text)  # as many cells in every line
  escaped = r'a\|b_1 & 50% $x$ {#} \*c\* \<b>~^\\ \[link](x) \`d\` \|'
  assert f'| {escaped} | ' in text and f'| {escaped} | {escaped} |' in text
  out = io.StringIO()
  Console(file=out, width=400, color_system=None).print(comparison)
  assert HOSTILE.replace('\n', ' ') in out.getvalue()
  latex = make_latex(comparison.page)
  assert (
    r'a$|$b\_1 \& 50\% \$x\$ \{\#\} {*}c{*} $<$b$>$\textasciitilde{}'
    r'\textasciicircum{}\textbackslash{} {[}link{]}(x) `d` $|$ & '
  ) in latex
  assert [r[0] for r in csv.reader(io.StringIO(make_csv(comparison.analysis)))][
    1 + 13 * 5 * 2
  ] == HOSTILE
  assert json.loads(comparison.json())['reference'] == HOSTILE


# ---- LaTeX, CSV, JSON --------------------------------------------------------


def test_latex_is_balanced_and_has_as_many_cells_in_every_line():
  scores = typical()
  scores['λ × 4_b'] = {s: better(-9) for s in range(5)}
  comparison = make_comparison(scores, averages=typical(), average_epochs=10)
  lines = make_latex(comparison.page).splitlines()
  code = [x for x in lines if x and not x.startswith('%')]
  assert code.count(r'\end{tabular}') == 4
  for line in code:
    assert line.isascii(), line
    plain = re.sub(r'\\[%&_$#{}]', '', line)
    assert plain.count('$') % 2 == 0 and plain.count('{') == plain.count('}')
    if line.startswith(r'\begin'):
      columns = len(re.fullmatch(r'\\begin{tabular}{(l?r*)}', line)[1])
    elif not line.startswith(('\\toprule', '\\midrule', '\\bottom', '\\end')):
      assert line.endswith(r' \\')
      assert len(re.split(r'(?<!\\)&', line)) == columns
  distilled = next(x for x in code if x.startswith('distilled'))
  assert distilled.startswith(r'distilled & \textbf{42.00 $\pm$ ')
  assert any(x.startswith(r'$\lambda$ $\times$ 4\_b & ') for x in code)
  uniform = next(x for x in code if x.startswith('uniform'))
  assert r'& $-$2.00 $\pm$ ' in uniform


@pytest.mark.parametrize(
  'text, expected',
  [('a_b', r'a\_b'), ('\\', r'\textbackslash{}'), ('<30°', r'$<$30$^\circ$')],
)
def test_latex_escapes(text, expected):
  assert escape_latex(text) == expected


def test_csv_is_tidy():
  scores = typical()
  del scores['distilled'][3]
  scores['nash_mtl'][0]['depth']['rmse'] = NAN
  comparison = make_comparison(scores)
  lines = list(csv.DictReader(io.StringIO(make_csv(comparison.analysis))))
  assert len(lines) == 4 * 5 * 13
  values = {
    (x['row'], int(x['seed']), x['task'], x['metric']): x['value']
    for x in lines
  }
  assert len(values) == len(lines)
  for (row, seed, task, metric), value in values.items():
    if task != 'gain':
      number = scores[row].get(seed, {}).get(task, {}).get(metric, NAN)
      assert value == ('' if number != number else repr(number))
  assert values['distilled', 3, 'gain', 'delta_mtl'] == ''
  assert float(values['distilled', 0, 'gain', 'delta_m']) == pytest.approx(-4.7)


def test_json_has_all_statistics_and_no_nan():
  scores = typical()
  del scores['nash_mtl'][0], scores['nash_mtl'][1], scores['nash_mtl'][2]
  comparison = make_comparison(
    scores, missing={'nash_mtl': {0: 'why'}}, facts={'hours': '3.4'}
  )

  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')

  document = json.loads(comparison.json(), parse_constant=refuse)
  analysis = comparison.analysis
  cell = document['rows']['distilled']['metrics']['gain']['delta_m']
  (column,) = [c for c in analysis.columns if c.title == 'Δm']
  summary = analysis.summaries[column]['distilled']
  assert cell['t_interval'] == list(summary.interval)
  assert cell['bootstrap_interval'] == list(summary.bootstrap)
  assert (cell['n'], cell['mean'], cell['sd']) == (5, summary.mean, summary.sd)
  difference = cell['difference']
  assert difference['verdict'] == 'better' and difference['wins'] == 5
  assert difference['better_by']['0'] == pytest.approx(6.4)
  row = document['rows']['nash_mtl']
  assert row['missing'] == {'0': 'why'} and row['single_task'] == SINGLE
  assert row['delta_mtl_p_holm'] is None
  assert row['metrics']['depth']['rmse']['seeds']['0'] is None
  assert row['metrics']['depth']['rmse']['t_interval'] is None
  assert document['columns']['gain']['delta_m']['best'] is None
  assert document['rows']['distilled']['mean_rank']['seeds']['4'] == 1
  assert document['facts'] == {'hours': '3.4'} and document['seeds'] == [
    *range(5)
  ]


# ---- Files -------------------------------------------------------------------


def test_files_are_written_under_their_stem(tmp_path):
  comparison = make_comparison(typical())
  names = comparison.write(tmp_path, 'rooms')
  assert sorted(names) == sorted(p.name for p in tmp_path.iterdir())
  assert set(names) == {
    f'rooms.{x}' for x in ('md', 'csv', 'tex', 'json', 'html', 'png')
  }
  assert (tmp_path / 'rooms.md').read_text('utf-8') == comparison.markdown()
  with Image.open(tmp_path / 'rooms.png') as image:
    assert image.format == 'PNG' and image.width > 1000


def test_nothing_is_trained_yet(tmp_path):
  missing = {
    row: {seed: 'not trained yet' for seed in range(3)}
    for row in ('uniform', 'distilled')
  }
  empty = {row: {} for row in missing}
  comparison = make_comparison(
    empty, missing=missing, seeds=(0, 1, 2), averages=empty, average_epochs=10
  )
  (tmp_path / 'compare.png').write_bytes(b'of an earlier comparison')
  names = comparison.write(tmp_path)
  assert 'compare.png' not in names and len(list(tmp_path.iterdir())) == 5
  assert 'uniform: not trained yet (seeds 0, 1, 2)' in str(comparison)
  assert comparison._repr_markdown_() == comparison.markdown()
