"""The doctor: no findings for sound data, and one for every defect."""

import copy
import dataclasses
import functools

import numpy as np
import pytest

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.doctor import diagnose
from mtl_kd_jax.datasets.inspect.geometry import horizontal_facing, plane_votes
from mtl_kd_jax.datasets.inspect.profile import evenly_spaced, profile_split
from mtl_kd_jax.datasets.scenes import dataset as scenes
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

SIZE = (48, 64)
LABELS = scenes.preview(image_size=SIZE).labels
LENGTHS = {'train': 24, 'val': 16}


@functools.cache
def rooms(split):
  return [scenes.render(0, split, i, SIZE) for i in range(LENGTHS[split])]


@pytest.fixture
def splits():
  """split -> samples, to be damaged."""
  return {split: copy.deepcopy(rooms(split)) for split in LENGTHS}


def make_dataset(splits, labels=LABELS, size=SIZE):
  sources = {s: functools.partial(list, x) for s, x in splits.items()}
  return Dataset('rooms', size, labels, sources)


def examine(splits, *, max_samples=0, labels=LABELS, size=SIZE):
  dataset = make_dataset(splits, labels, size)
  profiles = {
    split: profile_split(dataset, split, max_samples=max_samples)
    for split in dataset.sources
  }
  return diagnose(dataset, profiles)


def test_sound_data_give_no_finding(splits):
  assert examine(splits) == []
  assert examine(splits, max_samples=5) == []


# ---- Every defect -----------------------------------------------------------


def change(key, new):
  """A defect of one map: (map, its missing pixels) -> the new map."""

  def damage(splits):
    for sample in splits['train']:
      array = sample[key]
      axes = tuple(range(2, array.ndim))
      sample[key] = new(
        array, ~(array != LABELS[key].missing((1, 1))).any(axes)
      )

  return damage


def change_images(new):
  def damage(splits):
    for sample in splits['train']:
      sample['image'] = new(sample['image'])

  return damage


def inverted(depth, missing):
  return np.where(missing[..., None], 0, 0.3 / np.maximum(depth, 1e-3))


def as_colors(normals, missing):
  return np.where(missing[..., None], 0, (normals + 1) / 2)


def with_nan(depth, missing):
  del missing
  depth[:2] = np.nan
  return depth


def blended(classes, missing):
  classes = classes.astype(np.float32)
  classes[:, 10] += 0.5
  return np.where(missing, -1, np.minimum(classes, 8))


def some_turned(splits):
  for sample in splits['train'][::3]:
    sample['normals'] *= -1


def a_shared_frame(splits):
  # In another dtype, as another reader would store it.
  splits['val'][3] = splits['train'][7] | {
    'image': splits['train'][7]['image'].astype(np.float64)
  }


def an_absent_class(splits):
  for sample in splits['val']:
    sample['semantic'][sample['semantic'] == 4] = 1


def a_class_absent_everywhere(splits):
  for sample in splits['train'] + splits['val']:
    sample['semantic'][sample['semantic'] == 4] = 1


def no_label_at_all(splits):
  for sample in splits['val']:
    sample['normals'][:] = 0


def another_size(splits):
  for key, array in splits['train'][5].items():
    splits['train'][5][key] = array[:-4]


def another_size_of_a_label(splits):
  splits['train'][5]['depth'] = splits['train'][5]['depth'][:-4]


