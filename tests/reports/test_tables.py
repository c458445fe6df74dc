"""The results in all forms: they agree, and nothing is cut off."""

import dataclasses
import io
import itertools
import json
import re
import types

from fixtures.samples import LABELS
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.reports.tables import Results, table
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.stage import SINGLE_TASK

NAN = float('nan')
# Without the metrics that few tables have (test_own_tasks.py).
TASKS = {
  name: dataclasses.replace(task, columns=task.main_columns())
  for name, task in make_tasks(LABELS, LABELS, dataset='toy').items()
}

# Numbers that round differently in every digit that is shown.
REFERENCE = {
  'semantic': {'miou': 20.12345, 'pixel_accuracy': 51.98765},
  'depth': {'abs_error': 0.654321, 'rel_error': 0.234567, 'rmse': 0.87654},
  'normals': {
    'mean_angle': 31.41592,
    'median_angle': 27.18281,
    'within_11.25': 12.34567,
    'within_22.5': 23.45678,
    'within_30': 34.56789,
  },
}


def better(factor):
  """All metrics `factor` times as good, in their own direction."""
  return {
    t: {
      m: x * factor if TASKS[t].columns[m].higher_is_better else x / factor
      for m, x in metrics.items()
    }
    for t, metrics in REFERENCE.items()
  }


def make_results(averages=(), **rows):
  return Results(
    name='toy run',
    split='val',
    checkpoint='last',
    tasks=TASKS,
    rows={SINGLE_TASK: REFERENCE, **rows},
    average_epochs=10 if averages else 0,
    averages=dict(averages),
  )


def cells_of_markdown(results):
  """row -> its cells, of the one table in the text."""
  lines = [x for x in results.markdown().splitlines() if x.startswith('|')]
  # A bar in a name has a backslash in front.
  split = [re.split(r'(?<!\\)\|', line.strip('|')) for line in lines]
  rows = [[cell.strip() for cell in cells] for cells in split]
  assert len({len(row) for row in rows}) == 1
  assert all(set(cell) <= set('-:') for cell in rows[1])
  return rows[0], {row[0]: row[1:] for row in rows[2:]}


def render(results, width):
  """The text of every table, drawn on a terminal of that width."""
  texts = []
  for drawn in itertools.chain(*results.tables(width).values()):
    out = io.StringIO()
    Console(file=out, width=width).print(drawn)
    texts.append(out.getvalue())
  return texts


def rows_of(text, names):
  """row -> its cells, of a drawn table."""
  rows = {}
  for line in text.splitlines():
    name, *cells = [cell.strip() for cell in re.split('[│┃]', line)]
    if name in names:
      rows[name] = cells
  return rows


def decimals(unit):
  return 2 if unit in ('%', '°') else 4


def test_json_holds_the_exact_numbers():
  document = json.loads(make_results(distilled=better(1.1)).json())
  assert document['name'] == 'toy run'
  assert document['split'] == 'val'
  assert document['checkpoint'] == 'last'
  assert list(document['rows']) == [SINGLE_TASK, 'distilled']
  assert document['rows'][SINGLE_TASK]['metrics'] == REFERENCE
  assert document['rows']['distilled']['metrics'] == better(1.1)


def test_json_says_what_the_numbers_mean():
  document = json.loads(make_results().json())
  columns = document['columns']
  assert columns['depth']['rmse'] == {
    'title': 'RMSE',
    'unit': 'm',
    'higher_is_better': False,
  }
  assert columns['semantic']['miou']['unit'] == '%'
  assert columns['semantic']['miou']['higher_is_better'] is True
  for task, metrics in REFERENCE.items():
    assert columns[task].keys() == metrics.keys()
  gains = document['gain_columns']
  directions = {g: c['higher_is_better'] for g, c in gains.items()}
  # CAGrad's counts degradation: the lower the better.
  assert directions == {'delta_mtl': True, 'delta_m': False, 'delta_p': True}


def test_gains_are_those_of_their_definitions():
  row = better(1.0)
  row['semantic'] = {'miou': 22.135795, 'pixel_accuracy': 51.98765}  # +10 %
  row['depth']['abs_error'] = REFERENCE['depth']['abs_error'] * 1.2  # 20 worse
  row['depth']['rmse'] = 99.0  # counts in none of them
  gains = json.loads(make_results(row=row).json())['rows']['row']['gains']
  assert gains['delta_mtl'] == pytest.approx((10 - 20 + 0) / 3)
  assert gains['delta_m'] == pytest.approx(-(10 - 20) / 9)
  assert gains['delta_p'] == pytest.approx((10 / 2 - 20 / 2 + 0) / 3)


