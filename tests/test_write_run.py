"""A run is made of networks that come from elsewhere, in several steps."""

import json

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (32, 32)
TASKS = mtl.datasets.preview('scenes').tasks('depth')
CONFIG = {'name': 'drawn', 'data': {'name': 'scenes'}, 'tasks': ['depth']}


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)


def make_network(name, **options):
  module = mtl.models.make('tiny', TASKS)
  variables = draw_variables(module, SIZE)
  return TrainedNetwork(name, module, variables, TASKS, SIZE, **options)


@pytest.fixture
def earlier(tmp_path):
  """A run as an earlier version wrote it, which stored what it was given."""
  mtl.write_run(tmp_path, CONFIG, {'one': make_network('one')})
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  return tmp_path


def test_a_run_of_an_earlier_version_takes_another_network(earlier):
  mtl.write_run(earlier, CONFIG, {'two': make_network('two')})
  run = mtl.load(earlier)
  assert set(run) == {'one', 'two'}
  assert run.config.name == 'drawn'


def test_another_config_is_refused_by_what_differs(earlier):
  other = CONFIG | {'batch_size': 7}
  with pytest.raises(mtl.InputError) as error:
    mtl.write_run(earlier, other, {'two': make_network('two')})
  default = mtl.get_config().batch_size
  assert error.value.found == f'batch_size was {default} and is 7'
  assert set(mtl.load(earlier)) == {'one'}


def test_recalibrated_statistics_stay_known_as_such(tmp_path):
  networks = {
    'old': make_network('old'),
    'new': make_network('new', recalibrated_over=3),
  }
  run = mtl.write_run(tmp_path, CONFIG, networks)
  found = {name: run[name].recalibrated_over for name in networks}
  assert found == {'old': 0, 'new': 3}
