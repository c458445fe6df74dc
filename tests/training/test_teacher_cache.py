"""With the teachers' outputs from a cache, a training is what it is without."""

import dataclasses
import functools
import itertools
import json
import pathlib
import shutil

from fixtures.backbones import Tiny
from fixtures.samples import RandomSource
from fixtures.stages import make_stage, run, with_changes
from fixtures.toy import SIZE, make_teacher_networks, make_teachers
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_kd_jax as mtl
from mtl_kd_jax import methods
from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.datasets import frame_arrays, loader
from mtl_kd_jax.datasets.augment import Change
from mtl_kd_jax.distillation.cached import as_arrays
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.training import teacher_cache
from mtl_kd_jax.training.step import teacher_outputs
from mtl_kd_jax.training.teacher_cache import TeacherCache, make_cache


def train(dataset, start, attach=None):
  """As in fixtures/stages.py, but for the zoom."""
  return loader.train_batches(
    dataset,
    dataset.source('train'),
    batch_size=4,
    epochs=3,
    start_step=start,
    seed=0,
    scales=(1.0,),
    flip=True,
    num_workers=0,
    attach=attach,
  )


def with_cache(stage, dataset, cache, folder='', **options):
  options = {
    'cache_dtype': 'float32',
    'batch_norm': 'running',
    'scales': (1.0,),
    'num_workers': 0,
    'mirrored': True,
    'source': lambda: dataset.source('train'),
    'missing': dataset.missing_sample(),
    'frames': lambda: loader.eval_batches(
      dataset, dataset.source('train'), batch_size=8, num_workers=0
    ),
    'train': functools.partial(train, dataset),
  } | options
  data = dataclasses.replace(
    stage.data, train=functools.partial(train, dataset)
  )
  made = make_cache(cache, cache_dir=pathlib.Path(folder), **options)
  cached = with_changes(stage, data=data, cache=made)
  if 'teacher_arrays' in vars(stage):
    vars(cached)['teacher_arrays'] = stage.teacher_arrays
  return cached


def caches_in(folder):
  return [path for path in folder.iterdir() if path.is_dir()]


def assert_close(one, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5),
    one,
    other,
  )


@pytest.fixture(scope='module')
def without(toy_dataset, tmp_path_factory):
  """A stage on four devices, and what comes of it without a cache."""
  stage = with_cache(make_stage(toy_dataset), toy_dataset, 'none')
  return stage, run(stage, tmp_path_factory.mktemp('without'))


@pytest.fixture(scope='module')
def on_disk(without, toy_dataset, tmp_path_factory):
  """The same with one on disk, which is filled; and its folder."""
  folder = tmp_path_factory.mktemp('caches')
  stage = with_cache(without[0], toy_dataset, 'disk', folder)
  assert len(stage.teacher_arrays) == 4
  next(stage.batches(make_teachers(), 0))
  return stage, folder


def test_a_training_from_memory_is_that_without(without, toy_dataset):
  stage, expected = without
  cached, state = with_cache(stage, toy_dataset, 'memory'), stage.init()
  for batch in cached.batches(make_teachers(), 0):  # the step needs none
    state, _ = stage.train_step(state, {}, stage.parallel.shard(batch))
  assert_close(jax.device_get(state), expected)


def test_one_that_goes_on_from_disk_is_that_without(
  without, on_disk, tmp_path, monkeypatch
):
  """Nothing is computed again."""
  monkeypatch.delattr(TeacherCache, '_fill')
  stage, folder = on_disk

  def ends(start, attach):
    yield from itertools.islice(stage.cache.train(start, attach), 4)
    raise KeyboardInterrupt

  killed = dataclasses.replace(stage.cache, train=ends)
  with pytest.raises(KeyboardInterrupt):
    run(with_changes(stage, cache=killed), tmp_path)
  assert Checkpoints(tmp_path / 'checkpoints').latest_step == 4
  assert_close(run(stage, tmp_path), without[1])
  assert len(caches_in(folder)) == 1


def test_measuring_needs_no_teachers_then(on_disk):
  stage, _ = on_disk
  batch = stage.parallel.shard(next(stage.batches(make_teachers(), 0)))
  measure = functools.partial(jax.eval_shape, stage.measure_conflict.function)
  assert 'norm/alignment/depth' in measure(stage.abstract_state, {}, batch)
  batch = {n: x for n, x in batch.items() if not n.startswith('teachers/depth')}
  with pytest.raises(KeyError, match='depth'):
    measure(stage.abstract_state, {}, batch)