DEFECTS = {
  'bytes': (
    change_images(lambda image: (255 * image).astype(np.uint8)),
    'train: image',
    'bytes from 0 to 255',
  ),
  'standardized': (
    change_images(lambda image: (image - 0.5) / 0.25),
    'train: image',
    'values from -',
  ),
  # As by ImageNet's statistics: it exceeds 2, but it is no image of bytes.
  'standardized, above 2': (
    change_images(lambda image: (image - 0.45) / 0.2),
    'train: image',
    'values from -',
  ),
  'too bright': (
    change_images(lambda image: 1.5 * image),
    'train: image',
    'values from 0',
  ),
  'disparity': (
    change('depth', inverted),
    'train: depth',
    'behaves like disparity',
  ),
  'millimeters': (
    change('depth', lambda x, _: (1000 * x).astype(np.uint16)),
    'train: depth',
    'should be meters',
  ),
  'centimeters': (
    change('depth', lambda x, _: 100 * x),
    'train: depth',
    'should be meters',
  ),
  'negative depth': (
    change('depth', lambda x, missing: np.where(missing[..., None], -1, x)),
    'train: depth',
    'values below 0',
  ),
  'NaN': (change('depth', with_nan), 'train: depth', 'NaN or infinite'),
  'outside ids': (
    change('semantic', lambda x, missing: np.where(missing, 255, x)),
    'train: semantic',
    'ids outside 0 to 8: 255',
  ),
  'blended ids': (
    change('semantic', blended),
    'train: semantic',
    'not whole numbers',
  ),
  'colors': (
    change('normals', as_colors),
    'train: normals',
    'none has a negative component',
  ),
  'short normals': (
    change('normals', lambda x, _: 0.9 * x),
    'train: normals',
    'do not have length 1',
  ),
  'turned normals': (
    change('normals', lambda x, _: -x),
    'train: normals',
    'face away',
  ),
  'mirrored normals': (
    change('normals', lambda x, _: x * np.float32([-1, 1, 1])),
    'train: normals',
    'face away',
  ),
  'some turned': (some_turned, 'train: normals', 'in 8 of 24 samples'),
  'shared': (a_shared_frame, 'train and val', 'share 1 of the frames'),
  'absent': (an_absent_class, 'val: semantic', 'absent: picture (in '),
  'nowhere': (
    a_class_absent_everywhere,
    'all splits: semantic',
    'absent: picture',
  ),
  'no label': (no_label_at_all, 'val: normals', 'none of the 16 samples'),
  'another size': (another_size, 'train: image', 'sizes 44x64, 48x64'),
  'size of a label': (
    another_size_of_a_label,
    'train: depth',
    '1 labels have another size',
  ),
}


@pytest.mark.parametrize('name', DEFECTS)
def test_a_defect_gives_one_finding(name, splits):
  damage, where, what = DEFECTS[name]
  damage(splits)
  (finding,) = examine(splits)
  assert finding.where == where
  assert what in finding.what
  assert finding.do


def test_depth_declared_as_disparity_is_found(splits):
  labels = LABELS | {'depth': Label('disparity')}
  findings = examine(splits, labels=labels)
  assert [f.where for f in findings] == ['train: depth', 'val: depth']
  assert all('behaves like depth' in f.what for f in findings)
  for samples in splits.values():
    for sample in samples:
      sample['depth'] = inverted(sample['depth'], sample['depth'][..., 0] == 0)
  assert examine(splits, labels=labels) == []


def test_an_error_of_the_reader_is_a_finding(splits):
  class Refusing(list):
    def __getitem__(self, index):
      if index in (3, 5):
        raise InputError(expected='x', found='y', where='3.npy', do='mend it')
      return super().__getitem__(index)

  dataset = dataclasses.replace(
    make_dataset(splits),
    sources={'train': lambda: Refusing(splits['train'])},
  )
  found = profile_split(dataset, 'train', max_samples=0)
  (finding,) = diagnose(dataset, {'train': found})
  assert '2 of 24 samples cannot be read, the first is number 3' in finding.what
  assert '3.npy' in finding.do and 'mend it' in finding.do
  assert len(found.images) == 22 and found.errors.keys() == {3, 5}


def test_a_rare_class_may_be_absent_from_a_few_samples(splits):
  for sample in splits['train'] + splits['val'][1:]:
    sample['semantic'][sample['semantic'] == 4] = 1
  # In one of 16 samples, of which four are read.
  splits['val'][0]['semantic'][:4] = 4
  assert not [f for f in examine(splits, max_samples=4) if 'picture' in f.what]
  assert [f for f in examine(splits) if 'picture (in 6%' in f.what]
  # A frequent one may not: all of 16 contain it, and none of the four.
  for sample in splits['val']:
    sample['semantic'][:4] = 4
  assert [
    f for f in examine(splits, max_samples=4) if 'picture (in 100%' in f.what
  ]


def test_standardized_frames_that_differ_are_not_taken_for_the_same(splits):
  """The splits have frames in common only where these are equal in 8 bits."""
  for samples in splits.values():
    for i, sample in enumerate(samples):
      sample['image'] = np.full((*SIZE, 3), -0.5, np.float32)
      sample['image'][0] = 2.4
      sample['image'][1, i] = 0.2 if samples is splits['train'] else 0.3
  assert not [f for f in examine(splits) if 'share' in f.what]


