"""Pictures of any size in, predictions of that size out, in full batches."""

import itertools

from fixtures.predictors import TASKS, FakePredictor, outputs, random_picture
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.prediction import PredictsPictures
from mtl_kd_jax.prediction.outputs import finish_at
from mtl_kd_jax.prediction.sizing import tile_starts
from mtl_kd_jax.tasks import make_tasks


class Fake(PredictsPictures):
  def __init__(self, **options):
    self._predictor = FakePredictor(**options)

  @property
  def predictor(self):
    return self._predictor

  @property
  def shapes(self):
    return self._predictor.shapes


# ---- Sizes -------------------------------------------------------------------


def test_by_default_the_network_sees_the_size_of_training():
  network = Fake()
  prediction = network.predict(random_picture(20, 30))
  assert network.shapes == [(1, 8, 12, 3)]
  assert {t: x.shape for t, x in prediction.items()} == {
    'semantic': (20, 30),
    'depth': (20, 30),
    'normals': (20, 30, 3),
  }
  np.testing.assert_array_equal(prediction.image, random_picture(20, 30))


def test_a_kept_size_is_padded_to_the_stride_and_cut_again():
  network, picture = Fake(), random_picture(9, 14)
  prediction = network.predict(picture, resize='keep')
  assert network.shapes == [(1, 12, 16, 3)]
  padded = np.pad(picture, ((0, 3), (0, 2), (0, 0)), mode='edge') / 255
  expected = outputs(padded[None].astype(np.float32))
  np.testing.assert_allclose(
    prediction.depth, expected['depth'][0, :9, :14, 0], rtol=1e-6
  )
  np.testing.assert_array_equal(
    prediction.semantic, expected['semantic'][0, :9, :14].argmax(-1)
  )


def test_a_given_size_is_what_the_network_sees():
  network = Fake()
  assert network.predict(
    random_picture(9, 14), resize=(16, 20)
  ).depth.shape == (
    9,
    14,
  )
  assert network.shapes == [(1, 16, 20, 3)]


@pytest.mark.parametrize('size', [(5, 7), (13, 40), (24, 36)])
def test_outputs_are_resized_as_in_training_where_they_grow(size):
  """Against `ops.resize`, which the network's own resizing uses."""
  rng = np.random.default_rng(1)
  for name, task in TASKS.items():
    x = rng.normal(size=(5, 7, task.channels)).astype(np.float32)
    resized = np.asarray(resize_bilinear(x[None], size)[0])
    expected = {
      'semantic': resized.argmax(-1),
      'depth': resized[..., 0],
      'normals': resized / np.linalg.norm(resized, axis=-1, keepdims=True),
    }[name]
    np.testing.assert_allclose(finish_at(task, x, size), expected, atol=2e-6)


def test_vectors_are_in_pixels_of_the_picture():
  (task,) = make_tasks(
    ('flow',), {'flow': Label('vector', unit='px')}, dataset='fake'
  ).values()
  x = np.broadcast_to(np.float32([3, -2]), (5, 7, 2))
  found = finish_at(task, x, (15, 14))  # three times as high, twice as wide
  np.testing.assert_allclose(found, np.broadcast_to([6, -6], (15, 14, 2)))
  np.testing.assert_array_equal(finish_at(task, x, (5, 7)), x)


# ---- Tiles -------------------------------------------------------------------


@pytest.mark.parametrize('tile', [4, 8, 32])
def test_tiles_cover_a_side_and_overlap(tile):
  for length in (*range(1, 40), 100, 1000):
    starts = tile_starts(length, tile)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    for one, following in itertools.pairwise(starts):
      assert one < following <= one + 0.75 * tile + 0.5


@pytest.mark.parametrize('size', [(8, 12), (7, 9)])
def test_a_picture_of_one_tile_is_as_without_tiles(size):
  network, picture = Fake(), random_picture(*size)
  tiled = network.predict(picture, tile=(8, 12))
  whole = network.predict(picture, resize='keep')
  for task in TASKS:
    np.testing.assert_array_equal(tiled[task], whole[task])
  assert network.shapes == [(1, 8, 12, 3)] * 2


def test_tiles_are_blended_smoothly():
  """Against a loop over pixels and tiles in float64."""
  network, picture = Fake(), random_picture(19, 26)
  prediction = network.predict(picture, tile=(8, 12), batch_size=4)
  assert set(network.shapes) == {(4, 8, 12, 3)}
  colors = picture.astype(np.float32) / np.float32(255)
  tops, lefts = [0, 6, 11], [0, 7, 14]  # that overlap by a quarter or more
  weight = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (8, 12)]
  for task, key in (('depth', 0), ('normals', slice(None))):
    for y, x in [(0, 0), (7, 8), (9, 13), (12, 20), (18, 25), (11, 14)]:
      total, weights = 0, 0
      for top in tops:
        for left in lefts:
          if 0 <= y - top < 8 and 0 <= x - left < 12:
            seen = colors[None, top : top + 8, left : left + 12]
            w = weight[0][y - top] * weight[1][x - left]
            total = total + w * outputs(seen)[task][0, y - top, x - left]
            weights += w
      expected = total / weights
      if task == 'normals':
        expected = expected / np.linalg.norm(expected)
      np.testing.assert_allclose(
        prediction[task][y, x], expected[key], rtol=1e-5, atol=1e-6
      )


