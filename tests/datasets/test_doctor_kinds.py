"""The doctor knows every quantity: sound labels, and one defect of each."""

import copy
import functools

import numpy as np
import pytest

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.doctor import diagnose
from mtl_kd_jax.datasets.inspect.profile import profile_split
from mtl_kd_jax.labels import Label

SIZE = (24, 32)
SAMPLES = 40
LABELS = {
  'edges': Label('binary'),
  'parts': Label('multilabel', classes=('head', 'arm')),
  'albedo': Label('regression', channels=2),
  'flow': Label('vector', unit='px'),
  'maps': Label('heatmap', channels=2),
  'face': Label('points', classes=('nose', 'left', 'right')),
  'weather': Label('image_class', classes=('sun', 'rain')),
  'seen': Label('image_multilabel', classes=('cat', 'dog')),
  'age': Label('image_regression', classes=('years', 'weight')),
}


@pytest.fixture
def samples():
  """Sound samples, to be damaged."""
  return copy.deepcopy(_samples())


@functools.cache
def _samples():
  return [_sample(i) for i in range(SAMPLES)]


def _sample(i):
  rng = np.random.default_rng(i)
  height, width = SIZE
  points = rng.uniform((0, 0), (width - 1, height - 1), (3, 2))
  return {
    'image': rng.random((*SIZE, 3), np.float32),
    'edges': (rng.random(SIZE) < 0.1).astype(np.int32),
    'parts': rng.integers(0, 2, (*SIZE, 2), np.int32),
    'albedo': rng.random((*SIZE, 2), np.float32),
    'flow': rng.normal(0, 3, (*SIZE, 2)).astype(np.float32),
    'maps': rng.random((*SIZE, 2), np.float32),
    'face': np.column_stack([points, np.ones(3)]).astype(np.float32),
    'weather': np.int32(i % 2),
    'seen': np.int32([i % 2, i % 3 == 0]),
    'age': np.float32([rng.uniform(0.1, 8), rng.uniform(0.3, 9)]),
  }


def examine(samples):
  dataset = Dataset('kinds', SIZE, LABELS, {'train': lambda: samples})
  profile = profile_split(dataset, 'train', max_samples=0)
  return diagnose(dataset, {'train': profile})


def test_sound_labels_give_no_finding(samples):
  assert examine(samples) == []


def test_unlabeled_samples_are_no_defect(samples):
  for name, label in LABELS.items():
    for sample in samples[::4]:
      sample[name] = label.missing(SIZE)
    for sample in samples[1::4]:
      if label.is_map:
        sample[name][:4] = label.missing(SIZE)[:4]
  for sample in samples[2::4]:  # and single flags
    sample['seen'][0] = sample['parts'][:3, :, 1] = -1
  assert examine(samples) == []


DEFECTS = {
  'bytes of a mask': (
    'edges',
    lambda x: 255 * x,
    'values from 0 to 255',
    "config.task.edges has entries 'threshold'",
  ),
  'exchanged': (
    'edges',
    lambda x: 1 - (x * (x.cumsum(1) < 2)),
    'are yes',
    'exchange',
  ),
  'never yes': ('edges', lambda x: 0 * x, 'absent: yes', 'mapping'),
  'a part that is nowhere': (
    'parts',
    lambda x: x * np.int32([1, 0]),
    'absent: arm',
    'mapping',
  ),
  'bytes of parts': (
    'parts',
    lambda x: 255 * x,
    'values from 0 to 255',
    'threshold',
  ),
  'a channel that is empty': (
    'albedo',
    lambda x: x * np.float32([1, 0]),
    'always the same: 1 = 0',
    'check what the files hold',
  ),
  'bytes of numbers': (
    'albedo',
    lambda x: 255 * x,
    '96 % of the values are within 24',
    "config.task.albedo has an entry 'scale'",
  ),
  'flags': (
    'albedo',
    lambda x: np.float32(x > 0.5),
    'all values are 0 or 1',
    "config.task.albedo = {'kind': 'binary'",
  ),
  'classes': (
    'albedo',
    lambda x: np.floor(9 * x),
    '9 different values, all of them whole',
    "config.task.albedo = {'kind': 'classes'",
  ),
  'KITTI': (
    'flow',
    lambda x: 64 * x + 2**15,
    'of an image of 32 pixels',
    "config.task.flow has entries 'scale'",
  ),
  'nothing moves': ('flow', lambda x: 0 * x, 'all are 0', 'check'),
  'bytes of maps': (
    'maps',
    lambda x: 255 * x,
    'which should be from 0 to 1',
    "config.task.maps has an entry 'scale'",
  ),
  'shares': (
    'face',
    lambda x: x / np.float32([32, 24, 1]),
    'all coordinates are from',
    'multiply by these',
  ),
  'y before x': (
    'face',
    lambda x: x[:, [1, 0, 2]],
    'points are outside the picture',
    'check the order',
  ),
  'one class': ('weather', lambda x: 0 * x, 'absent: rain', 'mapping'),
  'unknown ids': (
    'weather',
    lambda x: 2 * x,
    'ids outside 0 to 1: 2',
    'pictures without a class have -1',
  ),
  'no dog': ('seen', lambda x: x * np.int32([1, 0]), 'absent: dog', 'mapping'),
  'grams': (
    'age',
    lambda x: x * np.float32([1, 1000]),
    '96 % of the values',
    "config.task.age has an entry 'scale'",
  ),
  'the same for all': (
    'age',
    lambda x: np.float32([x[0], 7]),
    'always the same: weight = 7',
    'check',
  ),
}


@pytest.mark.parametrize('defect', DEFECTS)
def test_a_defect_is_found(defect, samples):
  name, damage, what, do = DEFECTS[defect]
  for sample in samples:
    sample[name] = np.asarray(damage(sample[name]))
  findings = examine(samples)
  assert any(what in f.what and do in f.do for f in findings), findings
  assert {f.where.partition(': ')[2] for f in findings} == {name}


def test_a_class_of_nearly_all_pictures_is_told(samples):
  for i, sample in enumerate(samples):
    sample['weather'] = np.int32(i == 7)
  (finding,) = examine(samples)
  assert finding.what == '97.5% of the pictures are sun'
  assert "'weights'" in finding.do


def test_maps_on_their_side_are_told(samples):
  for sample in samples:
    sample['edges'] = sample['edges'].T
  (finding,) = examine(samples)
  assert finding.what == '40 labels lie on their side'
