"""Augmentation against geometry: planes seen through a pinhole camera."""

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.datasets.augment import augment, flip_horizontally, zoom
from mtl_kd_jax.datasets.nyuv2.depth_normals import Camera, normals_from_depth
from mtl_kd_jax.labels import Label

H, W = 24, 32
FOCAL, CENTER = 28.0, (11.0, 17.5)  # pixels; off the middle on purpose
# n . (X, Y, Z) = OFFSET in front of the camera, slanted in both directions.
NORMAL = np.array([-0.36, 0.48, -0.8])
OFFSET = -2.0  # meters
LABELS = {
  'semantic': Label('class', classes=('a', 'b', 'c', 'd')),
  'depth': Label('depth', unit='m'),
  'disparity': Label('disparity'),
  'normals': Label('normal'),
}


def plane_depth(y, x, *, normal=NORMAL, offset=OFFSET, focal, center):
  """Depth of the plane along z at pixels (y, x), from the camera's equation."""
  slope_y, slope_x = (y - center[0]) / focal, (x - center[1]) / focal
  return offset / (normal[0] * slope_x + normal[1] * slope_y + normal[2])


def render_plane(*, normal=NORMAL, offset=OFFSET, focal=FOCAL, center=CENTER):
  """A sample of the plane; image and classes are random."""
  y, x = np.mgrid[:H, :W].astype(float)
  depth = plane_depth(
    y, x, normal=normal, offset=offset, focal=focal, center=center
  )[..., None]
  rng = np.random.default_rng(3)
  return {
    'image': rng.random((H, W, 3)).astype(np.float32),
    'semantic': rng.integers(0, 4, (H, W)).astype(np.int32),
    'depth': depth.astype(np.float32),
    'disparity': (1 / depth).astype(np.float32),
    'normals': np.broadcast_to(normal, (H, W, 3)).astype(np.float32).copy(),
  }


def with_holes(sample):
  """The sample with a tenth of the pixels missing, the same in all labels."""
  holes = np.random.default_rng(4).random((H, W)) < 0.1
  holey = {k: v.copy() for k, v in sample.items()}
  for task, label in LABELS.items():
    holey[task][holes] = label.missing((H, W))[0, 0]
  return holey, holes


def source_positions(scale, corner):
  """Positions in the source of the centers of the zoomed pixels."""
  y = (np.arange(H) + 0.5) / scale + corner[0] - 0.5
  x = (np.arange(W) + 0.5) / scale + corner[1] - 0.5
  return y, x


def source_pixels(scale, corner):
  """The pixels that contain those centers, computed one at a time."""
  y, x = source_positions(scale, corner)
  rows = [min(max(int(np.floor(p + 0.5)), 0), H - 1) for p in y]
  columns = [min(max(int(np.floor(p + 0.5)), 0), W - 1) for p in x]
  return rows, columns


# (scale, corner); no center is on a border between two pixels.
ZOOMS = [
  (1.2, (0.0, 0.0)),
  (1.2, (2.3, 4.7)),
  (1.5, (0.05, W - W / 1.5 - 1e-3)),
  (1.5, (H - H / 1.5 - 1e-3, W - W / 1.5 - 1e-3)),
  (1.5, (5.1, 3.3)),
]
all_zooms = pytest.mark.parametrize('scale, corner', ZOOMS)


@all_zooms
def test_depth_is_that_of_the_source_pixel_divided_by_the_zoom(scale, corner):
  sample = render_plane()
  zoomed = zoom(sample, scale, corner, labels=LABELS)
  rows, columns = source_pixels(scale, corner)
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      depth = plane_depth(row, column, focal=FOCAL, center=CENTER)
      actual = float(zoomed['depth'][i, j, 0])
      assert actual == pytest.approx(depth / scale, rel=1e-6)
      actual = float(zoomed['disparity'][i, j, 0])
      assert actual == pytest.approx(scale / depth, rel=1e-6)


