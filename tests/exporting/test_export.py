"""A network is written in every format, and computes the same from each."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

from fixtures.backbones import Tiny
from fixtures.paths import REPOSITORY
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax.exporting import formats
from mtl_kd_jax.jobs import export as job
from mtl_kd_jax.jobs import predict as predict_job
from mtl_kd_jax.models.heads import DenseHead
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.trained import TrainedNetwork

SIZE = (32, 48)
DATA = mtl.datasets.preview('scenes')
TASKS = DATA.tasks('semantic', 'depth', 'normals')
ONNX = all(map(importlib.util.find_spec, ('onnx', 'onnxruntime')))


def draw(shapes, seed=0):
  """Random variables; positive where they have to be."""
  rng = np.random.default_rng(seed)

  def one(path, x):
    if path[-1].key in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
    return rng.normal(0, 0.3, x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(one, shapes)


def make_network(backbone=None, tasks=TASKS, **options):
  module = mtl.models.make('tiny', tasks)
  if backbone is not None:
    channels = {name: task.channels for name, task in tasks.items()}
    module = Network(backbone=backbone, channels=channels, head=DenseHead)
  image = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
  init = functools.partial(module.init, train=False)
  variables = draw(jax.eval_shape(init, jax.random.key(0), image))
  return TrainedNetwork('distilled', module, variables, tasks, SIZE, **options)


@pytest.fixture(scope='module', autouse=True)
def tiny_backbone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
    yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run with a network that was not trained."""
  workdir = tmp_path_factory.mktemp('run')
  config = {'name': 'drawn', 'data': {'name': 'scenes'}, 'tasks': [*TASKS]}
  return mtl.write_run(workdir, config, {'distilled': make_network()})


@pytest.fixture(scope='module')
def exported(run):
  """It, exported by the job in the folder of the run."""
  to = ['stablehlo', 'saved', *['onnx'] * ONNX]
  return job.run(run.config, run.workdir, to=to)


def pictures(size=SIZE, count=1):
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, (count, *size, 3), np.uint8)


def predict(network, images):
  colors = images.astype(np.float32) / 255
  return jax.jit(network.apply)(network.variables, colors)


def expected(network, images):
  """What the network itself gives, finished by other means."""
  raw = predict(network, images)
  normals = np.array(raw['normals'])
  return {
    'semantic': np.argmax(raw['semantic'], -1),
    'depth': np.array(raw['depth'][..., 0]),
    'normals': normals / np.linalg.norm(normals, axis=-1, keepdims=True),
  }


def assert_same(found, wanted):
  assert set(found) == set(wanted)
  for name, x in wanted.items():
    assert found[name].shape == x.shape
    if name == 'semantic':
      assert found[name].dtype == np.int32
      assert np.mean(found[name] == x) > 0.99
    else:
      assert found[name].dtype == np.float32
      np.testing.assert_allclose(found[name], x, atol=2e-4)


def refusal(*args, **kwargs):
  with pytest.raises(mtl.InputError) as caught:
    mtl.export(*args, log=lambda text: None, **kwargs)
  return caught.value


# ---- The programs ------------------------------------------------------------


@pytest.mark.parametrize('format_', formats.PROGRAMS)
def test_a_program_takes_bytes_in_batches_of_any_size(format_, exported, run):
  if format_ not in exported.formats:
    pytest.skip('onnx is not installed')
  network = exported.network(format=format_)
  images = pictures(count=3)
  wanted = expected(run['distilled'], images)
  assert_same(network.run(images), wanted)
  first = {name: x[:1] for name, x in wanted.items()}
  assert_same(network.run(images[:1]), first)


def test_stablehlo_takes_other_heights_and_widths(exported, run):
  images = pictures((40, 36), count=2)
  network = exported.network(format='stablehlo')
  assert_same(network.run(images), expected(run['distilled'], images))


@pytest.mark.parametrize('format_', formats.PROGRAMS)
@pytest.mark.parametrize(
  'images',
  [
    pictures((30, 48)),
    pictures()[0],
    pictures()[:0],
    pictures().astype(np.float32),
    [[1], [2, 3]],
  ],
  ids=['size', 'no batch', 'none', 'floats', 'no array'],
)
def test_what_a_program_does_not_take_is_said(format_, images, exported):
  if format_ not in exported.formats:
    pytest.skip('onnx is not installed')
  network = exported.network(format=format_)
  with pytest.raises(mtl.InputError, match='uint8') as error:
    network.run(images)
  sizes = {'stablehlo': 'multiples of 4', 'onnx': '32 48 3'}
  assert sizes[format_] in error.value.expected
  assert error.value.argument == 'images'