def test_the_reference_gains_nothing():
  results = make_results(distilled=better(1.1))
  assert '-0.00' not in results.markdown()
  document = json.loads(results.json())
  assert set(document['rows'][SINGLE_TASK]['gains'].values()) == {0.0}
  gains = document['rows']['distilled']['gains']
  assert gains['delta_mtl'] > 9 and gains['delta_p'] > 9
  assert gains['delta_m'] < -9


def test_markdown_and_json_agree_in_every_number():
  results = make_results(uniform=better(0.9), distilled=better(1.07))
  document = json.loads(results.json())
  _, rows = cells_of_markdown(results)
  assert list(rows) == list(document['rows'])
  for name, row in document['rows'].items():
    expected = [
      f'{value:.{decimals(document["columns"][task][metric]["unit"])}f}'
      for task, metrics in row['metrics'].items()
      for metric, value in metrics.items()
    ]
    expected += [f'{gain:+.2f}' for gain in row['gains'].values()]
    assert rows[name] == expected


def test_terminal_and_markdown_agree_in_every_cell():
  results = make_results(uniform=better(0.9), distilled=better(1.07))
  _, rows = cells_of_markdown(results)
  (wide,) = render(results, width=250)
  assert rows_of(wide, rows) == rows
  narrow = [rows_of(text, rows) for text in render(results, width=80)]
  assert len(narrow) == 4  # three tasks and the gains
  together = {name: [c for t in narrow for c in t[name]] for name in rows}
  assert together == rows


def test_headings_have_units_and_directions():
  head, _ = cells_of_markdown(make_results())
  for heading in ('mIoU % ↑', 'AbsErr m ↓', 'Mean ° ↓', 'Δm % ↓', 'ΔMTL % ↑'):
    assert heading in head
  columns = sum(len(task.columns) for task in TASKS.values()) + 3
  assert len(head) == 1 + columns
  assert all(re.search('[↑↓]$', heading) for heading in head[1:])
  for width in (80, 250):
    text = ''.join(render(make_results(), width))
    assert text.count('↑') == sum(h.endswith('↑') for h in head)
    assert text.count('↓') == sum(h.endswith('↓') for h in head)
    for heading in head[1:]:
      assert heading.split()[0] in text


@pytest.mark.parametrize('width', [60, 80, 120, 250])
def test_nothing_is_cut_off_or_wider_than_the_terminal(width):
  results = make_results(uniform=better(0.9), distilled=better(1.07))
  for text in render(results, width):
    assert '…' not in text
    assert max(map(len, text.splitlines())) <= width


def test_one_table_is_split_only_where_it_does_not_fit():
  results = make_results(**{'a network with a long name': better(1.1)})
  (text,) = render(results, 500)
  width = max(map(len, text.splitlines()))
  assert render(results, width) == [text]
  narrow = render(results, width - 1)
  assert len(narrow) == 4 and not any('…' in part for part in narrow)


def test_what_has_no_label_is_a_dash_and_null():
  row = better(1.1)
  row['normals'] = dict.fromkeys(row['normals'], NAN)
  results = make_results(row=row)

  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')

  document = json.loads(results.json(), parse_constant=refuse)
  entry = document['rows']['row']
  assert set(entry['metrics']['normals'].values()) == {None}
  assert None not in entry['metrics']['depth'].values()
  assert set(entry['gains'].values()) == {None}
  _, rows = cells_of_markdown(results)
  dashes = [cell == '–' for cell in rows['row']]
  assert dashes == [False] * 5 + [True] * 8
  assert '–' not in rows[SINGLE_TASK]
  (text,) = render(results, 250)
  assert rows_of(text, rows)['row'] == rows['row']
  assert '– means' in results.markdown()


def test_a_reference_of_zero_has_no_relative_gain():
  reference = better(1.0)
  reference['semantic']['miou'] = 0.0
  results = make_results(row=better(1.0))
  results.rows[SINGLE_TASK] = reference
  gains = json.loads(results.json())['rows']['row']['gains']
  assert gains['delta_mtl'] is None


def test_without_single_task_networks_there_are_metrics_but_no_gains():
  results = make_results(uniform=better(0.9))
  del results.rows[SINGLE_TASK]
  entry = json.loads(results.json())['rows']['uniform']
  assert entry['metrics'] == better(0.9)
  assert set(entry['gains'].values()) == {None}
  _, rows = cells_of_markdown(results)
  assert list(rows) == ['uniform'] and rows['uniform'].count('–') == 3
  (text,) = render(results, 250)
  assert rows_of(text, rows) == rows