@all_zooms
def test_zoom_is_a_smaller_scene_with_a_longer_focal_length(scale, corner):
  sample = render_plane()
  zoomed = zoom(sample, scale, corner, labels=LABELS)
  # The same rays, with `scale` times the focal length.
  center = scale * (np.array(CENTER) + 0.5 - corner) - 0.5
  lens = {'focal': scale * FOCAL, 'center': center}
  small = {'offset': OFFSET / scale}
  expected = render_plane(**small, **lens)
  # Labels are those of the nearest source pixel, up to half a source pixel
  # away, which is scale / 2 zoomed pixels.
  y, x = np.mgrid[:H, :W].astype(float)
  reach = scale / 2 + 1e-6
  corners = [
    plane_depth(y + dy, x + dx, **small, **lens)
    for dy in (-reach, reach)
    for dx in (-reach, reach)
  ]
  low, high = np.min(corners, axis=0), np.max(corners, axis=0)
  depth = zoomed['depth'][..., 0].astype(float)
  assert (low * (1 - 1e-6) <= depth).all()
  assert (depth <= high * (1 + 1e-6)).all()
  # The bounds are tight enough to detect a wrong factor.
  assert (high < low * 1.15).all()
  np.testing.assert_array_equal(zoomed['normals'], expected['normals'])