def test_no_file_names_a_folder_of_this_machine(exported, run):
  here = pathlib.Path(__file__).parent
  places = {here, pathlib.Path(mtl.__file__).parent, run.workdir}
  places |= {pathlib.Path.cwd(), pathlib.Path.home(), exported.folder}
  places |= {pathlib.Path(jax.__file__).parent}
  names = [f'{place}'.encode() for place in places if place.name]
  for file in exported.folder.rglob('*'):
    content = file.read_bytes() if file.is_file() else b''
    assert not [name for name in names if name in content], file


ALONE = """
import runpy, sys
sys.modules['mtl_kd_jax'] = sys.modules['flax'] = None  # no import finds them
sys.argv[0] = 'run_stablehlo.py'
runpy.run_path('run_stablehlo.py', run_name='__main__')
"""


def test_the_runner_needs_jax_alone(exported, run, tmp_path):
  for name in ('network.stablehlo', 'run_stablehlo.py'):
    shutil.copy(exported.folder / name, tmp_path)
  images = pictures(count=2)
  np.save(tmp_path / 'picture.npy', images)

  def run_alone(*arguments):
    return subprocess.run(
      [sys.executable, '-I', '-c', ALONE, *arguments],
      cwd=tmp_path,
      capture_output=True,
      text=True,
    )

  out = run_alone('picture.npy', 'new/folder')
  assert 'depth.npy: float32 [2, 32, 48]' in out.stdout, out.stderr
  folder = tmp_path / 'new' / 'folder'
  found = {name: np.load(folder / f'{name}.npy') for name in TASKS}
  assert_same(found, expected(run['distilled'], images))
  # It neither overwrites nor shows where in JAX a picture was refused.
  out = run_alone('picture.npy', 'new/folder')
  assert out.returncode == 1
  assert out.stderr.startswith('error: expected a folder without new/folder/')
  np.save(tmp_path / 'odd.npy', images[:, :-1])
  out = run_alone('odd.npy', 'other')
  assert out.returncode == 1
  assert out.stderr == (
    'error: this network takes a height that is a multiple of 4, found 31\n'
  )


@pytest.mark.parametrize(
  'name, content, folder, message',
  [
    ('a.npz', pictures(), '.', 'expected one array'),
    ('a.npy', pictures()[:0], '.', 'found uint8 [0, 32, 48, 3]'),
    ('a.npy', pictures()[..., :2], '.', 'found uint8 [1, 32, 48, 2]'),
    ('a.npy', pictures((32, 50)), '.', 'width that is a multiple of 4'),
    ('a.npy', pictures(), 'file', 'a folder that can be written to'),
  ],
)
def test_the_runner_says_what_it_cannot_use(
  name, content, folder, message, exported, tmp_path
):
  save = np.savez if name == 'a.npz' else np.save
  save(tmp_path / name, content)
  (tmp_path / 'file').touch()
  main = runpy.run_path(f'{exported.folder / "run_stablehlo.py"}')['main']
  with pytest.raises(SystemExit) as stopped:
    main(tmp_path / name, tmp_path / folder)
  assert f'{stopped.value}'.startswith('error: ')
  assert message in f'{stopped.value}'


def test_platforms_and_metadata_are_written_down(exported):
  content = json.loads((exported.folder / 'metadata.json').read_text())
  assert content == exported.metadata
  assert content['version'] == 1 and content['name'] == 'distilled'
  assert content['artifacts']['stablehlo']['platforms'] == [
    'cpu',
    'cuda',
    'tpu',
  ]
  assert content['artifacts']['stablehlo']['stride'] == 4
  assert content['batch_norm'] == {'folded': 2, 'kept': 0}
  assert content['outputs']['depth']['unit'] == 'm'
  semantic = content['outputs']['semantic']
  assert tuple(semantic['classes']) == TASKS['semantic'].label.classes
  assert len(semantic['colors']) == len(semantic['classes'])
  for about in content['artifacts'].values():
    assert set(about['largest_difference']) == set(TASKS)
    assert max(about['largest_difference'].values()) < 1e-3