def test_what_is_predicted_alike_in_all_tiles_is_as_without():
  """Blending changes nothing where tiles agree; classes are of each pixel."""
  network, picture = Fake(), random_picture(40, 52)
  tiled = network.predict(picture, tile=(8, 12))
  whole = network.predict(picture, resize='keep')
  np.testing.assert_array_equal(tiled.semantic, whole.semantic)
  np.testing.assert_allclose(tiled.normals, whole.normals, atol=1e-5)


@pytest.mark.parametrize(
  'options, stride, argument, found',
  [
    ({'tile': 6}, 4, 'tile', '6 x 6'),
    ({'tile': 0}, 4, 'tile', '0'),
    ({'tile': (8, -4)}, 4, 'tile', '-4'),
    ({'tile': True}, 4, 'tile', 'True'),
    ({'tile': '8x8'}, 4, 'tile', '8x8'),
    ({'tile': 8.0}, 4, 'tile', '8.0'),
    ({'tile': 8}, None, 'tile', '8 x 8'),
    ({'resize': (9, 12)}, 4, 'resize', '9 x 12'),
    ({'resize': (8, 12, 3)}, 4, 'resize', '(8, 12, 3)'),
    ({'resize': 'large'}, 4, 'resize', 'large'),
    ({'resize': 8}, 4, 'resize', '8'),
    ({'resize': 'keep'}, None, 'resize', 'other sizes'),
    ({'white': 0}, 4, 'white', '0'),
    ({'white': '255'}, 4, 'white', '255'),
    ({'white': float('nan')}, 4, 'white', 'nan'),
    ({'batch_size': 0}, 4, 'batch_size', '0'),
    ({'batch_size': 1.5}, 4, 'batch_size', '1.5'),
  ],
  ids=str,
)
def test_sizes_that_cannot_be_are_refused(options, stride, argument, found):
  network = Fake(stride=stride)
  with pytest.raises(InputError) as error:
    network.predict(random_picture(9, 9), **options)
  assert error.value.argument == argument and found in error.value.found
  assert not network.shapes


# ---- Several pictures --------------------------------------------------------


def test_several_pictures_are_seen_in_batches_of_one_shape(tmp_path):
  network = Fake()
  arrays = [random_picture(9 + i, 14, seed=i) for i in range(5)]
  Image.fromarray(arrays[1]).save(tmp_path / 'b.png')
  given = [
    arrays[0],
    tmp_path / 'b.png',
    str(tmp_path / 'b.png'),
    Image.fromarray(arrays[3]),
    arrays[4] / 255,
  ]
  predictions = network.predict(given, batch_size=2)
  assert len(predictions) == 5 and not network.shapes  # nothing was computed
  found = list(predictions)
  assert network.shapes == [(2, 8, 12, 3)] * 3
  alone = [Fake().predict(arrays[i]) for i in (0, 1, 1, 3, 4)]
  for one, other in zip(found, alone, strict=True):
    np.testing.assert_allclose(one.depth, other.depth, atol=1e-5)
  assert [p.path for p in found] == [
    None,
    *[tmp_path / 'b.png'] * 2,
    None,
    None,
  ]
  np.testing.assert_allclose(predictions[3].depth, alone[3].depth, atol=1e-5)
  assert len(predictions[1:3]) == 2
  assert [len(p) for p in Fake().predict([])] == []


def test_kept_sizes_are_batched_where_they_are_the_same():
  network = Fake()
  sizes = [(8, 8), (7, 6), (12, 8), (8, 8)]
  pictures = [random_picture(*size) for size in sizes]
  found = list(network.predict(pictures, resize='keep', batch_size=3))
  assert [p.depth.shape for p in found] == sizes
  assert network.shapes == [(3, 8, 8, 3), (3, 12, 8, 3), (3, 8, 8, 3)]


def test_a_folder_is_the_pictures_in_it(tmp_path):
  for name in ('b.png', 'a.JPG', '.hidden.png', 'notes.txt'):
    with open(tmp_path / name, 'wb') as file:
      Image.fromarray(random_picture(9, 14)).save(file, 'PNG')
  (tmp_path / 'folder.png').mkdir()
  predictions = Fake().predict(tmp_path)
  assert [p.path.name for p in predictions] == ['a.JPG', 'b.png']
  assert len(Fake().predict([str(tmp_path), random_picture(9, 9)])) == 3
  with pytest.raises(InputError) as error:
    Fake().predict(tmp_path / 'folder.png')
  assert error.value.found == 'nothing'


@pytest.mark.parametrize(
  'several, found',
  [
    ([[1], [1, 2]], 'a list in it'),
    ([None], 'object []'),
    (['nowhere.png'], 'no such file'),
  ],
)
def test_a_list_with_what_is_no_picture_is_refused(several, found):
  with pytest.raises(InputError) as error:
    list(Fake().predict(several))
  assert found in error.value.found