def test_tasks_that_a_row_lacks_are_dashes_and_null():
  results = make_results(row={'depth': REFERENCE['depth']})
  document = json.loads(results.json())
  metrics = document['rows']['row']['metrics']
  assert list(metrics) == list(REFERENCE)
  assert metrics['normals'] == dict.fromkeys(REFERENCE['normals'])
  assert metrics['depth'] == REFERENCE['depth']
  _, rows = cells_of_markdown(results)
  assert rows['row'].count('–') == 2 + 5 + 3


def test_columns_of_the_same_title_have_the_name_of_their_task():
  tasks = {
    'depth': TASKS['depth'],
    'disparity': dataclasses.replace(TASKS['depth'], name='disparity'),
    'normals': TASKS['normals'],
  }
  row = {t: REFERENCE.get(t, REFERENCE['depth']) for t in tasks}
  results = dataclasses.replace(
    make_results(), tasks=tasks, rows={SINGLE_TASK: row}
  )
  head, _ = cells_of_markdown(results)
  assert {'depth AbsErr m ↓', 'disparity AbsErr m ↓', 'Mean ° ↓'} < set(head)
  assert len(set(head)) == len(head)
  for width in (60, 80, 250):
    text = ''.join(render(results, width))
    assert text.count('disparity') == 3 and 'AbsErr' in text
    assert '…' not in text and max(map(len, text.splitlines())) <= width


def test_printed_results_are_tables_with_titles_and_balance(monkeypatch):
  averages = {SINGLE_TASK: better(0.8), 'distilled': better(0.88)}
  results = dataclasses.replace(
    make_results(averages, distilled=better(1.07)),
    name='[bold]toy[/]',
    balance='word ' * 60 + 'end.',
  )
  monkeypatch.setenv('COLUMNS', '40')
  text = str(results)
  lines = text.splitlines()
  assert lines[0] == results.title and results.average_title in lines
  assert max(map(len, lines)) <= 100 and '…' not in text and '\x1b' not in text
  assert text.endswith('end.')
  _, rows = cells_of_markdown(dataclasses.replace(results, averages={}))
  narrow, _ = text.split(results.average_title)
  for name, cells in rows.items():
    parts = [rows_of(x, [name]).get(name, []) for x in narrow.splitlines()]
    assert list(itertools.chain(*parts)) == cells
  monkeypatch.setenv('COLUMNS', '250')
  wide, mean = str(results).split(results.average_title)
  assert rows_of(wide, rows) == rows
  assert rows_of(mean, rows).keys() == rows.keys()


def test_a_notebook_shows_the_markdown():
  results = make_results(distilled=better(1.07))
  assert results._repr_markdown_() == results.markdown()
  assert repr(results) == str(results)


def test_a_notebook_gets_the_text_and_nothing_is_shown(monkeypatch):
  text = str(make_results(distilled=better(1.07)))
  monkeypatch.setattr('rich.console._is_jupyter', lambda: True)
  assert str(make_results(distilled=better(1.07))) == text != ''


def test_the_mean_of_the_last_epochs_has_a_title_of_its_own():
  averages = {SINGLE_TASK: better(0.8), 'distilled': better(0.88)}
  plain = make_results(distilled=better(1.3))
  results = make_results(averages, distilled=better(1.3))
  document = json.loads(results.json())
  assert 'mean_of_last_epochs' not in json.loads(plain.json())
  mean = document.pop('mean_of_last_epochs')
  assert document == json.loads(plain.json())
  assert mean['epochs'] == 10
  assert mean['rows']['distilled']['metrics'] == averages['distilled']
  # Relative to the single-task networks of the same protocol.
  gains = mean['rows']['distilled']['gains']
  assert gains['delta_mtl'] == pytest.approx(9.39, abs=0.1)
  first, second = (
    text.splitlines() for text in results.markdown().split('\n# ')
  )
  assert 'last checkpoints' in first[0] and len(first) == 6
  assert 'mean of the last 10 epochs' in second[0]
  assert f'{averages["distilled"]["depth"]["abs_error"]:.4f}' in second[5]
  titles = list(results.tables(250))
  assert titles == [results.title, results.average_title]
  drawn = render(results, 250)[1]
  assert rows_of(drawn, averages)['distilled'][0] in second[5]


