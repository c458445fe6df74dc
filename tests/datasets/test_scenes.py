"""The rendered rooms: exact, balanced, reproducible, and safe on disk."""

from concurrent.futures import ThreadPoolExecutor
import hashlib
import itertools
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mtl_kd_jax.datasets.scenes import dataset as scenes
from mtl_kd_jax.datasets.scenes import raycast, rooms, shapes
from mtl_kd_jax.errors import InputError

SIZE = (32, 48)
TASKS = ('semantic', 'depth', 'normals')


def look(index, size=SIZE):
  """Room and view of training scene `index`; no label is missing."""
  seeds = np.random.SeedSequence(0, spawn_key=(0, index))
  room = rooms.draw_room(np.random.default_rng(seeds))
  solids = [thing.shape for thing in room.things]
  return room, raycast.cast(room.camera, solids, size)


def directions(camera, size):
  """Rays of unit depth [h w 3], computed differently from the renderer."""
  height, width = size
  focal = width / (2 * camera.spread)
  column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
  x, y = (column - width / 2) / focal, (row - height / 2) / focal
  return np.stack([x, y, np.ones(size)], -1)


def level(shape, point):
  """Negative inside the shape, 0 on its surface, positive outside [...]."""
  if isinstance(shape, shapes.Plane):
    return shape.side * (point[..., shape.axis] - shape.offset)
  if isinstance(shape, shapes.Sphere):
    return np.linalg.norm(point - shape.center, axis=-1) - shape.radius
  if isinstance(shape, shapes.Box):
    c, s = shape.turn
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return np.max(np.abs((point - shape.center) @ turn.T) - shape.half, -1)
  local = point - shape.base
  ring, z = np.hypot(local[..., 0], local[..., 1]), local[..., 2]
  if isinstance(shape, shapes.Cylinder):
    side = ring - shape.radius
  else:
    side = ring - shape.radius * (1 - z / shape.height)
  return np.maximum(np.maximum(side, -z), z - shape.height)


def missing(sample):
  return {
    'semantic': sample['semantic'] < 0,
    'depth': sample['depth'][..., 0] == 0,
    'normals': ~sample['normals'].any(-1),
  }


@pytest.fixture(scope='module')
def samples():
  """A hundred scenes."""
  return [scenes.render(0, 'train', i, (48, 64)) for i in range(100)]


# Geometry


@pytest.mark.parametrize('index', range(12))
def test_depth_is_the_distance_to_the_first_surface(index):
  room, view = look(index)
  rays = directions(room.camera, SIZE) @ room.camera.axes
  point = room.camera.position + view.depth[..., None] * rays
  assert (view.index >= 0).all() and np.isfinite(view.depth).all()
  for i, thing in enumerate(room.things):
    here = view.index == i
    np.testing.assert_allclose(level(thing.shape, point[here]), 0, atol=1e-7)
    for share in np.linspace(0, 0.999, 40):
      on_the_way = room.camera.position + share * view.depth[..., None] * rays
      assert (level(thing.shape, on_the_way) > 0).all(), thing


def test_all_shapes_are_covered():
  seen = set()
  for index in range(12):
    room, view = look(index)
    seen |= {type(room.things[i].shape) for i in np.unique(view.index)}
  assert seen == {getattr(shapes, name) for name in
                  ('Plane', 'Box', 'Sphere', 'Cylinder', 'Cone')}  # fmt: skip


