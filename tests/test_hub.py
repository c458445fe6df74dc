"""A network is given away without what belongs to its machine."""

import dataclasses
import importlib.util
import json
import shutil
import socket
import tempfile

from fixtures.backbones import Tiny
from fixtures.drawn import draw_variables
from fixtures.hub_server import serve_hub
import numpy as np
import pytest
import yaml

import mtl_kd_jax as mtl
from mtl_kd_jax import hub
from mtl_kd_jax.exporting import saved as saving
from mtl_kd_jax.runtime.damage import find_damage, has_checksums
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (32, 32)
TASKS = mtl.datasets.preview('scenes').tasks('semantic', 'depth')
METRICS = {
  'semantic': {'miou': 25.0, 'pixel_accuracy': 50.0},
  'depth': {'abs_error': 0.5, 'rel_error': float('nan'), 'rmse': 0.75},
}
PRIVATE = '/home/somebody/private'
needs_hub = pytest.mark.skipif(
  importlib.util.find_spec('huggingface_hub') is None,
  reason='huggingface_hub is an extra',
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of two networks, whose config names folders of a machine."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    workdir = tmp_path_factory.mktemp('private') / 'run'
    config = mtl.get_config('quickstart')
    config.tasks, config.select = ('semantic', 'depth'), 'best'
    config.data.data_dir = '../../private/data'
    config.data.manual_dir = config.teacher.workdir = PRIVATE
    config.data.folder.train = f'{PRIVATE}/train.txt'
    module = mtl.models.make('tiny', TASKS)
    variables = draw_variables(module, SIZE)
    network = TrainedNetwork('distilled', module, variables, TASKS, SIZE)
    run = mtl.write_run(
      workdir,
      config.to_dict(),
      {
        'distilled': network,
        'uniform': dataclasses.replace(network, name='uniform'),
      },
    )
    for name in run:
      path = workdir / 'checkpoints' / name / 'metrics.json'
      path.write_text(json.dumps(METRICS))
    (workdir / 'metrics.jsonl').write_text('{}\n')
    yield run


@pytest.fixture(scope='module')
def saved(run, tmp_path_factory):
  """(its folder, its files)."""
  folder = tmp_path_factory.mktemp('mine') / 'rooms'
  mtl.export(
    run['distilled'],
    folder,
    to=['saved'],
    license='apache-2.0',
    log=lambda line: None,
  )
  return folder, hub.files_of(folder)


def test_a_saved_network_predicts_the_same(run, saved):
  folder, files = saved
  opened = mtl.load(folder)
  assert [*opened] == ['distilled']
  image = np.linspace(0, 1, 40 * 50 * 3, dtype=np.float32).reshape(40, 50, 3)
  expected = run['distilled'].predict(image)
  found = opened['distilled'].predict(image)
  for task in TASKS:
    np.testing.assert_array_equal(found[task], expected[task])
  assert opened['distilled'].metrics['depth']['rmse'] == 0.75
  first = {name for name in files if '/checkpoints/' not in name}
  written = {'README.md', 'metadata.json'}
  assert first == {*written, 'saved/config.json', 'saved/plan.json'}
  assert not list(folder.rglob('.*'))


def test_nothing_in_it_names_a_place(run, saved):
  folder, files = saved
  secrets = [PRIVATE, '../../private', str(run.workdir), str(folder)]
  secrets += [str(run.workdir.parent), f'"{socket.gethostname()}"']
  secrets += [f'{tempfile.gettempdir()}/']
  for name in files:
    content = (folder / name).read_bytes()
    for secret in secrets:
      assert secret.encode() not in content, name
    if name.endswith('.json'):  # which has no NaN
      json.loads(content, parse_constant=pytest.fail)
  config = mtl.load(folder / 'saved').config
  assert config.teacher.workdir == config.data.data_dir == ''
  assert config.data.folder.train == ''
  (step,) = folder.glob('saved/checkpoints/*/*/0')
  assert has_checksums(step) and find_damage(step) is None
  # What is no place stays.
  assert config.data.folder.image == run.config.data.folder.image
  assert config.distill.taps == run.config.distill.taps


@pytest.mark.parametrize(
  'place',
  [
    'gs://bucket/data',
    's3://bucket/data',
    'file:///home/me',
    'gs:/bucket/data',
    'C:\\data',
    '~/data',
  ],
)
def test_places_are_found_anywhere_in_a_config(place):
  config = {
    'parts': [{'a': place, 'data_dir': 'data'}, (place, 3)],
    'deep': {'a': {'b': place}, 'format': 'depth/{}.png'},
  }
  assert saving._public(config) == {
    'parts': [{'a': '', 'data_dir': ''}, ['', 3]],
    'deep': {'a': {'b': ''}, 'format': 'depth/{}.png'},
  }


def test_the_card_says_what_it_is(saved):
  folder, _ = saved
  text = (folder / 'README.md').read_text()
  _, front, body = text.split('---\n', 2)
  data = yaml.safe_load(front)
  assert data['library_name'] == 'mtl_kd_jax'
  assert data['license'] == 'apache-2.0'
  assert data['datasets'] == ['scenes']
  assert data['pipeline_tag'] == 'image-segmentation'
  assert {'depth-estimation', 'multi-task-learning'} <= set(data['tags'])
  (index,) = data['model-index']
  _, depth = index['results']
  assert depth['task']['type'] == 'depth-estimation'
  values = {m['type']: m['value'] for m in depth['metrics']}
  assert values == {'abs_error': 0.5, 'rmse': 0.75}  # and no NaN
  for part in (
    '| `depth` | float32 `[h w]`, distance along z, the axis of the camera | '
    'm |',
    'Classes of `semantic`: 0 floor, 1 wall',
    'on split `val` of scenes',
    '| distilled | 25.00 | 50.00 | 0.5000 | – | 0.7500 |',
    '| uniform | 25.00',
  ):
    assert part in body, part
  # Its own example runs.
  (code,) = body.split('```python\n')[1:]
  code = code.partition('```')[0].replace('FOLDER', str(folder))
  code = code.replace("'picture.jpg'", 'picture')
  scope = {'picture': np.zeros((8, 9, 3), np.uint8)}
  exec(code, scope)
  assert scope['prediction'].semantic.shape == (8, 9)


@needs_hub
def test_folders_that_cannot_be_used_are_named(run, tmp_path):
  for source, found in (
    (run.workdir, 'another folder'),
    (tmp_path / 'none', 'no folder'),
  ):
    with pytest.raises(mtl.InputError, match=found) as error:
      hub.push(source, 'me/rooms')
    assert error.value.argument == 'source'


def test_only_what_an_export_wrote_is_pushed(saved, tmp_path, monkeypatch):
  monkeypatch.setattr(hub.hub, 'library', lambda: None)
  (tmp_path / 'metadata.json').write_text('{}')
  (tmp_path / 'secret.txt').write_text('mine')
  with pytest.raises(mtl.InputError, match='another file of that name'):
    hub.push(tmp_path, 'me/rooms')
  folder = tmp_path / 'rooms'
  shutil.copytree(saved[0], folder)
  for name in ('photo.jpg', 'saved/results.md'):
    (folder / name).write_text('mine')
    with pytest.raises(mtl.InputError) as error:
      hub.push(folder, 'me/rooms')
    assert error.value.found == name
    (folder / name).unlink()


@pytest.mark.parametrize('repo_id', [None, 'rooms', 'hf://me/rooms', 'me/'])
def test_a_repository_needs_its_whole_name(repo_id, run):
  with pytest.raises(mtl.InputError, match="'user/name'") as error:
    hub.push(run['distilled'], repo_id)
  assert error.value.argument == 'repo_id'


def test_without_the_library_the_command_is_named(run, monkeypatch):
  monkeypatch.setattr(hub.hub.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(mtl.InputError, match='pip install huggingface_hub'):
    hub.push(run['distilled'], 'me/rooms')
  with pytest.raises(mtl.InputError, match='pip install huggingface_hub'):
    mtl.load('hf://me/rooms')


@pytest.mark.parametrize(
  'address', ['hf://', 'hf://rooms', 'hf://me/rooms/deep', 'hf://me/rooms@']
)
def test_addresses_that_are_none_are_refused(address):
  with pytest.raises(mtl.InputError, match='hf://user/name@revision'):
    mtl.load(address)


# ---- With huggingface_hub, against a server of this process ------------------


@pytest.fixture
def server(monkeypatch, tmp_path):
  from huggingface_hub import constants, utils

  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  utils.disable_progress_bars()
  with serve_hub() as (fake, address):
    # What HF_ENDPOINT becomes when the library is imported.
    template = f'{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    yield fake, address


@needs_hub
# Of httpx, about how huggingface_hub calls it.
@pytest.mark.filterwarnings('ignore:Use .content=:DeprecationWarning')
def test_what_is_pushed_is_what_is_loaded(run, saved, server, tmp_path):
  fake, address = server
  folder, files = saved
  url = hub.push(run['uniform'], 'me/rooms')
  assert url == f'{address}/me/rooms' and fake.private['me/rooms']
  assert [*mtl.load('hf://me/rooms')] == ['uniform']
  first = fake.files('me/rooms')
  assert "mtl.load('hf://me/rooms')['uniform']" in first['README.md'].decode()
  assert not any(PRIVATE.encode() in x for x in first.values())

  # Another one takes its place, and what the owner added stays.
  fake.add('me/rooms', 'photo.jpg', b'mine')
  hub.push(folder, 'me/rooms')
  assert set(fake.files('me/rooms')) == {*files, '.gitattributes', 'photo.jpg'}
  image = np.full((20, 30, 3), 128, np.uint8)
  opened = mtl.load('hf://me/rooms')
  assert [*opened] == ['distilled']
  np.testing.assert_array_equal(
    opened['distilled'].predict(image).depth,
    run['distilled'].predict(image).depth,
  )
  sha = f'{1:040x}'
  assert [*mtl.load(f'hf://me/rooms@{sha}')] == ['uniform']
  pulled = hub.pull('hf://me/rooms')
  assert set(hub.files_of(pulled)) == {*files, 'photo.jpg'}

  # Reading it did not ask for anything twice.
  before = len(fake.calls)
  mtl.load('hf://me/rooms')
  downloads = [c for c in fake.calls[before:] if 'resolve' in c[1]]
  assert not downloads


@needs_hub
def test_a_repository_that_is_not_there_is_one_message(server):
  with pytest.raises(mtl.InputError, match='can be reached') as error:
    mtl.load('hf://me/nothing')
  assert error.value.where == 'hf://me/nothing'
  assert 'RepositoryNotFound' in error.value.found


@needs_hub
def test_no_connection_is_one_message(run, saved, server, monkeypatch):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
  with pytest.raises(mtl.InputError, match='can be reached'):
    hub.push(saved[0], 'me/rooms')
  with pytest.raises(mtl.InputError, match='can be reached'):
    mtl.load('hf://me/rooms')
