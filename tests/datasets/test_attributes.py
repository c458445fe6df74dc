"""What is said of rendered rooms as a whole."""

import dataclasses
import pickle

import numpy as np
import pytest

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets.augment import flip_horizontally
from mtl_kd_jax.datasets.scenes import attributes, dataset, rooms


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  return datasets.make(
    'scenes',
    image_size=(16, 24),
    num_train=3,
    num_val=2,
    attributes=True,
    data_dir=tmp_path_factory.mktemp('rooms'),
  )


def test_they_are_those_of_the_rendered_room(opened):
  source = pickle.loads(pickle.dumps(opened.source('val')))
  assert len(source) == 2
  for i in (0, 1):
    sample = source[i]
    assert sample.keys() == {'image', *opened.labels}
    rendered = dataset.render(0, 'val', i, (16, 24))
    np.testing.assert_array_equal(sample['semantic'], rendered['semantic'])
    room = dataset.draw_room(0, 'val', i)
    for name, value in attributes.attributes(room).items():
      assert sample[name] == value and sample[name].dtype == np.int32
  plain = datasets.preview('scenes')
  assert set(opened.labels) - set(plain.labels) == {'count', 'pattern', 'light'}
  assert datasets.preview('scenes', attributes=True).labels == opened.labels


def room_with(solids, lamp_x):
  room = dataset.draw_room(0, 'train', 0)
  solid = next(t for t in room.things if t.label >= 5)
  walls = [t for t in room.things if rooms.CLASSES[t.label] == 'wall']
  camera = dataclasses.replace(
    room.camera, position=np.zeros(3), axes=np.eye(3)
  )
  lamps = (
    rooms.Lamp((lamp_x, 0, 1), 0.1, (1.0, 1.0, 1.0)),
    rooms.Lamp((-lamp_x, 0, 1), 0.1, (0.5, 0.5, 0.5)),
  )
  return dataclasses.replace(
    room, things=(*walls, *[solid] * solids), lamps=lamps, camera=camera
  )


@pytest.mark.parametrize(
  'solids, named', [(0, 'up to 3'), (3, 'up to 3'), (4, '4'), (9, '6 or more')]
)
def test_solids_are_counted_and_the_brightest_lamp_decides(solids, named):
  for x, side in ((2.0, 'right'), (-2.0, 'left')):
    found = attributes.attributes(room_with(solids, x))
    count, light = (
      attributes.LABELS[name].classes[int(found[name])]
      for name in ('count', 'light')
    )
    assert (count, light) == (named, side)


def test_the_pattern_is_that_of_three_walls():
  room = dataset.draw_room(3, 'train', 7)
  walls = [t for t in room.things if rooms.CLASSES[t.label] == 'wall']
  shared = {t.material.pattern for t in walls[1:]}
  found = int(attributes.attributes(room)['pattern'])
  assert {rooms.PATTERNS[found]} == shared


def test_mirrored_the_light_comes_from_the_other_side(opened):
  sample = opened.source('train')[0]
  mirrored = flip_horizontally(sample, labels=opened.labels)
  assert mirrored['light'] == 1 - sample['light']
  assert mirrored['count'] == sample['count']