@pytest.mark.skipif(not ONNX, reason='onnx is not installed')
def test_an_onnx_model_says_what_it_gives(exported):
  import onnx
  import onnxruntime

  path = exported.folder / 'network.onnx'
  session = onnxruntime.InferenceSession(path)
  (image,) = session.get_inputs()
  assert image.name == 'image' and image.type == 'tensor(uint8)'
  assert image.shape == ['batch', *SIZE, 3]
  assert [x.name for x in session.get_outputs()] == [*TASKS]
  (entry,) = onnx.load(path).metadata_props
  about = json.loads(entry.value)
  assert about['outputs'] == exported.metadata['outputs']


# ---- Opening -----------------------------------------------------------------


@pytest.mark.parametrize('formats_kept', [('saved',), ('stablehlo',)])
def test_pictures_are_predicted_with_an_exported_folder(
  formats_kept, exported, tmp_path, capsys
):
  folder = tmp_path / 'exported'
  shutil.copytree(exported.folder, folder)
  content = json.loads((folder / 'metadata.json').read_text())
  content['artifacts'] = {f: content['artifacts'][f] for f in formats_kept}
  (folder / 'metadata.json').write_text(json.dumps(content))
  (image,) = pictures((40, 50))
  Image.fromarray(image).save(tmp_path / 'a.png')
  options = {'images': str(tmp_path / 'a.png'), 'out': str(tmp_path / 'out')}
  for _ in range(2):
    config = predict_job.default_config(folder)
    predict_job.run(config, folder, **options)
  assert '0 predicted, 1 had been before' in capsys.readouterr().out
  found = np.load(tmp_path / 'out' / 'a' / 'depth.npy')
  expected = mtl.load(folder)['distilled'].predict(image).depth
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_exported_folder_is_opened_and_predicts(exported, run):
  folder = mtl.load(run.workdir / 'exports' / 'distilled')
  assert list(folder) == ['distilled'] and 'saved' in repr(folder)
  opened, network = folder['distilled'], run['distilled']
  assert isinstance(opened, TrainedNetwork)
  jax.tree.map(
    np.testing.assert_array_equal, opened.variables, network.variables
  )
  picture = pictures((50, 70))[0]
  wanted = network.predict(picture)
  np.testing.assert_allclose(opened.predict(picture).depth, wanted.depth, 1e-5)
  # It is a run, too.
  assert list(mtl.load(folder.folder / 'saved')) == ['distilled']


@pytest.mark.parametrize('format_', formats.PROGRAMS)
def test_a_program_predicts_pictures_of_any_size(format_, exported, run):
  if format_ not in exported.formats:
    pytest.skip('onnx is not installed')
  program = exported.network('distilled', format=format_)
  assert format_ in repr(program)
  picture = pictures()[0]
  wanted, found = run['distilled'].predict(picture), program.predict(picture)
  np.testing.assert_allclose(found.depth, wanted.depth, atol=1e-4)
  np.testing.assert_allclose(found.normals, wanted.normals, atol=1e-3)
  assert np.mean(found.semantic == wanted.semantic) > 0.99
  larger = program.predict(np.kron(picture, np.ones((2, 2, 1), np.uint8)))
  assert larger.semantic.shape == (64, 96)
  assert np.mean(larger.semantic[::2, ::2] == wanted.semantic) > 0.9
  if format_ == 'onnx':
    with pytest.raises(mtl.InputError, match='only size'):
      program.predict(picture, resize=(64, 96))


def test_raw_outputs_are_what_the_network_gives(run, tmp_path):
  lines = []
  folder = mtl.export(
    run['distilled'],
    tmp_path / 'raw',
    to=['stablehlo'],
    outputs='raw',
    log=lines.append,
  )
  assert 'largest differences: semantic' in lines[0]
  images = pictures()
  program = folder['distilled']
  network = run['distilled']
  raw = predict(network, images)
  for name, x in program.run(images).items():
    np.testing.assert_allclose(x, raw[name], atol=1e-4)
  wanted = network.predict(images[0])
  np.testing.assert_allclose(
    program.predict(images[0]).depth, wanted.depth, atol=1e-4
  )


# ---- What is not written -----------------------------------------------------