def test_the_title_says_what_the_best_were_chosen_on():
  results = dataclasses.replace(
    make_results(), checkpoint='best', chosen_on='held_out'
  )
  assert "best checkpoints (chosen on split 'held_out')" in results.title
  assert json.loads(results.json())['chosen_on'] == 'held_out'
  assert json.loads(make_results().json())['chosen_on'] is None


@pytest.mark.parametrize(
  'checkpoint, not_chosen, expected',
  [
    ('best', ['a', 'b'], "chosen on split 'x'; the last of a, b, without"),
    ('last', ['a', 'b'], "last checkpoints (none has a score on split 'x' to"),
  ],
)
def test_the_title_says_what_could_not_be_chosen(
  checkpoint, not_chosen, expected
):
  results = dataclasses.replace(
    make_results(), checkpoint=checkpoint, chosen_on='x', not_chosen=not_chosen
  )
  for text in (results.title, results.markdown(), str(results)):
    assert expected in text
  assert json.loads(results.json())['not_chosen'] == not_chosen


def test_the_title_says_what_was_scored():
  results = make_results()
  assert results.markdown().startswith(f'# {results.title}\n')
  for part in ('toy run', 'last', "'val'"):
    assert part in results.title


def test_files_are_written_under_their_stem(tmp_path):
  results = make_results()
  results.write(tmp_path)
  results.write(tmp_path, 'results_train')
  names = {p.name for p in tmp_path.iterdir()}
  assert names == {
    'results.json',
    'results.md',
    'results_train.json',
    'results_train.md',
  }
  for stem in ('results', 'results_train'):
    text = (tmp_path / f'{stem}.json').read_text(encoding='utf-8')
    assert text == results.json()
    text = (tmp_path / f'{stem}.md').read_text(encoding='utf-8')
    assert text == results.markdown()


# ---- Of networks -------------------------------------------------------------


def network(name, *tasks, factor=1.0, workdir=None):
  return types.SimpleNamespace(
    name=name,
    tasks={t: TASKS[t] for t in tasks},
    metrics={t: better(factor)[t] for t in tasks},
    workdir=workdir,
  )


def test_networks_share_the_single_task_row_by_their_default_names():
  teachers = {t: network(f'teacher_{t}', t) for t in TASKS}
  smooth = network('smooth', 'depth', factor=1.2)
  both = network('uniform', *TASKS, factor=0.9)
  results = table(teachers, smooth, both)
  assert list(results.rows) == [SINGLE_TASK, 'smooth', 'uniform']
  assert results.rows[SINGLE_TASK] == REFERENCE
  assert results.rows['smooth'] == {'depth': better(1.2)['depth']}
  # Not the teacher of the task that it has.
  odd = table(network('teacher_depth', 'normals'))
  assert list(odd.rows) == ['teacher_depth']


def test_a_row_has_one_network_for_each_task():
  one = network('distilled', *TASKS, workdir='runs/a')
  other = network('distilled', *TASKS, factor=1.1, workdir='runs/b')
  with pytest.raises(InputError) as error:
    table(one, other)
  for part in ("'distilled' of runs/a", "'distilled' of runs/b"):
    assert part in error.value.found
  assert error.value.argument == 'networks'
  assert list(table(one, network('distilled', *TASKS)).rows) == ['distilled']
  assert list(table(one, network('b', *TASKS, factor=1.1)).rows) == [
    'distilled',
    'b',
  ]


def test_the_same_network_twice_is_one_row_also_without_some_labels():
  copies = [network('distilled', *TASKS) for _ in range(2)]
  for copy in copies:
    copy.metrics['depth'] = dict.fromkeys(REFERENCE['depth'], float('nan'))
  assert list(table(*copies).rows) == ['distilled']


def test_a_network_without_metrics_is_refused():
  one = network('distilled', *TASKS)
  one.metrics = None
  with pytest.raises(InputError, match='distilled without'):
    table(one)


def test_a_title_names_the_split_only_where_it_is_known():
  one = network('distilled', *TASKS)
  assert table(one).title == 'networks'
  assert json.loads(table(one).json())['split'] is None
  assert table(one, split='val').title.endswith("on split 'val'")
  averages = {'distilled': REFERENCE}
  results = dataclasses.replace(
    make_results(averages, distilled=better(1.1)), split=''
  )
  assert 'split' not in results.average_title


# ---- Names and numbers that others chose -------------------------------------


