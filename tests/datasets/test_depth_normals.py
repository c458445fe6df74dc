"""Normals from depth against planes, steps, holes and the rendered rooms."""

import numpy as np
import pytest

from mtl_kd_jax.datasets.nyuv2.depth_normals import Camera, normals_from_depth
from mtl_kd_jax.datasets.resize import nearest
from mtl_kd_jax.datasets.scenes import dataset as scenes
from mtl_kd_jax.datasets.scenes import rooms

SIZE = (40, 56)
CAMERA = Camera(fx=50, fy=54, cx=25.5, cy=22)
WINDOW = 7
REACH = WINDOW // 2


def plane(normal, offset, *, camera=CAMERA, size=SIZE):
  """Depth of the plane n . P = offset along z [h w]."""
  y, x = np.mgrid[: size[0], : size[1]].astype(float)
  ray = [(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1]
  facing = sum(n * r for n, r in zip(normal, ray, strict=True))
  return (offset / np.where(facing, facing, 1e-9)).astype(np.float32)


def unit(vector):
  vector = np.asarray(vector, float)
  return vector / np.linalg.norm(vector)


def fit(depth, **options):
  return normals_from_depth(depth, CAMERA, window=WINDOW, **options)


def angle(normals, expected):
  """Degrees [...]; exact also where it is small."""
  sine = np.linalg.norm(np.cross(normals.astype(float), expected), axis=-1)
  return np.degrees(np.arctan2(sine, normals.astype(float) @ expected))


def is_given(normals):
  return normals.any(axis=-1)


# Toward the camera; x right, y down, z ahead.
PLANES = {
  'wall ahead': (0, 0, -1),
  'floor': (0, -1, 0.0),
  'ceiling': (0, 1, 0.0),
  'wall on the left': (1, 0, -0.2),
  'slanted': (-0.36, 0.48, -0.8),
}


@pytest.mark.parametrize('name', PLANES)
def test_a_plane_has_its_normal(name):
  normal = unit(PLANES[name])
  depth = plane(normal, -2)
  seen = (depth > 0) & (depth < 30)  # a floor is not above the horizon
  normals = fit(np.where(seen, depth, 0))
  assert normals.dtype == np.float32 and normals.shape == (*SIZE, 3)
  given = is_given(normals)
  assert given.sum() > 0.25 * given.size
  assert angle(normals, normal)[given].max() < 0.01
  length = np.linalg.norm(normals[given].astype(float), axis=-1)
  np.testing.assert_allclose(length, 1, atol=1e-6)


def test_all_of_a_wall_has_normals_up_to_the_corners():
  given = is_given(fit(plane((0, 0, -1), -3)))
  assert given[REACH:-REACH, 1:-1].all() and given[1:-1, REACH:-REACH].all()
  assert not given[0, 0]  # a quarter of its window lies in the picture


def test_normals_face_the_camera_for_any_depth():
  rng = np.random.default_rng(0)
  depth = 3 + 0.02 * np.cumsum(rng.normal(size=SIZE), axis=1)
  normals = fit(depth).astype(float)
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  ray = np.stack(
    [(x - CAMERA.cx) / CAMERA.fx, (y - CAMERA.cy) / CAMERA.fy, 1 + 0 * x], -1
  )
  given = is_given(normals)
  assert given.any()
  assert ((normals * ray).sum(-1)[given] < 0).all()


def test_the_unit_of_depth_does_not_matter():
  depth = plane(unit((0.3, 0.1, -1)), -2)
  depth[10:13, 20:24] = 0
  np.testing.assert_allclose(fit(depth * 1000), fit(depth), atol=1e-5)


def test_missing_depth_has_no_normal_and_does_not_affect_its_neighbors():
  normal = unit((-0.3, 0.5, -0.8))
  depth = plane(normal, -2)
  rng = np.random.default_rng(1)
  missing = rng.random(SIZE) < 0.2
  missing[5:9, 5:9] = True
  depth[missing] = 0
  normals = fit(depth)
  given = is_given(normals)
  assert not given[missing].any()
  assert given.sum() > 0.6 * given.size
  assert angle(normals, normal)[given].max() < 0.02


def test_few_valid_neighbors_are_not_enough():
  whole = plane((0, 0, -1), -2)
  depth = np.zeros_like(whole)
  depth[20, 10:30] = whole[20, 10:30]  # a line
  depth[5:9, 5:9] = whole[5:9, 5:9]  # a third of a window
  depth[30:37, 40:47] = whole[30:37, 40:47]  # one whole window
  given = is_given(fit(depth))
  assert not given[:28].any()
  assert given[33, 43]


def test_normals_are_missing_at_outlines_and_exact_beside_them():
  left, right = unit((0.2, 0, -1)), unit((-0.3, 0.4, -1))
  depth = np.where(np.arange(SIZE[1]) < 30, plane(left, -1.5), plane(right, -3))
  normals = fit(depth.astype(np.float32))
  given = is_given(normals)
  # Windows that reach over column 30, on either side.
  assert not given[:, 30 - REACH : 30 + REACH].any()
  inner = slice(REACH, -REACH)
  assert given[inner, REACH : 28 - REACH].all()
  assert given[inner, 32 + REACH : -REACH].all()
  assert angle(normals[:, :30], left)[given[:, :30]].max() < 0.01
  assert angle(normals[:, 30:], right)[given[:, 30:]].max() < 0.01


def test_noise_has_no_normals():
  depth = plane((0, 0, -1), -2)
  depth[::2] *= 1.03  # below the step of an outline
  assert not is_given(fit(depth)).any()
  depth = plane((0, 0, -1), -2)
  depth[::2] *= 1.003
  assert is_given(fit(depth)).any()


def test_a_smaller_size_selects_the_same_pixels_as_labels():
  depth = plane(unit((-0.3, 0.5, -0.8)), -2)
  depth[8:12, 30:40] = 0
  small = fit(depth, size=(15, 20))
  np.testing.assert_array_equal(small, nearest(fit(depth), (15, 20)))


def test_a_cropped_camera_gives_the_same_normals():
  depth = plane(unit((-0.3, 0.5, -0.8)), -2)
  part = normals_from_depth(
    depth[6:30, 9:44], CAMERA.cropped(6, 9), window=WINDOW
  )
  inner = slice(REACH, -REACH)
  np.testing.assert_allclose(
    part[inner, inner], fit(depth)[6:30, 9:44][inner, inner], atol=1e-6
  )


def test_the_axes_are_those_of_the_rendered_rooms():
  size = (96, 128)
  seeds = np.random.SeedSequence(0, spawn_key=(0, 3))
  spread = rooms.draw_room(np.random.default_rng(seeds)).camera.spread
  focal = size[1] / 2 / spread
  camera = Camera(focal, focal, (size[1] - 1) / 2, (size[0] - 1) / 2)
  scene = scenes.render(0, 'train', 3, size)
  normals = normals_from_depth(scene['depth'][..., 0], camera, window=5)
  both = is_given(normals) & is_given(scene['normals'])
  assert both.mean() > 0.5
  cosine = (normals * scene['normals'])[both].sum(-1)
  assert np.median(cosine) > np.cos(np.radians(1))
  assert (cosine > np.cos(np.radians(20))).mean() > 0.9
