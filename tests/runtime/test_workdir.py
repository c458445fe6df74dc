"""A workdir belongs to one config."""

import copy
import json

from ml_collections import ConfigDict
import pytest

from mtl_kd_jax.config.validate import may_change
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import workdir as workdirs

CONFIG = {
  'name': 'run',
  'seed': 0,
  'epochs': 4,
  'tasks': ('semantic', 'depth'),
  'optim': {'learning_rate': 1e-3, 'schedule': 'cosine'},
  'data': {
    'name': 'scenes',
    'data_dir': '',
    'num_workers': 0,
    'check': True,
    'scales': (1.0, 1.2),
    'scenes': {'seed': 0, 'image_size': (96, 128)},
    'nyuv2': {},
  },
  'parallel': {'mode': 'jit'},
  'checkpoint': {'every_epochs': 1},
  'report': {'images': 4},
}


def changed(key, value):
  """The config with one of its numbers another one."""
  config = copy.deepcopy(CONFIG)
  *path, last = key.split('.')
  at = config
  for part in path:
    at = at[part]
  at[last] = value
  return config


def as_json(value):
  """How a value is shown that went through a JSON file: tuples are lists."""
  return repr(json.loads(json.dumps(value)))


def test_claiming_writes_the_config_down(tmp_path):
  folder = tmp_path / 'runs' / 'one'
  workdirs.claim(folder, CONFIG)
  expected = {**CONFIG, 'tasks': ['semantic', 'depth']}
  expected['data'] = {
    **CONFIG['data'],
    'scales': [1.0, 1.2],
    'scenes': {'seed': 0, 'image_size': [96, 128]},
  }
  assert json.loads((folder / 'config.json').read_text()) == expected
  assert workdirs.read_config(folder) == expected
  assert [p.name for p in folder.iterdir()] == ['config.json']


def test_the_config_of_ml_collections_can_be_claimed(tmp_path):
  workdirs.claim(tmp_path, ConfigDict(CONFIG).to_dict())
  workdirs.claim(tmp_path, CONFIG)