def random_plane(seed):
  """A slanted plane in front of the camera, facing it: normal, offset."""
  rng = np.random.default_rng((7, seed))
  normal = np.append(rng.uniform(-0.4, 0.4, 2), -1)
  return normal / np.linalg.norm(normal), -rng.uniform(0.5, 8)


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('scale', [3, 5])
def test_an_odd_zoom_is_exact_at_pixels_whose_centers_coincide(seed, scale):
  # The center of every `scale`-th pixel is that of a source pixel.
  normal, offset = random_plane(seed)
  rng = np.random.default_rng(seed)
  corner = rng.integers(0, (H - H // scale, W - W // scale))
  zoomed = zoom(
    render_plane(normal=normal, offset=offset), scale, corner, labels=LABELS
  )
  expected = render_plane(
    normal=normal,
    offset=offset / scale,
    focal=scale * FOCAL,
    center=scale * (np.array(CENTER) + 0.5 - corner) - 0.5,
  )
  middle = np.s_[scale // 2 :: scale, scale // 2 :: scale]
  for task in ('depth', 'disparity', 'normals'):
    np.testing.assert_allclose(
      zoomed[task][middle], expected[task][middle], rtol=1e-5, err_msg=task
    )


@pytest.mark.parametrize('seed', range(12))
def test_augmented_labels_are_exact_at_the_source_pixel(seed):
  normal, offset = random_plane(seed)
  sample = render_plane(normal=normal, offset=offset)
  # Bilinear interpolation of a ramp of coordinates is exact.
  y, x = np.mgrid[:H, :W].astype(np.float32)
  sample['image'] = np.stack([y, x, x], axis=-1)
  changed = run(sample, seed, scales=(1.0, 1.2, 1.37, 1.5, 2.0))
  y, x = changed['image'][..., 0], changed['image'][..., 1]
  scale = 1 / float(y[H // 2 + 1, 0] - y[H // 2, 0])
  mirrored = x[0, W // 2] > x[0, W // 2 + 1]
  # Borders between two pixels may be rounded either way.
  sure = (np.abs(y % 1 - 0.5) > 1e-3) & (np.abs(x % 1 - 0.5) > 1e-3)
  assert sure.mean() > 0.4
  depth = plane_depth(
    np.round(y),
    np.round(x),
    normal=normal,
    offset=offset,
    focal=FOCAL,
    center=CENTER,
  )
  for task, values in (
    ('depth', depth / scale),
    ('disparity', scale / depth),
  ):
    actual = changed[task][..., 0][sure]
    np.testing.assert_allclose(actual, values[sure], rtol=1e-4, err_msg=task)
  facing = normal * [-1 if mirrored else 1, 1, 1]
  np.testing.assert_allclose(
    changed['normals'], np.broadcast_to(facing, (H, W, 3)), atol=1e-6
  )


@all_zooms
@pytest.mark.parametrize('mirror', [False, True])
def test_augmented_normals_agree_with_augmented_depth(scale, corner, mirror):
  changed = zoom(render_plane(), scale, corner, labels=LABELS)
  cy, cx = scale * (np.array(CENTER) + 0.5 - corner) - 0.5
  if mirror:
    changed, cx = flip_horizontally(changed, labels=LABELS), W - 1 - cx
  camera = Camera(scale * FOCAL, scale * FOCAL, cx, cy)
  # A wide window, because depth of the nearest pixel has small steps.
  fitted = normals_from_depth(changed['depth'][..., 0], camera, window=15)
  given = fitted.any(axis=-1)
  assert given.mean() > 0.5
  cosine = (fitted * changed['normals'])[given].sum(-1)
  assert np.degrees(np.arccos(cosine.min())) < 6
  # A forgotten sign would give those of the mirrored plane.
  other = (fitted * changed['normals'] * np.float32([-1, 1, 1]))[given].sum(-1)
  assert np.degrees(np.arccos(other.max())) > 30


def test_depth_and_disparity_remain_inverse_to_each_other():
  sample, _ = with_holes(render_plane())
  sample['disparity'] = np.divide(
    1, sample['depth'], out=0 * sample['depth'], where=sample['depth'] > 0
  )
  for seed in range(12):
    changed = run(sample, seed)
    depth, disparity = changed['depth'], changed['disparity']
    np.testing.assert_array_equal(depth > 0, disparity > 0)
    known = depth > 0
    np.testing.assert_allclose(depth[known] * disparity[known], 1, rtol=1e-6)


def test_mirroring_gives_the_mirrored_scene():
  mirrored = render_plane(
    normal=NORMAL * [-1, 1, 1], center=(CENTER[0], W - 1 - CENTER[1])
  )
  flipped = flip_horizontally(render_plane(), labels=LABELS)
  for task in ('depth', 'disparity', 'normals'):
    np.testing.assert_allclose(flipped[task], mirrored[task], rtol=1e-6)
  sample = render_plane()
  for key in ('image', 'semantic'):
    np.testing.assert_array_equal(flipped[key], np.flip(sample[key], 1))


@all_zooms
def test_normals_keep_their_length(scale, corner):
  rng = np.random.default_rng(0)
  sample = render_plane()
  normals = rng.normal(size=(H, W, 3))
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  sample['normals'] = normals.astype(np.float32)
  changed = zoom(sample, scale, corner, labels=LABELS)
  changed = flip_horizontally(changed, labels=LABELS)
  length = np.linalg.norm(changed['normals'].astype(float), axis=-1)
  np.testing.assert_allclose(length, 1, rtol=0, atol=1e-6)


@all_zooms
def test_labels_are_selected_and_not_interpolated(scale, corner):
  sample, holes = with_holes(render_plane())
  zoomed = zoom(sample, scale, corner, labels=LABELS)
  pixels = np.ix_(*source_pixels(scale, corner))
  assert 0 < holes[pixels].sum() < holes[pixels].size
  for task, label in LABELS.items():
    missing = zoomed[task] == label.missing((H, W))
    missing = missing.reshape(H, W, -1).all(-1)
    np.testing.assert_array_equal(missing, holes[pixels], err_msg=task)
  classes = sample['semantic'][pixels]
  np.testing.assert_array_equal(zoomed['semantic'], classes)


def test_mirroring_keeps_missing_pixels_missing():
  sample, holes = with_holes(render_plane())
  flipped = flip_horizontally(sample, labels=LABELS)
  for task, label in LABELS.items():
    missing = flipped[task] == label.missing((H, W))
    missing = missing.reshape(H, W, -1).all(-1)
    np.testing.assert_array_equal(missing, holes[:, ::-1], err_msg=task)


@all_zooms
def test_the_image_agrees_with_pillows_bilinear_resize(scale, corner):
  image = render_plane()['image']
  zoomed = zoom(render_plane(), scale, corner, labels=LABELS)['image']
  top, left = corner
  box = (left, top, left + W / scale, top + H / scale)
  for c in range(3):
    expected = Image.fromarray(image[..., c]).resize(
      (W, H), Image.Resampling.BILINEAR, box
    )
    np.testing.assert_allclose(
      zoomed[..., c], np.asarray(expected), rtol=0, atol=3e-6
    )


@all_zooms
def test_the_image_agrees_with_a_float64_sum(scale, corner):
  image = render_plane()['image'].astype(float)
  zoomed = zoom(render_plane(), scale, corner, labels=LABELS)['image']
  weights = []
  positions = source_positions(scale, corner)
  for position, size in zip(positions, (H, W), strict=True):
    inside = np.clip(position, 0, size - 1)  # the edge goes on outside
    distance = np.abs(inside[:, None] - np.arange(size))
    weights.append(np.maximum(1 - distance, 0))
  expected = np.einsum('iy,jx,yxc->ijc', *weights, image)
  np.testing.assert_allclose(zoomed, expected, rtol=0, atol=1e-6)


def test_scale_one_without_flip_is_the_identity():
  sample, _ = with_holes(render_plane())
  for seed in range(4):
    rng = np.random.default_rng(seed)
    same = augment(sample, rng, labels=LABELS, scales=(1.0,), flip=False)
    assert_equal(same, sample)
  assert_equal(zoom(sample, 1.0, (0.0, 0.0), labels=LABELS), sample)


def test_mirroring_twice_is_the_identity():
  sample, _ = with_holes(render_plane())
  once = flip_horizontally(sample, labels=LABELS)
  assert not np.array_equal(once['image'], sample['image'])
  assert_equal(flip_horizontally(once, labels=LABELS), sample)


def test_keys_shapes_and_dtypes_are_kept():
  sample, _ = with_holes(render_plane())
  for seed in range(12):
    changed = run(sample, seed)
    assert changed.keys() == sample.keys()
    for key, array in changed.items():
      assert array.shape == sample[key].shape, key
      assert array.dtype == sample[key].dtype, key


def test_augment_is_a_function_of_the_generators_state():
  sample, _ = with_holes(render_plane())
  rng = np.random.default_rng(5)
  state = rng.bit_generator.state
  first = augment(sample, rng, labels=LABELS, scales=(1.2, 1.5), flip=True)
  second = augment(sample, rng, labels=LABELS, scales=(1.2, 1.5), flip=True)
  assert not np.array_equal(first['image'], second['image'])
  rng.bit_generator.state = state
  again = augment(sample, rng, labels=LABELS, scales=(1.2, 1.5), flip=True)
  assert_equal(again, first)


def test_augment_always_draws_the_same_number_of_numbers():
  # Otherwise what follows in the stream would depend on the draw.
  sample = render_plane()
  left = set()
  for scales in ((1.0,), (1.5,)):
    for flip in (False, True):
      rng = np.random.default_rng(6)
      augment(sample, rng, labels=LABELS, scales=scales, flip=flip)
      left.add(rng.random())
  assert len(left) == 1


def test_augment_does_not_change_its_input():
  sample, _ = with_holes(render_plane())
  copy = {k: v.copy() for k, v in sample.items()}
  for array in sample.values():
    array.flags.writeable = False  # as a source may give it out
  for seed in range(12):
    for array in run(sample, seed).values():
      if array.flags.writeable:
        array += 1
  assert_equal(sample, copy)


def test_flips_scales_and_corners_have_the_documented_distribution():
  scales = (1.0, 1.2, 1.5)
  sample = render_plane()
  # Bilinear interpolation of a ramp of coordinates is exact.
  y, x = np.mgrid[:H, :W].astype(np.float32)
  sample['image'] = np.stack([y, x, x], axis=-1)
  mirrored, drawn, corners = [], [], []
  draws = 600
  for seed in range(draws):
    image = run(sample, seed, scales)['image'].astype(float)
    a, b = image[H // 2, W // 2, :2], image[H // 2 + 1, W // 2 + 1, :2]
    step = b - a
    mirrored.append(step[1] < 0)
    scale = 1 / step[0]
    drawn.append(scale)
    assert abs(step[1]) == pytest.approx(step[0], abs=1e-4)
    column = W - 1 - W // 2 if mirrored[-1] else W // 2
    corner = a + 0.5 - (np.array([H // 2, column]) + 0.5) / scale
    corners.append(corner / (H, W))
  drawn, corners = np.array(drawn), np.array(corners)
  # Four standard deviations of a fair coin and of a fair draw of three.
  assert abs(np.mean(mirrored) - 1 / 2) < 4 * (1 / 4 / draws) ** 0.5
  for scale in scales:
    here = np.abs(drawn - scale) < 1e-3
    assert abs(here.mean() - 1 / 3) < 4 * (2 / 9 / draws) ** 0.5
    room = 1 - 1 / scale
    assert (corners[here] > -1e-4).all()
    assert (corners[here] < room + 1e-4).all()
    # They cover the whole range in both directions, independently.
    assert (corners[here].min(0) <= 0.05 * room + 1e-4).all()
    assert (corners[here].max(0) >= 0.95 * room - 1e-4).all()
    if scale > 1:
      assert abs(np.corrcoef(corners[here].T)[0, 1]) < 0.3


def test_without_flip_nothing_is_mirrored():
  sample = render_plane()
  for seed in range(20):
    rng = np.random.default_rng(seed)
    changed = augment(sample, rng, labels=LABELS, scales=(1.5,), flip=False)
    np.testing.assert_array_equal(changed['normals'], sample['normals'])


def run(sample, seed, scales=(1.0, 1.2, 1.5)):
  rng = np.random.default_rng(seed)
  return augment(sample, rng, labels=LABELS, scales=scales, flip=True)


def assert_equal(actual, expected):
  assert actual.keys() == expected.keys()
  for key, array in actual.items():
    np.testing.assert_array_equal(array, expected[key], err_msg=key)
    assert array.dtype == expected[key].dtype