@pytest.mark.parametrize(
  'mode, dtype', [('jit', 'float32'), ('pmap', 'bfloat16')]
)
def test_batches_have_what_teachers_say_of_them(mode, dtype, toy_dataset):
  parallel = make_parallel(mode, batch_size=4)
  stage = make_stage(toy_dataset, parallel=parallel)
  stage = with_cache(stage, toy_dataset, 'memory', cache_dtype=dtype)
  frozen, mirrored = make_teachers(), set()
  tolerance = 1e-5 if dtype == 'float32' else 2**-8
  outputs = jax.jit(
    lambda image: teacher_outputs(make_teacher_networks(), frozen, image)
  )
  for batch in stage.batches(frozen, 5):
    expected = as_arrays(outputs(batch['image']))
    read = {n: x for n, x in batch.items() if n.startswith('teachers/')}
    assert read.keys() == {n for n in expected if '/features/' in n}
    for name, x in read.items():
      assert x.dtype == jnp.dtype(dtype)
      np.testing.assert_allclose(
        np.float32(x), expected[name], rtol=tolerance, atol=1e-5
      )
    for image in batch['image']:
      mirrored |= {
        any(np.array_equal(image, s['image']) for s in frames(toy_dataset))
      }
  assert mirrored == {False, True}


def frames(dataset):
  source = dataset.source('train')
  return [source[i] for i in range(len(source))]


def test_students_of_the_same_teachers_share_one(
  on_disk, toy_dataset, tmp_path
):
  stage, folder = on_disk
  folder = shutil.copytree(folder, tmp_path / 'caches')  # others count its own
  stage = with_changes(
    stage, cache=dataclasses.replace(stage.cache, folder=folder)
  )
  frozen = make_teachers()
  terms = [t._replace(weight=2 * t.weight) for t in stage.terms]
  other = dataclasses.replace(stage, terms=terms, seed=3)
  next(other.batches(frozen, 0))
  assert len(caches_in(folder)) == 1
  moved = jax.tree.map(lambda x: x + 1e-3, frozen['depth'])
  next(stage.batches({**frozen, 'depth': moved}, 0))
  assert len(caches_in(folder)) == 2
  later = RandomSource(12, SIZE, seed=5)
  next(
    with_cache(
      stage, toy_dataset, 'disk', folder, source=lambda: later
    ).batches(frozen, 0)
  )
  assert len(caches_in(folder)) == 3


class Shifted(nn.Module):
  """A network that normalizes its images, by a constant."""

  network: nn.Module
  mean: tuple[float, ...]

  def __call__(self, image, **options):
    mean = np.array(self.mean, np.float32).reshape(1, 1, 1, 3)
    shift = jax.jit(lambda x: x - mean)
    return self.network(shift(image), **options)


def test_teachers_with_other_constants_are_others(on_disk):
  """A jaxpr, as text, has no numbers of the arrays that it is closed over."""
  stage, _ = on_disk
  layout = stage.cache._layout(stage)
  frozen, found = make_teachers(), []
  for mean in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)):
    teachers = {
      name: dataclasses.replace(teacher, network=Shifted(teacher.network, mean))
      for name, teacher in stage.teachers.items()
    }
    variables = {
      name: {kind: {'network': x} for kind, x in frozen[name].items()}
      for name in teachers
    }
    changed = with_changes(stage, teachers=teachers)
    found.append(teacher_cache._identify(changed, variables, layout))
  assert found[0].keys() == found[1].keys() == stage.teachers.keys()
  assert all(found[0][name] != found[1][name] for name in found[0])


def test_images_of_other_floats_are_the_same_frames():
  """Batches have them as float32, from which outputs are computed."""
  image = RandomSource(1, SIZE, seed=0)[0]['image']
  expected = frame_arrays._checksum(image)
  assert frame_arrays._checksum(image.astype(np.float64)) == expected
  assert frame_arrays._checksum(image + 1e-3) != expected


# ---- What is refused ---------------------------------------------------------


def edit_about(folder):
  path = folder / 'about.json'
  about = json.loads(path.read_text())
  about['teachers']['depth'] = 'another'
  path.write_text(json.dumps(about))


