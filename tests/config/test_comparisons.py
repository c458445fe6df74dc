"""The shipped comparisons."""

import pathlib

from fixtures.configs import plan_of
import pytest

from mtl_kd_jax.config import comparison, get_config


def cells_of(name):
  """Row -> its cell with the first seed."""
  cells = comparison.make_cells(get_config(name), pathlib.Path('runs/x'))
  return {cell.row: cell for cell in reversed(cells)}


@pytest.mark.parametrize('name', ['quickstart', 'attributes', 'thirds'])
def test_one_set_of_teachers_for_all(name):
  cells = cells_of(f'compare/{name}')
  assert [row for row, cell in cells.items() if cell.teaches] == ['single-task']
  assert len(cells) > 4


def test_other_tasks_need_other_teachers():
  config = get_config('compare/quickstart')
  config.variations = (
    ('taps', {'task': {'depth': {'taps': ('decoder',)}}}),
    ('head', {'task': {'depth': {'taps': ('decoder',), 'head': 'fpn'}}}),
  )
  cells = comparison.make_cells(config, pathlib.Path('runs/x'))
  assert {cell.row: cell.single_task for cell in cells if not cell.teaches} == {
    'taps': 'single-task',
    'head': 'single-task of head',
  }


def test_half_precision_is_taught_in_half_precision():
  cells = cells_of('compare/precision')
  for row, cell in cells.items():
    assert cell.single_task.endswith('bfloat16') == row.endswith('bfloat16')
    half = cell.config.precision == 'bfloat16'
    assert half == row.endswith('bfloat16')


def test_with_one_label_there_are_other_teachers():
  cells = cells_of('compare/lambdas')
  assert {row for row, cell in cells.items() if cell.teaches} == {
    'single-task',
    'single-task of one label, uniform',
  }


@pytest.mark.parametrize('name', ['compare/quickstart', 'compare/lambdas'])
def test_trains_on_as_many_rooms_as_the_quickstart(name):
  whole = get_config('quickstart').data
  for cell in cells_of(name).values():
    data = cell.config.data
    assert data.scenes.num_train == whole.scenes.num_train
    assert data.val_fraction == whole.val_fraction


def test_a_row_is_the_setting_of_the_quickstart():
  cells = cells_of('compare/quickstart')
  shown = get_config('quickstart')
  row = cells['nash_mtl, best, gated'].config
  for key in ('balancing.name', 'teacher.choose', 'distill.adapt'):
    section, name = key.split('.')
    assert row[section][name] == shown[section][name]
    assert cells['lambda x 1'].config[section][name] != shown[section][name]


@pytest.mark.parametrize('name', ['compare/quickstart', 'compare/lambdas'])
def test_lambda_goes_from_0_to_4_times_the_papers(name):
  cells = cells_of(name)
  assert cells['uniform'].config.method == 'multi_task'
  for factor in (0.5, 1, 2, 4):
    weights = cells[f'lambda x {factor:g}'].config.distill.weights
    assert weights.to_dict() == {
      'semantic': factor,
      'depth': factor,
      'normals': 2 * factor,
    }


def test_what_sets_lambda_is_wired():
  cells = cells_of('compare/lambdas')
  distilled = plan_of(cells['gap'].config, data=False)[1]['distilled']
  assert len(distilled.adapt.terms) == 3 and distilled.adapt.baseline is None


def test_a_row_without_teachers_trains_no_baseline_beside_it():
  config = get_config('compare/quickstart')
  config.base.distill.adapt = 'baseline'
  config.variations = (('uniform', {'method': 'multi_task'}), ('distilled', {}))
  cells = comparison.make_cells(config, pathlib.Path('runs/x'))
  with_baseline = {cell.row for cell in cells if cell.config.baseline}
  assert with_baseline == {'distilled'}


def test_only_what_is_compared_with_a_baseline_trains_one():
  cells = cells_of('compare/lambdas')
  with_baseline = {row for row, c in cells.items() if c.config.baseline}
  assert with_baseline == {
    'baseline, gated',
    'best, gated',
    'nash_mtl, best, gated',
    'one label, baseline, gated',
    'one label, best, gated',
    'one label, nash_mtl, best, gated',
  }
  _, plan = plan_of(cells['baseline, gated'].config, data=False)
  distilled = plan['distilled']
  assert distilled.adapt.baseline == plan['uniform'].network
  assert distilled.inputs['baseline'] == 'uniform'
  assert all(t.agrees_with for t in distilled.terms if 'alignment' in t.name)


def test_every_task_has_a_third_of_the_rooms_to_itself():
  sets = cells_of('compare/thirds')['gated'].config.data.sets
  whole = get_config('quickstart').data.scenes
  rooms = {task: dict(entry)['scenes'] for task, entry in sets.items()}
  assert sum(r['num_train'] for r in rooms.values()) == whole.num_train
  assert len({r['seed'] for r in rooms.values()}) == len(rooms) == 3
  assert {tuple(dict(e)['labels']) for e in sets.values()} == {
    ('semantic',),
    ('depth',),
    ('normals',),
  }