@pytest.mark.parametrize('index', range(8))
def test_labels_match_what_the_camera_sees(index):
  room, view = look(index)
  sample = scenes.render(0, 'train', index, SIZE)
  gaps = missing(sample)
  classes = np.array([thing.label for thing in room.things])[view.index]
  normals = np.moveaxis(view.normal, 0, -1) @ room.camera.axes.T
  for task, truth in (
    ('semantic', classes),
    ('depth', view.depth[..., None]),
    ('normals', normals),
  ):
    valid = ~gaps[task]
    np.testing.assert_allclose(
      sample[task][valid], truth[valid], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize('index', range(8))
def test_normals_agree_with_the_gradient_of_the_depth(index):
  size = (192, 256)
  room, view = look(index, size)
  point = view.depth[..., None] * directions(room.camera, size)
  normal = np.moveaxis(view.normal, 0, -1) @ room.camera.axes.T
  inner = (slice(1, -1), slice(1, -1))
  across = point[1:-1, 2:] - point[1:-1, :-2]
  along = point[2:, 1:-1] - point[:-2, 1:-1]
  slope = np.cross(along, across)
  slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
  smooth = np.ones(slope.shape[:2], bool)
  for i, j in ((0, 1), (2, 1), (1, 0), (1, 2)):
    other = (slice(i, size[0] - 2 + i), slice(j, size[1] - 2 + j))
    smooth &= view.index[other] == view.index[inner]
    smooth &= np.sum(normal[other] * normal[inner], -1) > 0.99
  cosine = np.abs(np.sum(slope * normal[inner], -1))[smooth]
  assert smooth.mean() > 0.7
  assert cosine.min() > 0.99
  flat = [isinstance(thing.shape, shapes.Plane) for thing in room.things]
  flat = np.array(flat)[view.index[inner]][smooth]
  np.testing.assert_allclose(cosine[flat], 1, atol=1e-9)


def test_normals_have_length_one_and_face_the_camera(samples):
  for index, sample in enumerate(samples[:30]):
    room, _ = look(index)
    valid = sample['normals'].any(-1)
    length = np.linalg.norm(sample['normals'].astype(float), axis=-1)[valid]
    np.testing.assert_allclose(length, 1, atol=1e-6)
    facing = np.sum(sample['normals'] * directions(room.camera, (48, 64)), -1)
    assert (facing[valid] < 0).all()


@pytest.mark.parametrize('index', range(5))
def test_the_window_of_a_shape_contains_all_of_it(index, monkeypatch):
  _, view = look(index)
  monkeypatch.setattr(
    raycast.Camera, 'window', lambda *_: (slice(None), slice(None))
  )
  np.testing.assert_array_equal(look(index)[1].depth, view.depth)


def test_the_shadow_of_a_ball_lies_behind_it():
  ball = shapes.Sphere((0.0, 0.0, 1.0), 0.5)
  lamp = np.array([0.0, 0.0, 3.0])[:, None]
  x = np.array([0.0, 0.5, 0.76, 0.79, 2.0])  # the shadow ends at 0.775
  floor = np.stack([x, 0 * x, 0 * x])
  dark = [True, True, True, False, False]
  assert raycast.is_shadowed(lamp, floor, [ball]).tolist() == dark
  above = floor + np.array([0, 0, 2.0])[:, None]
  assert not raycast.is_shadowed(lamp, above, [ball]).any()
  lit = np.array([[0.0], [0.0], [1.5]])  # on the ball itself
  assert not raycast.is_shadowed(lamp, lit, [ball]).any()


# Contents of the images


def test_values_and_types(samples):
  for sample in samples:
    assert sample['image'].dtype == np.float32
    assert sample['image'].min() >= 0 and sample['image'].max() <= 1
    assert 0.3 < sample['image'].mean() < 0.75 and sample['image'].std() > 0.05
    assert sample['semantic'].dtype == np.int32
    assert sample['semantic'].min() >= -1
    assert sample['semantic'].max() < len(rooms.CLASSES)
    depth = sample['depth'][sample['depth'] > 0]
    assert sample['depth'].dtype == np.float32
    assert 0.3 < depth.min() and depth.max() < math.hypot(5.4, 5.8, 2.75)
    assert sample['normals'].dtype == np.float32


def test_a_few_percent_are_unlabeled_at_different_pixels_for_each_task():
  gaps = [missing(scenes.render(0, 'val', i, (96, 128))) for i in range(60)]
  for task in TASKS:
    shares = np.array([gap[task].mean() for gap in gaps])
    assert 0.02 < shares.mean() < 0.08, task
    assert shares.max() < 0.2, task
  for first, second in itertools.combinations(TASKS, 2):
    both = np.mean([(gap[first] & gap[second]).mean() for gap in gaps])
    either = np.mean([(gap[first] | gap[second]).mean() for gap in gaps])
    assert both < 0.7 * either


def test_every_class_occurs_often_enough_to_be_learned(samples):
  shares = np.stack([
    np.bincount(sample['semantic'].ravel() + 1, minlength=10)[1:]
    for sample in samples
  ])  # fmt: skip
  for name, counts in zip(rooms.CLASSES, shares.T, strict=True):
    assert 0.02 < counts.sum() / shares.sum() < 0.45, name
    assert (counts > 20).mean() > 0.5, f'{name} is in too few scenes'
  assert ((shares > 20).sum(1) >= 4).all(), 'an almost empty scene'


def accuracy_of_counting(cells, classes, fitted):
  """Accuracy, on the rest, of guessing the most frequent class of a cell."""
  table = np.zeros((cells.max() + 1, 9))
  np.add.at(table, (cells[fitted], classes[fitted]), 1)
  guess = table.argmax(1)[cells[~fitted]]
  return np.mean(guess == classes[~fitted])


def test_neither_color_nor_position_predicts_the_class(samples):
  image = np.stack([sample['image'] for sample in samples])
  classes = np.stack([sample['semantic'] for sample in samples])
  valid = classes >= 0
  fitted = np.broadcast_to(
    np.arange(len(samples))[:, None, None] < 60, classes.shape
  )[valid]
  color = np.minimum((image * 6).astype(int), 5) @ [36, 6, 1]
  y, x = np.mgrid[:12, :16].repeat(4, 1).repeat(4, 2)
  place = np.broadcast_to(y * 16 + x, classes.shape)
  classes = classes[valid]
  majority = accuracy_of_counting(0 * classes, classes, fitted)
  assert accuracy_of_counting(color[valid], classes, fitted) < majority + 0.05
  assert accuracy_of_counting(place[valid], classes, fitted) < 0.62


# Reproducible


def digest(sample):
  content = b''.join(sample[key].tobytes() for key in sorted(sample))
  return hashlib.sha256(content).hexdigest()


def test_a_scene_is_the_same_in_every_process():
  program = (
    'from test_scenes import digest, scenes\n'
    "print(digest(scenes.render(3, 'val', 5, (32, 48))))"
  )
  other = subprocess.run(
    [sys.executable, '-c', program],
    cwd=__file__.rpartition('/')[0],
    env={'PYTHONPATH': ':'.join(filter(None, sys.path)), 'PYTHONHASHSEED': '7'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert other.stdout.split() == [digest(scenes.render(3, 'val', 5, SIZE))]


def test_seed_split_and_index_each_draw_another_room():
  keys = list(itertools.product((0, 1, 2**32), ('train', 'val'), (0, 1, 2)))
  samples = [scenes.render(*key, SIZE) for key in keys]
  for task in ('image', *TASKS):
    assert len({sample[task].tobytes() for sample in samples}) == len(keys)


def test_the_room_does_not_depend_on_the_size_of_the_image():
  small = scenes.render(0, 'train', 1, (32, 48))
  large = scenes.render(0, 'train', 1, (96, 144))
  there = (small['depth'] > 0) & (large['depth'][1::3, 1::3] > 0)
  assert there.mean() > 0.8
  np.testing.assert_allclose(
    small['depth'][there], large['depth'][1::3, 1::3][there], rtol=1e-6
  )


def test_images_change_only_together_with_the_version(samples):
  # Prepared scenes are identified by their version: after a deliberate change,
  # raise Scenes.VERSION and update the numbers here.
  assert str(scenes.Scenes.VERSION) == '1.0.0'
  means = [np.mean([s[key] for s in samples]) for key in ('image', *TASKS)]
  np.testing.assert_allclose(
    means, [0.58712, 2.19995, 2.89105, -0.16246], atol=2e-4
  )


# On disk


OPTIONS = {'image_size': SIZE, 'num_train': 5, 'num_val': 3, 'seed': 0}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prepared')
  return folder, scenes.make(**OPTIONS, data_dir=str(folder))


def test_samples_are_those_that_were_rendered(prepared):
  _, dataset = prepared
  for split, count in (('train', 5), ('val', 3)):
    source = dataset.source(split)
    assert len(source) == count
    for i in range(count):
      truth, sample = scenes.render(0, split, i, SIZE), source[i]
      for key in ('image', 'semantic', 'depth'):
        np.testing.assert_array_equal(sample[key], truth[key], err_msg=key)
      difference = np.abs(sample['normals'] - truth['normals']).max()
      assert math.degrees(difference) < 0.01
      length = np.linalg.norm(sample['normals'].astype(float), axis=-1)
      ones = truth['normals'].any(-1)
      np.testing.assert_allclose(length, ones, atol=1e-6)


def test_scenes_are_prepared_once_and_silently(
  tmp_path, monkeypatch, capfd, caplog
):
  calls = []
  options = {**OPTIONS, 'data_dir': str(tmp_path)}
  scenes.make(**options, progress=lambda *call: calls.append(call))
  assert calls == [(done, 8) for done in range(1, 9)]
  monkeypatch.setattr(scenes, 'render', None)
  dataset = scenes.make(**options, progress=lambda *call: calls.append(call))
  assert len(calls) == 8 and len(dataset.source('train')) == 5
  pickle.loads(pickle.dumps(dataset.source('train')))
  assert capfd.readouterr() == ('', '')
  assert not caplog.records
  assert 'tensorflow' not in sys.modules


def test_other_options_use_other_folders(prepared):
  folder, dataset = prepared
  other = scenes.make(**{**OPTIONS, 'seed': 1}, data_dir=str(folder))
  assert digest(other.source('val')[0]) != digest(dataset.source('val')[0])
  names = {path.name for path in (folder / 'scenes').iterdir()}
  assert names >= {'32x48_5+3_seed0', '32x48_5+3_seed1'}


def test_sources_are_thread_safe_and_picklable(prepared):
  source = prepared[1].source('train')
  truth = [digest(source[i]) for i in range(5)]
  copy = pickle.loads(pickle.dumps(source))
  assert [digest(copy[i]) for i in range(5)] == truth
  with ThreadPoolExecutor(8) as pool:
    read = list(pool.map(lambda i: digest(copy[i % 5]), range(100)))
  assert read == truth * 20


def test_an_interrupted_preparation_is_repeated(tmp_path, monkeypatch):
  options = {**OPTIONS, 'data_dir': str(tmp_path)}

  def interrupt(done, total):
    if done == 6:
      # As after kill -9, nothing is cleaned up.
      monkeypatch.setattr('shutil.rmtree', lambda *_, **__: None)
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    scenes.make(**options, progress=interrupt)
  monkeypatch.undo()
  left = [path.name for path in (tmp_path / 'scenes').rglob('*incomplete*')]
  assert left, 'the interruption left no files: the test is void'
  dataset = scenes.make(**options)
  assert digest(dataset.source('val')[2])
  assert not list((tmp_path / 'scenes').rglob('*incomplete*'))


def test_a_second_caller_waits_and_renders_nothing(tmp_path):
  options = {**OPTIONS, 'data_dir': str(tmp_path)}
  calls = []
  with ThreadPoolExecutor(2) as pool:
    both = [
      pool.submit(
        scenes.make, **options, progress=lambda *call: calls.append(call)
      )
      for _ in range(2)
    ]
  for future in both:
    assert len(future.result().source('train')) == 5
  assert calls == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: next(folder.glob('*val*')).write_bytes(b'\0' * 100_000),
    lambda folder: next(folder.glob('*train*')).unlink(),
    lambda folder: (folder / 'dataset_info.json').write_text('{'),
    lambda folder: (folder / 'dataset_info.json').unlink(),
  ],
  ids=['scenes overwritten', 'scenes gone', 'info cut off', 'info gone'],
)
def test_damaged_files_are_errors(tmp_path, damage):
  options = {**OPTIONS, 'data_dir': str(tmp_path)}
  scenes.make(**options)
  damage(tmp_path / 'scenes' / '32x48_5+3_seed0' / '1.0.0')
  with pytest.raises(InputError, match='delete that folder') as error:
    scenes.make(**options)
  assert '32x48_5+3_seed0' in error.value.where


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match='a folder to keep') as error:
    scenes.make(**OPTIONS, data_dir=str(tmp_path / 'file'))
  assert error.value.argument == 'data_dir'
  assert str(tmp_path / 'file') in error.value.where


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('image_size', (0, 32)),
    ('image_size', (32, 48, 3)),
    ('num_train', 0),
    ('num_train', 10**7),
    ('num_val', -1),
    ('seed', -1),
  ],
)
def test_invalid_options_are_errors(tmp_path, key, value):
  with pytest.raises(InputError) as error:
    scenes.make(**{**OPTIONS, key: value}, data_dir=str(tmp_path))
  assert error.value.argument == key
  assert not any(tmp_path.iterdir())
