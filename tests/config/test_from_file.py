"""Config files: what runs, and what is said of those that do not."""

import json

import pytest

from mtl_kd_jax.config import get_config
from mtl_kd_jax.config.from_file import from_file
from mtl_kd_jax.config.stored import from_stored
from mtl_kd_jax.errors import InputError

START = 'from mtl_kd_jax import get_config as start\n'
BODY = 'def get_config(variant="none"):\n  config = start()\n  '


def write(folder, text):
  path = folder / 'mine.py'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def test_a_file_gives_its_config_locked(tmp_path):
  name = write(tmp_path, f'{START}{BODY}config.name = variant; return config')
  assert from_file(name).name == 'none'
  config = from_file(f'{name}:large')
  assert config.name == 'large' and config.is_locked


@pytest.mark.parametrize('name', ['nyuv2:url', 'compare/quickstart'])
def test_a_shipped_config_needs_no_file(name, tmp_path, monkeypatch):
  config = from_file(name)
  assert config.to_json() == get_config(name).to_json() and config.is_locked
  # A file of that name goes first.
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'nyuv2').write_text(f'{START}{BODY}return config')
  assert from_file('nyuv2').name == get_config().name


def test_a_name_that_is_neither_is_told_what_is_shipped():
  with pytest.raises(InputError, match='compare/lambdas') as error:
    from_file('quickstrat')
  assert error.value.argument == 'config'


@pytest.mark.parametrize(
  'text, found, where',
  [
    ('def get_config(:', 'SyntaxError: invalid syntax (mine.py, line 1)', ''),
    (b'\0\xff', 'SyntaxError', ''),
    ('', "no attribute 'get_config'", ''),
    ('x = 0\n1 / x', 'ZeroDivisionError: division by zero', ', line 2'),
    ('import nothing_here', "No module named 'nothing_here'", ', line 1'),
    ('open("/nowhere")', "No such file or directory: '/nowhere'", ', line 1'),
    ('raise SystemExit', 'SystemExit', ', line 1'),
    ('def f(): f()\nf()', 'RecursionError', ', line 1'),
    (f'{START}{BODY}return int(config)', 'TypeError: int()', ', line 4'),
    (f'{START}{BODY}config.epocs = 3', 'Did you mean "epochs"', ', line 4'),
    (f'{START}{BODY}config.epochs = "3"', 'TypeError', ', line 4'),
    (f'{START}{BODY}pass', 'returned NoneType', ''),
    ('def get_config(): return {}', 'returned dict', ''),
  ],
)
def test_a_file_that_fails_is_named_with_its_line(text, found, where, tmp_path):
  name = write(tmp_path, text)
  with pytest.raises(InputError) as error:
    from_file(name)
  assert found in error.value.found and '\n' not in error.value.found
  assert error.value.where == f'--config={name}{where}'


def test_an_old_key_is_answered_with_the_new_one(tmp_path):
  text = f'{START}{BODY}config.optim.step_epochs = 3'
  with pytest.raises(InputError) as error:
    from_file(write(tmp_path, text))
  assert error.value.do == 'step_epochs is now config.optim.decay_every_epochs'


def test_what_a_file_says_of_its_variants_comes_through(tmp_path):
  with pytest.raises(InputError, match='nyuv2, quickstart') as error:
    from_file(write(tmp_path, f'{START}def get_config(): start("nothing")'))
  assert error.value.argument == 'name'
  name = write(tmp_path, 'def get_config(): pass')
  with pytest.raises(InputError, match='0 positional') as error:
    from_file(f'{name}:large')
  assert "'large' after the colon" in error.value.do


@pytest.mark.parametrize(
  'name, found',
  [
    ('', 'an empty name'),
    (':url', 'an empty name'),
    ('/nowhere.py', 'no such file'),
    ('{}', 'a folder of that name'),
    ('~nobody-of-this-name/a.py', "no user 'nobody-of-this-name'"),
    ('a\0b.py', 'embedded null byte'),
  ],
)
def test_a_name_without_a_file_is_refused(name, found, tmp_path):
  with pytest.raises(InputError) as error:
    from_file(name.format(tmp_path))
  assert error.value.found == found and error.value.argument == 'config'


@pytest.mark.parametrize('fraction', ['one', {'depth': 0.5}, 0.25], ids=str)
def test_a_run_with_some_of_the_labels_is_opened_again(fraction):
  """Also the values that are not of the type of the default."""
  config = get_config()
  config.data.label_fraction = fraction
  written = json.loads(json.dumps(config.to_dict()))
  opened = from_stored(written, where='run/config.json')
  found = opened.data.label_fraction
  assert getattr(found, 'to_dict', lambda: found)() == fraction
  # A comparison gives it other values.
  opened.data.label_fraction = 'one' if fraction != 'one' else 1.0