def truncate(folder):
  path = folder / 'frames.array_record'
  path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
  'damage, message',
  [
    (edit_about, 'those of other teachers'),
    (truncate, 'delete that folder'),
    (lambda path: (path / 'about.json').write_text('{'), 'delete that folder'),
    (lambda path: (path / 'about.json').write_text('[]'), 'other teachers and'),
  ],
)
def test_the_outputs_of_others_are_refused(damage, message, on_disk, tmp_path):
  stage, folder = on_disk
  for path in caches_in(folder):
    shutil.copytree(path, tmp_path / path.name)
    damage(tmp_path / path.name)
  cache = dataclasses.replace(stage.cache, folder=tmp_path)
  with pytest.raises(InputError, match=message) as error:
    cache.batches(stage, make_teachers(), 0)
  assert error.value.argument == 'cache_dir'


def test_a_frame_that_has_changed_is_noticed(on_disk, toy_dataset):
  stage, _ = on_disk
  changed = RandomSource(12, SIZE, seed=0)
  train = toy_dataset.source('train')
  cache = dataclasses.replace(stage.cache, train=lambda start, attach: attach)
  attach = cache.batches(stage, make_teachers(), 0)
  sample = dict(changed[3])
  same = attach(3, sample, Change(1.0, (0, 0), False))
  assert same['teachers/depth/features/decoder'].shape == (16, 16, 8)
  sample['image'] = train[4]['image']
  with pytest.raises(InputError, match='another frame 3'):
    attach(3, sample, Change(1.0, (0, 0), False))


def test_the_size_is_told_and_has_to_fit(
  on_disk, without, toy_dataset, tmp_path
):
  stage, folder = on_disk
  # Frames, mirrored, of two teachers, in float32.
  size = 12 * 2 * 2 * 4 * (4 * 4 * 6 + 16 * 16 * 8)
  assert '12 frames and their mirror images' in stage.cache.check(stage)
  assert f'kept in {folder}: {size / 1e6:.1f} MB' in stage.cache.check(stage)
  memory = with_cache(without[0], toy_dataset, 'memory')
  assert 'kept in memory' in memory.cache.check(memory)
  elsewhere = dataclasses.replace(stage.cache, folder=tmp_path / 'new')
  usage = shutil._ntuple_diskusage(0, 0, size - 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(teacher_cache, 'available_memory', lambda: size - 1)
    patch.setattr(shutil, 'disk_usage', lambda path: usage)
    assert stage.cache.check(stage)  # it is there already
    for cache, argument in ((memory.cache, 'cache'), (elsewhere, 'cache_dir')):
      with pytest.raises(InputError, match='room for the outputs') as error:
        cache.check(stage)
      assert error.value.argument == argument
  (tmp_path / 'file').touch()
  cache = dataclasses.replace(stage.cache, folder=tmp_path / 'file' / 'a')
  with pytest.raises(InputError, match='can be written to'):
    cache.check(stage)


@pytest.mark.parametrize(
  'changes, key',
  [
    ({'teacher.cache': 'ram'}, 'config.teacher.cache'),
    ({'teacher.cache': 'disk', 'teacher.cache_dtype': 'int8'}, 'cache_dtype'),
    ({'teacher.cache_dtype': 'bfloat16'}, 'config.teacher.cache_dtype'),
    ({'teacher.cache': 'disk', 'teacher.batch_norm': 'batch'}, 'batch_norm'),
    (
      {'teacher.cache': 'disk', 'data.scales': (1.0, 1.2)},
      'config.data.scales',
    ),
    ({'teacher.cache': 'memory', 'data.num_workers': 1}, 'data.num_workers'),
    ({'teacher.cache': 'disk', 'teacher.cache_dir': 'gs://a/b'}, 'cache_dir'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_what_cannot_be_cached_is_refused_with_its_key(
  changes, key, monkeypatch
):
  monkeypatch.setitem(mtl.models.BACKBONES, 'tiny', Tiny)
  config = mtl.get_config()
  config.model.backbone, config.batch_size = 'tiny', 4
  config.data.scenes.image_size = SIZE
  override(config, changes, argument='changes')
  with pytest.raises(InputError) as error:
    methods.plan(build(config, data=False))
  assert key in error.value.where


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_batches_are_what_steps_are_compiled_ahead_for(
  without, toy_dataset, dtype
):
  stage = with_cache(without[0], toy_dataset, 'memory', cache_dtype=dtype)
  batch = stage.parallel.shard(next(stage.batches(make_teachers(), 0)))
  shapes = stage._abstract_batch(trained=True)
  assert shapes.keys() == batch.keys()
  for name, x in batch.items():
    assert (shapes[name].shape, shapes[name].dtype) == (x.shape, x.dtype)
    assert shapes[name].sharding == x.sharding