def test_the_same_config_may_go_on(tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  before = (tmp_path / 'config.json').read_text()
  workdirs.claim(tmp_path, copy.deepcopy(CONFIG))
  assert (tmp_path / 'config.json').read_text() == before


def test_tuples_and_lists_are_the_same(tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  workdirs.claim(tmp_path, changed('tasks', ['semantic', 'depth']))
  with pytest.raises(InputError):
    workdirs.claim(tmp_path, changed('tasks', ['depth', 'semantic']))


@pytest.mark.parametrize(
  'key, value',
  [
    ('seed', 1),
    ('epochs', 5),
    ('tasks', ('semantic',)),
    ('optim.learning_rate', 1e-4),
    ('optim.schedule', 'step'),
    ('data.name', 'nyuv2'),
    ('data.scales', (1.0,)),
    ('data.scenes.seed', 2),
    ('data.scenes.image_size', (128, 96)),
  ],
)
def test_another_config_is_refused(tmp_path, key, value):
  workdirs.claim(tmp_path, CONFIG)
  before = (tmp_path / 'config.json').read_bytes()
  with pytest.raises(InputError) as error:
    workdirs.claim(tmp_path, changed(key, value))
  old = CONFIG
  for part in key.split('.'):
    old = old[part]
  assert (
    error.value.found == f'{key} was {as_json(old)} and is {as_json(value)}'
  )
  message = str(error.value)
  assert str(tmp_path / 'config.json') in message
  assert error.value.argument == 'workdir'
  assert '--' not in message  # flags are those of the command line
  assert (tmp_path / 'config.json').read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_all_differing_keys_are_named(tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  other = changed('optim.learning_rate', 1e-4)
  other['epochs'] = 8
  with pytest.raises(InputError) as error:
    workdirs.claim(tmp_path, other)
  assert error.value.found.split('; ') == [
    'epochs was 4 and is 8',
    'optim.learning_rate was 0.001 and is 0.0001',
  ]


def test_a_key_that_came_or_went_is_a_difference(tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  more = copy.deepcopy(CONFIG)
  more['optim']['warmup'] = 3
  with pytest.raises(InputError, match=r'optim\.warmup was .* and is 3'):
    workdirs.claim(tmp_path, more)
  less = copy.deepcopy(CONFIG)
  del less['seed']
  with pytest.raises(InputError, match='seed was 0 and is'):
    workdirs.claim(tmp_path, less)


def test_a_value_is_not_confused_with_its_absence(tmp_path):
  workdirs.claim(tmp_path, changed('optim.schedule', 'nothing'))
  less = copy.deepcopy(CONFIG)
  del less['optim']['schedule']
  with pytest.raises(InputError, match=r'optim\.schedule'):
    workdirs.claim(tmp_path, less)


@pytest.mark.parametrize(
  'key, value',
  [
    ('name', 'another'),
    ('data.data_dir', 'moved'),
    ('data.num_workers', 2),
    ('data.check', False),
    ('parallel.mode', 'pmap'),
    ('checkpoint.every_epochs', 0),
    ('report.images', 0),
  ],
)
def test_what_has_no_influence_on_the_result_may_change(tmp_path, key, value):
  workdirs.claim(tmp_path, CONFIG, may_change=may_change)
  workdirs.claim(tmp_path, changed(key, value), may_change=may_change)
  # Of what is free, the latest stands there.
  written = workdirs.read_config(tmp_path)
  for part in key.split('.'):
    written = written[part]
  assert written == value
  workdirs.claim(tmp_path, CONFIG, may_change=may_change)


def test_keys_that_only_begin_like_free_ones_are_not_free(tmp_path):
  workdirs.claim(tmp_path, {**CONFIG, 'name_of_teacher': 'a'})
  with pytest.raises(InputError, match='name_of_teacher'):
    workdirs.claim(
      tmp_path, {**CONFIG, 'name_of_teacher': 'b'}, may_change=may_change
    )


def test_a_folder_without_config_is_no_workdir(tmp_path):
  for folder in (tmp_path, tmp_path / 'absent'):
    with pytest.raises(InputError) as error:
      workdirs.read_config(folder)
    assert (error.value.where, error.value.argument) == (str(folder), 'workdir')
  assert not (tmp_path / 'absent').exists()


@pytest.mark.parametrize('text', ['', '{"seed": 0', '\x00\x01', '[1]', '7'])
def test_a_config_that_cannot_be_read_is_not_overwritten(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  for use in (workdirs.read_config, lambda w: workdirs.claim(w, CONFIG)):
    with pytest.raises(InputError) as error:
      use(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / 'config.json').read_text() == text


def test_a_config_of_bytes_that_are_no_text_is_refused(tmp_path):
  (tmp_path / 'config.json').write_bytes(b'\xff\xfe{}')
  with pytest.raises(InputError):
    workdirs.claim(tmp_path, CONFIG)


def test_a_folder_that_cannot_be_made_is_the_users_to_correct(tmp_path):
  file = tmp_path / 'file'
  file.write_text('no folder')
  with pytest.raises(InputError) as error:
    workdirs.claim(file / 'run', CONFIG)
  assert error.value.where == f'{file / "run"}'
  assert error.value.argument == 'workdir'
  assert file.read_text() == 'no folder'


def test_only_what_may_change_is_left_out_of_the_comparison(tmp_path):
  """The folder does not know which keys these are; config/ says so."""
  workdirs.claim(tmp_path, CONFIG)
  with pytest.raises(InputError, match='report'):
    workdirs.claim(tmp_path, changed('report.images', 0))


# ---- Stages -----------------------------------------------------------------

STAGE = {'network': {'spec': {'backbone': 'segnet', 'width': 0.25}}}


def test_a_stage_is_written_down_and_read_back(tmp_path):
  assert workdirs.read_stage(tmp_path, 'a') is None
  workdirs.claim_stage(tmp_path, 'a', STAGE)
  workdirs.claim_stage(tmp_path, 'a', copy.deepcopy(STAGE))
  assert workdirs.read_stage(tmp_path, 'a') == STAGE
  assert workdirs.stage_names(tmp_path) == ['a']
  workdirs.write_metrics(tmp_path, 'a', {'depth': {'rmse': 1.0}})
  assert workdirs.read_metrics(tmp_path, 'a') == {'depth': {'rmse': 1.0}}
  assert workdirs.read_metrics(tmp_path, 'b') is None


def test_metrics_of_the_split_that_selects_are_kept_apart(tmp_path):
  reported, selected = ({'depth': {'rmse': x}} for x in (1.0, 2.0))
  workdirs.write_metrics(tmp_path, 'a', selected, selected=True)
  assert workdirs.read_metrics(tmp_path, 'a') is None
  workdirs.write_metrics(tmp_path, 'a', reported)
  assert workdirs.read_metrics(tmp_path, 'a') == reported
  assert workdirs.read_metrics(tmp_path, 'a', selected=True) == selected
  folder = workdirs.checkpoint_dir(tmp_path, 'a')
  assert {p.name for p in folder.iterdir()} == {
    'metrics.json',
    'metrics_selected.json',
  }


def test_another_stage_of_the_same_name_is_refused_with_the_difference(
  tmp_path,
):
  workdirs.claim_stage(tmp_path, 'a', STAGE)
  other = copy.deepcopy(STAGE)
  other['network']['spec']['width'] = 1.0
  with pytest.raises(InputError) as error:
    workdirs.claim_stage(tmp_path, 'a', other)
  assert error.value.found == 'network.spec.width was 0.25 and is 1.0'
  assert workdirs.read_stage(tmp_path, 'a') == STAGE


def test_a_stage_of_an_earlier_version_is_not_continued(tmp_path):
  (workdirs.checkpoint_dir(tmp_path, 'a') / 'last').mkdir(parents=True)
  with pytest.raises(InputError, match='older version'):
    workdirs.claim_stage(tmp_path, 'a', STAGE)


def test_the_plan_keeps_the_order_of_its_stages(tmp_path):
  assert workdirs.read_plan(tmp_path) is None
  plan = {'z': {'row': 'single-task'}, 'a': {'row': 'a', 'trained_in': 'x'}}
  workdirs.write_plan(tmp_path, plan)
  assert workdirs.read_plan(tmp_path) == plan
  assert list(workdirs.read_plan(tmp_path)) == ['z', 'a']


@pytest.mark.parametrize(
  'text', ['', '{}', '[]', '7', '{"stages": 7}', '{"stages": [{"row": "a"}]}']
)
def test_a_plan_that_cannot_be_read_is_named(tmp_path, text):
  (tmp_path / 'plan.json').write_text(text)
  with pytest.raises(InputError) as error:
    workdirs.read_plan(tmp_path)
  assert error.value.where == f'{tmp_path / "plan.json"}'