def test_what_differs_is_not_written(run, tmp_path, monkeypatch):
  opened = formats.open_program

  def wrong(*args):
    program = opened(*args)
    return lambda images: program(255 - images)

  monkeypatch.setattr(formats, 'open_program', wrong)
  error = refusal(run['distilled'], tmp_path / 'a', to=['stablehlo'])
  assert 'depth: ' in error.found and 'nothing was written' in error.do
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['foreign', 'file', 'export'])
def test_a_folder_with_files_in_it_is_left_alone(kind, run, exported, tmp_path):
  folder = tmp_path / 'a'
  if kind == 'file':
    folder.write_text('mine')
  elif kind == 'foreign':
    folder.mkdir()
    (folder / 'thesis.tex').write_text('mine')
  else:
    folder = exported.folder
  before = sorted(folder.rglob('*'))
  error = refusal(run['distilled'], folder)
  assert error.argument == 'folder'
  found = {'file': 'a file', 'foreign': 'thesis.tex', 'export': 'an exported'}
  assert found[kind] in error.found
  assert sorted(folder.rglob('*')) == before


@pytest.mark.parametrize(
  'arguments, argument, found',
  [
    ({'to': ['tflite']}, 'to', 'tflite'),
    ({'to': 'tflite'}, 'to', 'tflite'),
    ({'to': []}, 'to', '[]'),
    ({'to': 3}, 'to', '3'),
    ({'to': [['saved']]}, 'to', "[['saved']]"),
    ({'to': ['safetensors']}, 'to', 'no name in PyTorch'),
    ({'outputs': 'logits'}, 'outputs', 'logits'),
    ({'pictures': np.zeros((1, 8, 8, 3), np.uint8)}, 'pictures', '8, 8'),
    ({'pictures': pictures()[:0]}, 'pictures', '[0, 32, 48, 3]'),
  ],
  ids=lambda x: str(x)[:20] if isinstance(x, dict) else '',
)
def test_wrong_arguments_are_refused(arguments, argument, found, run, tmp_path):
  error = refusal(run['distilled'], tmp_path / 'a', **arguments)
  assert error.argument == argument and found in error.found
  assert not list(tmp_path.iterdir())


