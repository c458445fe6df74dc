"""The rule of every kind, on scenes whose zoomed and mirrored labels are known.

A scene is a function of a place in the picture. Depth, disparity and normals
are those of planes, in test_augment.py.
"""

from fixtures.kinds import DESCRIBED, make_kind, random_label
import numpy as np
import pytest

from mtl_kd_jax.datasets.augment import augment, flip_horizontally, zoom
from mtl_kd_jax.datasets.resize import nearest_indices
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import KINDS, View, augmentation_of

H, W = 24, 32
LABELS = {kind: make_kind(kind).label for kind in KINDS}
SCALE, CORNER = 3, (4.0, 6.0)  # centers of every third pixel coincide
MIDDLE = np.s_[1::3, 1::3]
POINTS = np.array([[8, 6, 1], [9.5, 7.25, 1], [30, 2, 1]], np.float32)


def render():
  """A picture of its own coordinates, and labels that follow from them."""
  y, x = np.mgrid[:H, :W].astype(np.float32)
  labels = {
    'classes': (y // 3 + x // 4).astype(np.int32) % 4,
    'binary': (x > y).astype(np.int32),
    'multilabel': np.stack([x > 9, y > 5, x > y], -1).astype(np.int32),
    'regression': np.stack([3 * y, x], -1),
    'vectors': np.stack([x, -y], -1),
    'heatmap': POINTS,
  }
  return {'image': np.stack([y, x, x], -1), **labels}


def seen(sample, labels):
  """The labels that belong to the coordinates that a picture shows."""
  y, x = (np.rint(sample['image'][..., i]) for i in (0, 1))
  return {
    'classes': (y // 3 + x // 4).astype(np.int32) % 4,
    'binary': (x > y).astype(np.int32),
    'multilabel': np.stack([x > 9, y > 5, x > y], -1).astype(np.int32),
    'regression': np.stack([3 * y, x], -1),
    'vectors': np.stack([x, -y], -1),
  }[labels]


MAPS = ('classes', 'binary', 'multilabel', 'regression', 'vectors')


def of(*kinds):
  return {kind: LABELS[kind] for kind in kinds}


@pytest.mark.parametrize('kind', MAPS)
def test_a_zoomed_label_is_that_of_the_pixel_that_is_seen(kind):
  sample = render()
  zoomed = zoom(sample, SCALE, CORNER, labels=of(kind))
  expected = seen({'image': zoomed['image'][MIDDLE]}, kind)
  factor = SCALE if kind == 'vectors' else 1
  np.testing.assert_allclose(zoomed[kind][MIDDLE], factor * expected, rtol=1e-5)
  assert zoomed[kind].dtype == sample[kind].dtype


@pytest.mark.parametrize('kind', MAPS)
def test_a_mirrored_label_is_that_of_the_pixel_that_is_seen(kind):
  flipped = flip_horizontally(render(), labels=of(kind))
  expected = seen(flipped, kind)
  if kind == 'vectors':
    expected = expected * [-1, 1]  # right is left
  if kind == 'multilabel':
    expected = expected[..., [1, 0, 2]]  # a and b are a pair
  np.testing.assert_array_equal(flipped[kind], expected)


def test_points_stay_on_what_they_mark():
  sample = {**render(), 'heatmap': POINTS}
  zoomed = zoom(sample, SCALE, CORNER, labels=of('heatmap'))
  for (x, y, _), (new_x, new_y, known) in zip(
    POINTS[:2], zoomed['heatmap'], strict=False
  ):
    assert known == 1
    # The picture is linear in its coordinates, and so is what is between.
    row, column = int(np.floor(new_y)), int(np.floor(new_x))
    part_y, part_x = new_y - row, new_x - column
    image = zoomed['image']
    corner, right, below = (
      image[row, column, :2],
      image[row, column + 1, :2],
      image[row + 1, column, :2],
    )
    place = corner + part_x * (right - corner) + part_y * (below - corner)
    np.testing.assert_allclose(place, [y, x], atol=1e-4)
  np.testing.assert_array_equal(zoomed['heatmap'][2], 0)  # outside


def test_left_and_right_points_are_exchanged_in_a_mirror():
  flipped = flip_horizontally({**render()}, labels=of('heatmap'))
  expected = POINTS[[0, 2, 1]].copy()
  expected[:, 0] = W - 1 - expected[:, 0]
  np.testing.assert_array_equal(flipped['heatmap'], expected)
  x, y, _ = flipped['heatmap'][0].astype(int)
  np.testing.assert_array_equal(flipped['image'][y, x, :2], [6, 8])


def test_heat_maps_move_with_the_picture():
  label = Label('heatmap', channels=2, pairs=((0, 1),))
  maps = np.zeros((H, W, 2), np.float32)
  maps[6, 8, 0] = 1
  sample = {'image': render()['image'], 'heat': maps}
  flipped = flip_horizontally(sample, labels={'heat': label})
  assert flipped['heat'][6, W - 9, 1] == 1 == flipped['heat'].sum()
  zoomed = zoom(sample, SCALE, CORNER, labels={'heat': label})
  assert (zoomed['heat'][..., 0] > 0).sum() == SCALE**2
  assert zoomed['heat'][(6 - 4) * 3 + 1, (8 - 6) * 3 + 1, 0] == 1


@pytest.mark.parametrize(
  'kind', ['image_classes', 'image_multilabel', 'image_regression']
)
def test_what_is_said_of_a_picture_stays_true_of_its_crops(kind):
  label = random_label(make_kind(kind))[0]
  sample = {'image': render()['image'], kind: label}
  for changed in (
    zoom(sample, 1.5, (1, 2), labels=of(kind)),
    flip_horizontally(sample, labels=of(kind)),
  ):
    np.testing.assert_array_equal(changed[kind], label)


def test_a_pair_of_classes_is_exchanged_in_a_mirror():
  light = Label(
    'image_class', classes=('left', 'right', 'none'), pairs=((0, 1),)
  )
  for before, after in ((0, 1), (1, 0), (2, 2), (-1, -1)):
    sample = {'image': render()['image'], 'light': np.array(before, np.int32)}
    flipped = flip_horizontally(sample, labels={'light': light})
    assert flipped['light'] == after and flipped['light'].dtype == np.int32
  hands = Label('class', classes=('left', 'right'), pairs=((0, 1),))
  ids = np.array([[0, 1, -1]], np.int32)
  sample = {'image': np.zeros((1, 3, 3), np.float32), 'hands': ids}
  flipped = flip_horizontally(sample, labels={'hands': hands})
  np.testing.assert_array_equal(flipped['hands'], [[-1, 0, 1]])


@pytest.mark.parametrize('kind', DESCRIBED)
def test_mirroring_twice_changes_nothing_and_missing_labels_stay_so(kind):
  label = LABELS[kind]
  array = random_label(make_kind(kind), size=(H, W))[0]
  sample = {'image': render()['image'], kind: array}
  twice = sample
  for _ in range(2):
    twice = flip_horizontally(twice, labels=of(kind))
  np.testing.assert_array_equal(twice[kind], array)
  missing = {**sample, kind: label.missing((H, W))}
  for seed in range(4):
    changed = augment(
      missing,
      np.random.default_rng(seed),
      labels=of(kind),
      scales=(1.0, 1.5),
      flip=True,
    )[kind]
    assert changed.shape == label.shape((H, W))
    assert changed.dtype == label.dtype
    assert not label.known(changed).any()


def test_resizing_scales_points_and_vectors_alone():
  size = (12, 64)  # half as high, twice as wide
  view = View(*nearest_indices((H, W), size), (0.5, 2.0))
  sample = render()
  resized = {
    kind: augmentation_of(LABELS[kind]).resize(sample[kind], view, LABELS[kind])
    for kind in (*MAPS, 'heatmap')
  }
  rows, columns = view.rows, view.columns
  for kind in MAPS:
    expected = sample[kind][np.ix_(rows, columns)]
    factor = [2, 0.5] if kind == 'vectors' else 1
    np.testing.assert_array_equal(resized[kind], expected * factor)
  # The edges of the picture are those of the new one.
  expected = (POINTS[:, :2] + 0.5) * [2, 0.5] - 0.5
  np.testing.assert_allclose(resized['heatmap'][:, :2], expected)
