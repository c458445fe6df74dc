"""--job=predict on a run, and what it refuses."""

import io
import json
import pathlib
import sys

from fixtures.backbones import Tiny
from fixtures.predictors import random_picture
import jax
import numpy as np
from PIL import Image
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.jobs import predict
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (16, 16)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of networks that were never trained, and one without the last two."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    rng = np.random.default_rng(0)
    preview = mtl.datasets.preview('scenes')
    networks = {}
    for name, tasks in (
      ('teacher_depth', ('depth',)),
      ('teacher_normals', ('normals',)),
      ('uniform', ('depth', 'normals')),
      ('distilled', ('depth', 'normals')),
    ):
      made = preview.tasks(*tasks)
      module = mtl.models.make('tiny', made)
      variables = jax.tree.map(
        lambda x: np.abs(rng.normal(size=x.shape, scale=0.3)).astype(x.dtype),
        abstract_init(module, SIZE)[1],
      )
      networks[name] = TrainedNetwork(name, module, variables, made, SIZE)
    folder = tmp_path_factory.mktemp('predict')
    for part in ('all', 'single'):
      config = {'name': part, 'data': {'name': 'scenes'}}
      config['tasks'] = ['depth', 'normals']
      kept = networks if part == 'all' else dict(list(networks.items())[:2])
      mtl.write_run(folder / part, config, kept)
    yield folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for i in range(2):
    Image.fromarray(random_picture(20, 30, seed=i)).save(f'{i}.png')
  return tmp_path


def job(workdir, **options):
  config = predict.default_config(workdir)
  return predict.run(config, workdir, **options)


def test_pictures_are_predicted_with_the_last_network_of_most_tasks(
  run, photos, monkeypatch, capsys
):
  before = sorted(run.rglob('*'))
  monkeypatch.setattr(sys, 'stdin', io.StringIO('0.png\n1.png\n'))
  outcome = job(run / 'all', images='-', out='out')
  assert outcome.written == 2 and not outcome.failed
  shown = capsys.readouterr().out
  assert '2 file(s) with distilled' in shown and '2 predicted: out' in shown
  network = mtl.load(run / 'all')['distilled']
  expected = network.predict(['0.png', '1.png'])
  for i, prediction in enumerate(expected):
    depth = np.load(f'out/{i}/depth.npy')
    np.testing.assert_allclose(depth, prediction.depth, atol=1e-5)
  assert sorted(run.rglob('*')) == before  # reading a run changes nothing
  # What is asked for is what is done.
  job(
    run / 'all',
    images='*.png',
    out='tiles',
    network='teacher_depth',
    tile='16x32',
    batch_size=3,
  )
  tiled = mtl.load(run / 'all')['teacher_depth'].predict('0.png', tile=(16, 32))
  np.testing.assert_allclose(
    np.load('tiles/0/depth.npy'), tiled.depth, atol=1e-5
  )
  assert not list(pathlib.Path('tiles').rglob('normals*'))
  settings = json.loads(pathlib.Path('tiles/predictions.json').read_text())
  assert settings['tile'] == [16, 32] and settings['network'] == 'teacher_depth'


def test_what_cannot_be_read_is_an_error_at_the_end(run, photos):
  pathlib.Path('2.png').write_text('')
  with pytest.raises(mtl.InputError) as error:
    job(run / 'all', images='*.png', out='out', resize='32x64')
  assert '2.png: an empty file' in error.value.found
  deep = np.full((20, 30), 4095, np.uint16)
  Image.fromarray(deep).save('3.png')
  with pytest.raises(mtl.InputError, match='2 that cannot') as error:
    job(run / 'all', images='*.png', out='out', resize='32x64')
  assert '--white=65535' in error.value.do and 'convert' in error.value.do
  assert {p.name for p in pathlib.Path('out').iterdir()} == {
    '0',
    '1',
    'predictions.json',
  }


@pytest.mark.parametrize(
  'workdir, options, found',
  [
    ('all', {'network': 'uniforn'}, "no 'uniforn'"),
    ('single', {}, 'none of several tasks'),
    ('', {}, 'config.json'),
    ('nowhere', {}, 'config.json'),
    ('all', {'images': None}, 'none'),
    ('all', {'images': '*.gif'}, "'*.gif'"),
    ('all', {'out': 'http://host/out'}, 'http://host'),
    ('all', {'out': '0.png'}, '0.png'),
    ('all', {'tile': 'large'}, "'large'"),
    ('all', {'tile': '31'}, '31 x 31'),
    ('all', {'resize': '32'}, "'32'"),
    ('all', {'resize': '32x33'}, '32 x 33'),
    ('all', {'resize': '1x2x3'}, "'1x2x3'"),
    ('all', {'white': 0}, '0'),
    ('all', {'batch_size': 0}, '0'),
  ],
  ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(
  workdir, options, found, run, photos
):
  before = sorted(photos.rglob('*'))
  with pytest.raises(mtl.InputError) as error:
    job(run / workdir, **({'images': '*.png', 'out': 'out'} | options))
  assert found in error.value.found or found in error.value.where
  assert sorted(photos.rglob('*')) == before


def test_without_a_workdir_it_is_asked_for():
  with pytest.raises(mtl.InputError) as error:
    predict.default_config(None)
  assert error.value.argument == 'workdir'


def test_a_run_of_which_nothing_is_finished_says_so(run, photos, tmp_path):
  config = (run / 'all' / 'config.json').read_text()
  (tmp_path / 'begun').mkdir()
  (tmp_path / 'begun' / 'config.json').write_text(config)
  with pytest.raises(mtl.InputError, match='nothing yet'):
    job(tmp_path / 'begun', images='*.png')
