"""compare.html: whole, safe, and the same numbers as the other files."""

from fixtures.comparisons import SINGLE, make_comparison, typical
from fixtures.html import check_page, elements, read_html, rows_of
import pytest

from mtl_kd_jax.reports.html import compare as html_compare
from mtl_kd_jax.reports.html.tables import first_number

HOSTILE = (
  '</script><script>alert("1")</script>\n<b onclick=\'x\'>{{ 7*7 }}&amp;'
)


def read(folder, name='compare.html'):
  root = read_html((folder / name).read_text('utf-8'))
  check_page(root)
  return root


def test_a_page_has_all_that_was_found(tmp_path):
  scores = typical()
  comparison = make_comparison(
    scores,
    missing={'gone': {0: 'diverged'}},
    averages=scores,
    average_epochs=10,
    facts={'hours': '3.5', 'command': ''},
  )
  assert 'compare.html' in comparison.write(tmp_path)
  root, page = read(tmp_path), comparison.page
  items = [li.text for li in root.all('li')]
  assert items == [f'{text}.' for text in (*page.verdicts, *page.missing)]
  (verdicts,) = root.all('ul', 'verdicts')
  tones = [li.attributes['class'] for li in verdicts.all('li')]
  expected = {'is better': 'good', 'is worse': 'bad'}
  assert tones == [
    next((t for w, t in expected.items() if w in text), 'undecided')
    for text in page.verdicts
  ]
  assert {'good', 'undecided'} <= set(tones)
  for text in page.notes:
    assert text in root.text
  assert len(list(root.all('svg'))) == 1
  facts = [dd.text for dd in root.all('dd')]
  assert facts == ['3.5']  # nothing is said of what is not known


def test_the_tables_have_the_numbers_of_the_other_files(tmp_path):
  comparison = make_comparison(typical())
  comparison.write(tmp_path)
  grids, analysis = comparison.page.grids, comparison.analysis
  tables = list(read(tmp_path).all('table', 'sortable'))
  assert len(tables) == len(grids) + len(analysis.rows)
  for grid, table in zip(grids, tables, strict=False):
    cells = rows_of(table)
    assert list(cells) == list(grid.rows)
    stressed = sum(1 for _ in table.all('strong'))
    assert stressed == len(grid.bold)
    for row, texts in grid.rows.items():
      for (text, value), expected in zip(cells[row], texts, strict=True):
        shown = text.replace('\N{NO-BREAK SPACE}', ' ')
        assert shown.replace(' ', '') == expected.replace(' ', '')
        number = first_number(expected)
        assert number == (value if value is None else float(value))
  seeds = dict(
    zip(analysis.rows, map(rows_of, tables[len(grids) :]), strict=True)
  )
  for row in analysis.rows:
    numbers = [float(value) for _, value in seeds[row]['seed 3']]
    expected = [analysis.values[c][row][3] for c in analysis.columns]
    assert numbers == pytest.approx(expected)


@pytest.mark.parametrize(
  ('text', 'number'),
  [
    ('43.20 ± 1.10 (n=4)', 43.2),
    ('+1.20 to +3.40', 1.2),
    ('-0.5', -0.5),
    ('>99.9 %', 99.9),
    ('4 of 5', 4.0),
    ('1.234e+08', 1.234e8),
    ('–', None),
    ('reference', None),
    ('', None),
  ],
)
def test_a_cell_is_sorted_by_the_number_it_begins_with(text, number):
  assert first_number(text) == number


def test_names_are_texts_whatever_they_contain(tmp_path):
  scores = typical()
  scores[HOSTILE] = scores.pop('nash_mtl')
  comparison = make_comparison(
    scores,
    name=HOSTILE,
    split=HOSTILE,
    missing={HOSTILE: {7: HOSTILE}},
    seeds=(0, 1, 2, 3, 4, 7),
    facts={HOSTILE: HOSTILE},
  )
  comparison.write(tmp_path)
  root = read(tmp_path)
  assert 'b' not in {e.tag for e in elements(root)}
  line = HOSTILE.replace('\n', ' ')
  assert line in rows_of(next(root.all('table')))
  assert [dd.text for dd in root.all('dd')] == [HOSTILE]
  assert line in [summary.text for summary in root.all('summary')]


def test_nothing_is_trained_yet(tmp_path):
  rows = (SINGLE, 'uniform', 'distilled')
  missing = {row: {0: 'not trained'} for row in rows}
  comparison = make_comparison(
    {row: {} for row in rows}, missing=missing, seeds=(0,)
  )
  comparison.write(tmp_path)
  root = read(tmp_path)
  assert not list(root.all('svg'))
  assert 'not trained (seed 0)' in root.text


def test_a_page_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
  def fail(*args):
    raise ValueError('no')

  monkeypatch.setattr(html_compare, 'make_comparison_page', fail)
  names = make_comparison(typical()).write(tmp_path)
  assert sorted(names) == sorted(p.name for p in tmp_path.iterdir())
  assert 'compare.html' not in names and len(names) == 5
  assert 'compare.html is not written' in capsys.readouterr().out
