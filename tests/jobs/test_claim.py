"""Which configs may go on in a workdir."""

import json

import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs.claim import claim_of


@pytest.fixture
def of_an_earlier_version(tmp_path):
  """A workdir whose config lacks a key of today."""
  claim_of(tmp_path, mtl.get_config())()
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  del config['distill']['adapt']
  path.write_text(json.dumps(config))
  return tmp_path


def test_a_key_that_is_new_and_at_its_default_changes_nothing(
  of_an_earlier_version,
):
  claim_of(of_an_earlier_version, mtl.get_config())()
  written = json.loads((of_an_earlier_version / 'config.json').read_text())
  assert written['distill']['adapt'] == 'none'


@pytest.mark.parametrize(
  'key, value, found',
  [
    ('distill.adapt', 'cosine', "distill.adapt was absent and is 'cosine'"),
    ('seed', 1, 'seed was 0 and is 1'),
  ],
)
def test_another_value_is_another_run(key, value, found, of_an_earlier_version):
  config = mtl.get_config()
  config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=found):
    claim_of(of_an_earlier_version, config)


def test_a_key_that_was_set_may_not_go_back_to_its_default(tmp_path):
  config = mtl.get_config()
  config.distill.adapt = 'cosine'
  claim_of(tmp_path, config)()
  with pytest.raises(InputError, match="was 'cosine' and is 'none'"):
    claim_of(tmp_path, mtl.get_config())