def test_the_current_folder_can_be_filled(run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  error = refusal(
    run['distilled'], 'x/..', pictures=lambda: pytest.fail('work was done')
  )
  assert error.argument == 'folder' and not list(tmp_path.iterdir())
  (tmp_path / '.hidden').touch()
  assert refusal(run['distilled'], '').found == 'hidden files'
  (tmp_path / '.hidden').unlink()
  mtl.export(run['distilled'], '.', to='saved', log=lambda text: None)
  assert pathlib.Path.cwd() == tmp_path
  found = sorted(path.name for path in tmp_path.iterdir())
  assert found == ['README.md', 'metadata.json', 'saved']
  assert [*mtl.load('.')] == ['distilled']


def test_others_may_fill_a_folder_first(run, tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir()

  def log(text):
    (folder / 'thesis.tex').touch()

  with pytest.raises(mtl.InputError, match='in the meantime'):
    mtl.export(run['distilled'], folder, to='saved', log=log)
  assert [path.name for path in folder.iterdir()] == ['thesis.tex']


def test_a_run_is_no_network(run, tmp_path):
  assert refusal(run, tmp_path / 'a').argument == 'network'


def test_a_missing_package_is_named_with_its_command(
  run, exported, tmp_path, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  error = refusal(run['distilled'], tmp_path / 'a', to=['onnx'])
  assert 'pip install onnx onnxruntime' in error.do
  with pytest.raises(mtl.InputError, match='pip install'):
    formats.open_program('onnx', exported.folder)


@pytest.mark.parametrize(
  'change, found',
  [
    ({'version': 2}, 'version 2'),
    ({'kind': 'other'}, 'another file'),
    ({'outputs': None}, 'no outputs'),
    ({'description': {}}, 'null'),
  ],
  ids=['later', 'foreign', 'incomplete', 'damaged'],
)
def test_another_folder_is_refused(change, found, exported, tmp_path):
  content = exported.metadata | change
  content = {key: x for key, x in content.items() if x is not None}
  content['artifacts'] = {'stablehlo': {}}
  (tmp_path / 'metadata.json').write_text(json.dumps(content))
  with pytest.raises(mtl.InputError) as error:
    mtl.load(tmp_path)['distilled']
  assert found in error.value.found


def test_what_a_folder_does_not_have_is_named(exported, tmp_path):
  with pytest.raises(mtl.InputError, match='distilled'):
    exported['uniform']
  with pytest.raises(mtl.InputError, match='stablehlo'):
    exported.network(format='safetensors')
  shutil.copy(exported.folder / 'metadata.json', tmp_path)
  (tmp_path / 'network.stablehlo').write_bytes(b'cut')
  with pytest.raises(mtl.InputError, match='export the network again'):
    mtl.load(tmp_path).network(format='stablehlo')


class Sorted(Tiny):
  """Has an operation that ONNX lacks, and depends on its size."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    if image.shape[1] > image.shape[2]:
      image = image[:, ::-1]
    x = jnp.sort(nn.Conv(8, (3, 3))(image), axis=-1)
    return {'bottleneck': x, 'decoder': x}


def test_a_module_of_ones_own_is_exported_at_its_size(tmp_path):
  tasks = {'depth': TASKS['depth']}
  network = make_network(Sorted(), tasks)
  quiet = {'log': lambda text: None}
  folder = mtl.export(network, tmp_path / 'a', **quiet)
  assert folder.metadata['artifacts']['stablehlo']['stride'] is None
  # Its weights need the module, the program does not.
  with pytest.raises(mtl.InputError, match='put together by hand'):
    folder['distilled']
  opened = folder.network(module=network.network)
  assert opened.predict(pictures()[0]).depth.shape == SIZE
  program = folder.network(format='stablehlo')
  assert program.predict(pictures()[0]).depth.shape == SIZE
  if ONNX:
    error = refusal(network, tmp_path / 'b', to=['onnx'])
    assert 'sort' in error.found
    assert not (tmp_path / 'b').exists()


class Positions(Tiny):
  """Has a parameter for each pixel, and so takes one size."""

  @nn.compact
  def __call__(self, image, *, tasks, train):
    where = self.param('where', nn.initializers.normal(), image.shape[1:])
    return super().__call__(image + where[None], tasks=tasks, train=train)


def test_a_module_that_takes_one_size_is_exported(tmp_path):
  network = make_network(Positions(), {'depth': TASKS['depth']})
  folder = mtl.export(
    network, tmp_path / 'a', to=['stablehlo'], log=lambda text: None
  )
  assert folder.metadata['artifacts']['stablehlo']['stride'] is None
  assert folder.metadata['batch_norm'] == {'folded': 2, 'kept': 0}
  wanted = network.predict(pictures()[0])
  found = folder['distilled'].predict(pictures()[0])
  np.testing.assert_allclose(found.depth, wanted.depth, atol=1e-4)
  picture = pictures((40, 36))[0]
  for opened in (network, folder['distilled']):
    with pytest.raises(mtl.InputError, match='32 x 48') as error:
      opened.predict(picture, resize='keep')
    assert error.value.argument == 'resize'


def test_the_metrics_of_a_network_stay_with_it(tmp_path):
  metrics = {'depth': {'abs_error': 0.5, 'rmse': float('nan')}}
  network = dataclasses.replace(make_network(), metrics=metrics)
  folder = mtl.export(
    network, tmp_path / 'a', to=['saved'], log=lambda text: None
  )
  metrics['depth']['rmse'] = None  # JSON has no NaN
  assert folder.metadata['metrics'] == metrics
  assert folder['distilled'].metrics == metrics
  for file in folder.folder.rglob('*.json'):
    json.loads(file.read_text(), parse_constant=pytest.fail)


# ---- The page ----------------------------------------------------------------


def test_the_examples_of_the_page_run(run, tmp_path, monkeypatch):
  text = (REPOSITORY / 'docs' / 'export.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert len(blocks) == 5
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs/quickstart').symlink_to(run.workdir)
  Image.fromarray(pictures((40, 60))[0]).save(tmp_path / 'kitchen.jpg')
  monkeypatch.chdir(tmp_path)
  # Here the network has another size, and no names in PyTorch.
  blocks = [block.replace('64, 96', '32, 48') for block in blocks[:4]]
  names = {}
  for block in blocks[: 4 if ONNX else 3]:
    exec(compile(block, 'docs/export.md', 'exec'), names)
  assert names['exported'].formats == ('stablehlo', 'saved')
  assert len(names['outputs']) == (2 if ONNX else 3)