@pytest.mark.parametrize(
  'name',
  [
    '[bold]x',
    '[/nope]',
    'a|b',
    'two\nlines',
    '\x1b[31mred',
    'x' * 200,
    '蒸留' * 40,
    '',
    'ends with \\',
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_any_name_is_shown_whole_on_one_line(name):
  results = table(network(name, *TASKS), name=name, split='val')
  _, rows = cells_of_markdown(results)
  assert len(rows) == 1
  assert list(json.loads(results.json())['rows']) == [name]
  for width in (60, 250):
    text = ''.join(render(results, width))
    assert '…' not in text and '\x1b' not in text
    shown = re.sub(r'[│┃\s]|\d+\.\d+|–', '', text)
    assert ''.join(c for c in name if c.isprintable() and c != ' ') in shown


def test_a_title_is_no_markup():
  results = dataclasses.replace(make_results(), name='a *b* <img src=x> _c_')
  first = results.markdown().splitlines()[0]
  assert first.startswith(r'# a \*b\* \<img src=x> \_c\_: last')


def test_names_with_bars_do_not_break_the_markdown():
  tasks = {'a|b': dataclasses.replace(TASKS['depth'], name='a|b')}
  tasks['depth'] = TASKS['depth']
  rows = {'x|y': dict.fromkeys(tasks, REFERENCE['depth'])}
  results = dataclasses.replace(make_results(), tasks=tasks, rows=rows)
  head, cells = cells_of_markdown(results)
  assert r'a\|b AbsErr m ↓' in head and list(cells) == [r'x\|y']


@pytest.mark.parametrize(
  'value, shown',
  [
    (1e300, '1e+300'),
    (-1e300, '-1e+300'),
    (float('inf'), 'inf'),
    (NAN, '–'),
    (None, '–'),
    (1, '1.0000'),
    (np.float32(0.5), '0.5000'),
    (np.float64(0.5), '0.5000'),
    (jnp.float32(0.5), '0.5000'),
  ],
  ids=repr,
)
def test_any_number_has_a_cell(value, shown):
  one, reference = (
    network('distilled', 'depth'),
    network('teacher_depth', 'depth'),
  )
  one.metrics['depth'] = dict.fromkeys(REFERENCE['depth'], value)
  results = table(reference, one)
  _, rows = cells_of_markdown(results)
  assert rows['distilled'][:3] == [shown] * 3
  for text in render(results, 80):
    assert '…' not in text

  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')

  json.loads(results.json(), parse_constant=refuse)


def with_(**attributes):
  one = network('distilled', 'depth')
  vars(one).update(attributes)
  return one


@pytest.mark.parametrize(
  'networks, message',
  [
    ((), 'none'),
    (({},), 'none'),
    ((None,), 'found:  None'),
    (('runs/a',), "'runs/a'"),
    (([network('a', 'depth')],), r'a list[^$]*table\(\*networks\)'),
    ((types.SimpleNamespace(),), 'a SimpleNamespace'),
    ((with_(tasks=None),), 'a SimpleNamespace'),
    ((with_(name=None),), 'networks with names'),
    ((with_(name=['a']),), 'networks with names'),
    ((with_(metrics={}),), 'distilled without'),
    ((with_(metrics=[1.0]),), 'metrics that are numbers'),
    ((with_(metrics={'depth': None}),), 'metrics that are numbers'),
    ((with_(metrics={'depth': {'rmse': '1.0'}}),), "found:  '1.0'"),
    ((with_(metrics={'depth': {'rmse': 1j}}),), 'metrics that are numbers'),
    ((with_(metrics={'depth': {'rmse': [1]}}),), 'metrics that are numbers'),
    ((with_(metrics={'depth': {'rmse': 10**400}}),), 'too large'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_what_cannot_be_compared_is_refused(networks, message):
  with pytest.raises(InputError, match=message) as error:
    table(*networks)
  assert error.value.argument == 'networks'


@pytest.mark.parametrize(
  'task, label',
  [
    ('depth', Label('depth', unit='mm')),
    ('depth', Label('disparity', unit='m')),
    ('semantic', Label('class', classes=('a', 'b', 'c', 'e'))),
    ('semantic', Label('class', classes=tuple(map(str, range(99))))),
  ],
)
def test_numbers_of_different_labels_are_not_compared(task, label):
  one, other = network('one', task), network('other', task)
  other.tasks[task] = dataclasses.replace(TASKS[task], label=label)
  with pytest.raises(InputError, match='the same label') as error:
    table(one, other)
  assert error.value.argument == 'networks'
  assert len(str(error.value)) < 500
  other.tasks[task] = dataclasses.replace(TASKS[task])
  assert list(table(one, other).rows) == ['one', 'other']