def test_samples_are_evenly_spaced():
  assert evenly_spaced(10, 4) == [0, 3, 6, 9]
  assert evenly_spaced(3, 10) == [0, 1, 2]
  assert (
    evenly_spaced(5, 1) == [0]
    and evenly_spaced(0, 4) == evenly_spaced(0, 1) == []
  )


# ---- Geometry ----------------------------------------------------------------


def plane(seed, size=(60, 80)):
  """Depth of a slanted plane before a random camera; 1 / z is affine."""
  rng = np.random.default_rng(seed)
  a, b = rng.uniform(0.7, 0.95, 2) * rng.choice((-1, 1), 2)
  y, x = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in size), indexing='ij')
  return rng.uniform(0.1, 10) / (1 + a * x + b * y)


@pytest.mark.parametrize('seed', range(4))
def test_a_plane_is_recognized_as_depth_for_any_scale_and_camera(seed):
  depth = plane(seed)
  known = np.ones(depth.shape, bool)
  votes = plane_votes(depth, known, step=8)
  assert votes[0] > 100 and votes[1] == 0
  assert plane_votes(1 / depth, known, step=8) == votes[::-1]
  # Steps of half a percent, as of a sensor, change little.
  stepped = np.exp(np.round(np.log(depth) / 0.005) * 0.005)
  assert plane_votes(stepped, known, step=8)[1] <= 0.02 * votes[0]


def test_other_surfaces_and_missing_pixels_do_not_vote():
  rng = np.random.default_rng(0)
  noise = rng.uniform(1, 5, (60, 80))
  known = np.ones(noise.shape, bool)
  assert sum(plane_votes(noise, known, step=8)) < 20
  assert plane_votes(np.full((60, 80), 2.0), known, step=8) == (0, 0)
  assert plane_votes(plane(0), ~known, step=8) == (0, 0)
  assert plane_votes(plane(0)[:8, :8], known[:8, :8], step=8) == (0, 0)


def test_normals_that_face_the_camera_point_to_the_middle():
  normals = np.zeros((4, 10, 3))
  normals[:, :5], normals[:, 5:] = (0.6, 0, -0.8), (-0.6, 0, -0.8)
  known = np.ones((4, 10), bool)
  total, most = horizontal_facing(normals, known)
  assert -1 <= total / most < -0.8
  assert horizontal_facing(-normals, known) == (-total, most)
  assert horizontal_facing(normals, ~known) == (0, 0)


# ---- Real frames -------------------------------------------------------------


@pytest.fixture
def flat(shared_data):
  """Every seventh frame of a scanned flat."""
  with np.load(shared_data / 'apartment_floor1_96x128.npz') as pack:
    names = tuple(map(str, pack['class_names13']))
    part = {key: pack[key][::7] for key in pack if key != 'class_names13'}
  normals = part['normal_i8'].astype(np.float32)
  length = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals = np.where(
    part['normal_ok'][..., None] & (length > 0),
    normals / np.maximum(length, 1e-6),
    0,
  )
  classes = part['label13'].astype(np.int32)
  samples = [
    {
      'image': part['image'][i] / np.float32(255),
      'semantic': np.where(classes[i] < len(names), classes[i], -1),
      'depth': part['depth_mm'][i][..., None] / np.float32(1000),
      'normals': normals[i],
    }
    for i in range(len(classes))
  ]
  splits = {
    split: [s for s, t in zip(samples, part['is_test'], strict=True) if t == k]
    for split, k in (('train', False), ('val', True))
  }
  labels = LABELS | {'semantic': Label('class', classes=names)}
  return functools.partial(examine, splits, labels=labels, size=(96, 128))


def kinds(findings):
  return {f.where: f.what for f in findings if 'absent' not in f.what}


def test_real_frames_are_sound_and_their_defects_are_found(flat):
  assert kinds(flat()) == {}
  splits = flat.args[0]
  for sample in splits['train']:
    sample['depth'] = inverted(sample['depth'], sample['depth'][..., 0] == 0)
    sample['normals'] *= -1
  found = kinds(flat())
  assert found.keys() == {'train: depth', 'train: normals'}
  assert 'behaves like disparity' in found['train: depth']
  assert 'face away' in found['train: normals']
