"""Every task of the registry keeps the contract; metrics against NumPy."""

import functools
from typing import NamedTuple

from fixtures.kinds import (
  SIZE,
  make_described,
  make_kind,
  missing_label,
  perfect_prediction,
  random_label,
  random_prediction,
  unlabeled_part,
)
from fixtures.samples import LABELS
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks import KINDS, make_tasks
from mtl_kd_jax.tasks.base import masked_mean, merge

GRAY = 90
MAPS = [k for k in KINDS if make_kind(k).label.is_map]


@pytest.fixture(params=KINDS)
def task(request):
  return make_kind(request.param)


class Score(NamedTuple):
  losses: jax.Array
  loss: jax.Array
  gradient: jax.Array
  statistics: dict


@functools.cache
def compile_score(name):
  # One program for all: compiling takes most of the time of these tests.
  task = make_kind(name)

  def run(prediction, label):
    def mean(prediction):
      losses = task.loss(prediction, label)
      return masked_mean(losses, task.valid(label)), losses

    grad = jax.value_and_grad(mean, has_aux=True)
    (loss, losses), gradient = grad(prediction)
    statistics = task.statistics(prediction, label, task.valid(label))
    return Score(losses, loss, gradient, statistics)

  return jax.jit(run)


def score(task, prediction, label):
  return compile_score(task.name)(prediction, label)


def metrics_of(task, prediction, label):
  return task.metrics(score(task, prediction, label).statistics)


def make_unlabeled(task):
  """Labels, predictions, and other predictions where there is no label."""
  label = random_label(task)
  prediction = random_prediction(task)
  unlabeled = unlabeled_part(task, prediction, task.valid(label))
  assert 0 < unlabeled.sum() < unlabeled.size
  other = np.where(
    unlabeled, 100 * random_prediction(task, seed=101), prediction
  )
  return label, prediction, other


def test_columns_name_the_metrics_in_their_order(task):
  metrics = metrics_of(task, random_prediction(task), random_label(task))
  assert list(metrics) == list(task.columns)
  assert all(type(value) is float for value in metrics.values())
  assert task.headline in task.columns
  assert task.columns[task.headline].in_gain
  headline = task.columns[task.headline]
  assert task.higher_is_better == headline.higher_is_better


def test_missing_pixels_of_a_label_are_not_valid(task):
  valid = task.valid(jnp.asarray(missing_label(task)))
  assert valid.dtype == bool
  assert len(valid) == 4
  assert not valid.any()


def test_the_loss_is_finite_and_one_number_per_label(task):
  label, prediction, other = make_unlabeled(task)
  for values in (prediction, other, 1e4 * prediction, 0 * prediction):
    losses = score(task, values, label).losses
    assert losses.dtype == jnp.float32
    assert losses.shape == task.valid(label).shape
    assert jnp.isfinite(losses).all()


def test_unlabeled_pixels_change_neither_loss_nor_metrics(task):
  label, prediction, other = make_unlabeled(task)
  assert (prediction != other).any()
  one, two = score(task, prediction, label), score(task, other, label)
  assert one.loss == two.loss
  np.testing.assert_equal(
    task.metrics(one.statistics), task.metrics(two.statistics)
  )


def test_unlabeled_samples_change_neither_loss_nor_metrics(task):
  label, prediction = random_label(task, 2), random_prediction(task)
  shorter = score(task, prediction[:2], label)
  longer = score(
    task, prediction, np.concatenate([label, missing_label(task, 2)])
  )
  np.testing.assert_allclose(longer.loss, shorter.loss, rtol=1e-6)
  assert task.metrics(longer.statistics) == pytest.approx(
    task.metrics(shorter.statistics), rel=1e-5, nan_ok=True
  )


@pytest.mark.parametrize('scale', [0, 1, 1e4])
def test_gradients_are_finite_and_zero_at_unlabeled_pixels(task, scale):
  label, prediction, _ = make_unlabeled(task)
  gradient = score(task, np.float32(scale) * prediction, label).gradient
  gradient = np.asarray(gradient)
  unlabeled = unlabeled_part(task, prediction, task.valid(label))
  assert np.isfinite(gradient).all()
  assert not gradient[unlabeled].any()
  assert gradient[~unlabeled].any()


@pytest.mark.parametrize('name', ['depth', 'normals'])
def test_nan_is_a_missing_label(name):
  task = make_kind(name)
  label, prediction, _ = make_unlabeled(task)
  unlabeled = ~np.asarray(task.valid(label))
  broken = label.copy()
  broken[unlabeled, -1] = np.nan  # of a normal, one component is enough
  np.testing.assert_array_equal(task.valid(broken), ~unlabeled)
  got, expected = (score(task, prediction, x) for x in (broken, label))
  jax.tree.map(np.testing.assert_array_equal, got, expected)
  assert np.isfinite(got.losses).all()
  assert np.isfinite(got.gradient).all()
  np.testing.assert_array_equal(
    task.render(broken[0], broken[0]), task.render(label[0], label[0])
  )


def test_an_unlabeled_batch_has_loss_0_and_no_metric(task):
  result = score(task, random_prediction(task), missing_label(task))
  assert result.loss == 0
  assert not result.gradient.any()
  metrics = task.metrics(result.statistics)
  assert metrics and all(np.isnan(value) for value in metrics.values())


def test_statistics_of_halves_add_up_to_those_of_the_whole(task):
  label, prediction = random_label(task), random_prediction(task)
  halves = [
    score(task, prediction[part], label[part]).statistics
    for part in (slice(0, 2), slice(2, 4))
  ]
  whole = score(task, prediction, label).statistics
  merged = merge(*halves)
  assert set(merged) == set(whole)
  for name, value in whole.items():
    np.testing.assert_allclose(merged[name], value, rtol=1e-6, err_msg=name)


def test_statistics_of_many_batches_neither_overflow_nor_get_lost(task):
  statistics = score(
    task, random_prediction(task), random_label(task)
  ).statistics
  # More than int32 counts, and so much that float32 would lose a batch in it.
  much = {k: 2.0**28 * np.asarray(x, np.float64) for k, x in statistics.items()}
  much = {
    k: x if statistics[k].dtype == np.float32 else x.astype(np.int64)
    for k, x in much.items()
  }
  merged = merge(merge(much, statistics), statistics)
  for name, value in statistics.items():
    added = merged[name] - much[name]
    np.testing.assert_allclose(added, 2 * value, rtol=1e-5, err_msg=name)


def test_perfect_predictions_reach_the_ideal(task):
  label = random_label(task)
  metrics = metrics_of(task, perfect_prediction(task, label), label)
  for name, column in task.columns.items():
    ideal = 100 if column.higher_is_better else 0
    # The median is read from a histogram with bins of 0.05 degree.
    tolerance = 0.1 if name == 'median_angle' else 1e-4
    assert metrics[name] == pytest.approx(ideal, abs=tolerance), name
  assert score(task, perfect_prediction(task, label), label).loss < 1e-6


def test_low_precision_predictions_are_scored_in_float32(task):
  label = random_label(task)
  low = jnp.asarray(random_prediction(task), jnp.bfloat16)
  exact = np.asarray(low.astype(jnp.float32))
  low, exact = score(task, low, label), score(task, exact, label)
  assert low.losses.dtype == jnp.float32
  np.testing.assert_allclose(low.loss, exact.loss, rtol=1e-6)
  assert task.metrics(low.statistics) == pytest.approx(
    task.metrics(exact.statistics), rel=1e-6, nan_ok=True
  )


@pytest.mark.parametrize('kind', MAPS)
def test_pictures_are_rgb_and_gray_where_unlabeled(kind):
  task = make_kind(kind)
  label = random_label(task)[0]
  valid = task.label.known(label)
  picture = task.render(label, label)
  assert picture.dtype == np.uint8
  assert picture.shape == (*SIZE, 3)
  gray = (picture == GRAY).all(axis=-1)
  np.testing.assert_array_equal(gray, ~valid)
  prediction = task.form.keep(random_prediction(task))[0]
  predicted = task.render(prediction, label)
  assert predicted.dtype == np.uint8
  assert predicted.shape == (*SIZE, 3)
  assert not (predicted == GRAY).all(axis=-1).any()


@pytest.mark.parametrize('kind', MAPS)
def test_an_unlabeled_picture_is_gray(kind):
  task = make_kind(kind)
  missing = missing_label(task)[0]
  assert (task.render(missing, missing) == GRAY).all()
  # A prediction still has a picture, although no label gives the scale.
  kept = task.form.keep(random_prediction(task))[0]
  assert task.render(kept, missing).std() > 0


@pytest.mark.parametrize('kind', MAPS)
def test_a_right_prediction_looks_like_its_label(kind):
  task = make_kind(kind)
  label = random_label(task)[0]
  valid = task.label.known(label)
  prediction = task.form.keep(perfect_prediction(task, label))
  np.testing.assert_array_equal(
    task.render(prediction, label)[valid], task.render(label, label)[valid]
  )


def test_what_is_near_is_dark_whether_depth_or_disparity_is_drawn():
  ramp = np.linspace(1, 3, 48, dtype=np.float32).reshape(*SIZE, 1)
  depth = make_described('depth', unit='m').render(ramp, ramp)
  disparity = make_described('disparity', unit='px').render(ramp, ramp)
  assert depth[0, 0].sum() < depth[-1, -1].sum()
  np.testing.assert_allclose(disparity, depth[::-1, ::-1], atol=1)


def test_depth_that_has_no_label_has_a_scale_of_its_own():
  ramp = np.linspace(1, 3, 48, dtype=np.float32).reshape(*SIZE, 1)
  render = make_described('depth', unit='m').render
  np.testing.assert_array_equal(
    render(ramp, np.zeros_like(ramp)), render(ramp, ramp)
  )


def test_what_users_get_can_be_finished_again(task):
  # Programs that are exported give it, and it is resized after them.
  finished = np.asarray(task.form.finish(random_prediction(task)))
  if task.form.unfinish is not None:
    raw = task.form.unfinish(finished, SIZE)
  else:
    raw = finished[..., None] if finished.ndim == 3 else finished
  assert raw.shape == random_prediction(task).shape
  np.testing.assert_allclose(
    task.form.finish(raw), finished, rtol=1e-4, atol=1e-6
  )
  kept = task.form.keep(random_prediction(task))
  assert task.form.restore(kept).shape == raw.shape


# ---- Semantic segmentation --------------------------------------------------


def make_classes():
  """Class 3 occurs nowhere, class 2 only in the predictions."""
  rng = np.random.default_rng(0)
  label = rng.integers(-1, 2, (4, *SIZE)).astype(np.int32)
  prediction = rng.normal(size=(4, *SIZE, 4)).astype(np.float32)
  prediction[..., 3] = -10
  return prediction, label


def test_semantic_metrics_are_those_of_brute_force():
  task = make_kind('classes')
  prediction, label = make_classes()
  predicted, known = prediction.argmax(-1), label >= 0
  iou = []
  for c in range(4):
    in_label = known & (label == c)
    in_prediction = known & (predicted == c)
    union = (in_label | in_prediction).sum()
    if union:
      iou.append((in_label & in_prediction).sum() / union)
  assert len(iou) == 3
  assert iou[2] == 0
  metrics = metrics_of(task, prediction, label)
  for name in ('boundary_f1', 'ece'):  # tests/tasks/test_metrics.py
    del metrics[name]
  assert metrics == pytest.approx(
    {
      'miou': 100 * np.mean(iou),
      'pixel_accuracy': 100 * (predicted == label)[known].mean(),
      'mean_accuracy': 100
      * np.mean([(predicted == c)[label == c].mean() for c in range(2)]),
      **{f'iou/{c}': 100 * x for c, x in zip('abc', iou, strict=True)},
      'iou/d': np.nan,
    },
    nan_ok=True,
  )


def test_miou_is_that_of_the_split_and_no_mean_over_batches():
  task = make_kind('classes')
  prediction, label = make_classes()
  label[2:] = np.where(label[2:] == 1, -1, label[2:])  # unlike the first half
  halves = [
    score(task, prediction[part], label[part]).statistics
    for part in (slice(0, 2), slice(2, 4))
  ]
  whole = metrics_of(task, prediction, label)
  assert task.metrics(merge(*halves)) == pytest.approx(whole, nan_ok=True)
  mean = np.mean([task.metrics(half)['miou'] for half in halves])
  assert abs(mean - whole['miou']) > 0.1


def test_semantic_loss_is_cross_entropy():
  task = make_kind('classes')
  prediction, label = make_classes()
  logits = prediction.astype(np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  known = label >= 0
  expected = -np.take_along_axis(log_p[known], label[known][:, None], 1).mean()
  np.testing.assert_allclose(
    score(task, prediction, label).loss, expected, rtol=1e-5
  )


# ---- Depth ------------------------------------------------------------------


def test_depth_loss_and_metrics_are_those_of_brute_force():
  task = make_kind('depth')
  prediction, label = random_prediction(task), random_label(task)
  known = label > 0
  y = label[known].astype(np.float64)
  p = prediction[known].astype(np.float64)
  error = np.abs(p - y)
  p = np.maximum(p, 1e-3)
  ratio, log = np.maximum(p / y, y / p), np.log(p) - np.log(y)
  assert metrics_of(task, prediction, label) == pytest.approx(
    {
      'abs_error': error.mean(),
      'rel_error': (error / y).mean(),
      'rmse': np.sqrt((error**2).mean()),
      **{f'delta_{n}': 100 * (ratio < 1.25**n).mean() for n in (1, 2, 3)},
      'si_log': 100 * log.std(),
    },
    rel=1e-5,
  )
  np.testing.assert_allclose(
    score(task, prediction, label).loss, error.mean(), rtol=1e-5
  )


def test_depth_errors_have_the_unit_of_the_label():
  task = make_described('depth', unit='ft')
  units = {name: column.unit for name, column in task.columns.items()}
  for name in ('abs_error', 'rmse'):
    assert units.pop(name) == 'ft'
  assert set(units.values()) == {'', '%'}


# ---- Surface normals --------------------------------------------------------


def rotated_normals(angles):
  """Predictions of any length, `angles` degrees off their labels.

  The rest of the batch is unlabeled.
  """
  rng = np.random.default_rng(0)
  n = len(angles)
  normal, side = rng.normal(size=(2, n, 3))
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  side = np.cross(normal, side)
  side /= np.linalg.norm(side, axis=-1, keepdims=True)
  angles = np.radians(angles)[:, None]
  label, prediction = np.zeros((2, 4 * SIZE[0] * SIZE[1], 3), np.float32)
  label[:n] = normal
  prediction[:n] = np.cos(angles) * normal + np.sin(angles) * side
  prediction *= rng.uniform(0.1, 10, (len(prediction), 1)).astype(np.float32)
  return prediction.reshape(4, *SIZE, 3), label.reshape(4, *SIZE, 3)


def test_normals_loss_and_metrics_are_those_of_brute_force():
  task = make_kind('normals')
  prediction, label = random_prediction(task), random_label(task)
  known = (label != 0).any(-1)
  p, y = prediction[known].astype(np.float64), label[known].astype(np.float64)
  cosine = (p * y).sum(-1) / np.linalg.norm(p, axis=-1)
  angle = np.degrees(np.arccos(cosine))
  assert 1 < angle.min() < angle.max() < 179  # where arccos is exact
  metrics = metrics_of(task, prediction, label)
  median = metrics.pop('median_angle')
  assert median == pytest.approx(np.median(angle), abs=0.1)
  assert metrics == pytest.approx(
    {
      'mean_angle': angle.mean(),
      'within_11.25': 100 * (angle < 11.25).mean(),
      'within_22.5': 100 * (angle < 22.5).mean(),
      'within_30': 100 * (angle < 30).mean(),
    },
    rel=1e-5,
  )
  np.testing.assert_allclose(
    score(task, prediction, label).loss, (1 - cosine).mean(), rtol=1e-5
  )


@pytest.mark.parametrize(
  'angles',
  [
    [7.3],
    [1, 2, 90],
    [0.5, 3, 3.02, 179.99],
    [10, 20],  # the middle lies between two pixels far apart
    [5, 10, 40, 41],
    [0.01, 0.02, 0.03, 0.04, 50],  # lost by arccos in float32
    np.arange(0.35, 179, 1.1),
    [180, 180, 180],
  ],
  ids=lambda angles: '-'.join(f'{a:g}' for a in angles[:4]),
)
def test_mean_median_and_shares_of_known_angles(angles):
  task = make_kind('normals')
  metrics = metrics_of(task, *rotated_normals(angles))
  angles = np.asarray(angles)
  assert metrics['mean_angle'] == pytest.approx(angles.mean(), abs=1e-3)
  assert metrics['median_angle'] == pytest.approx(np.median(angles), abs=0.1)
  for limit in (11.25, 22.5, 30):
    share = 100 * (angles < limit).mean()
    assert metrics[f'within_{limit:g}'] == pytest.approx(share), limit


def test_small_angles_are_not_lost():
  task = make_kind('normals')
  metrics = metrics_of(task, *rotated_normals([1e-3] * 20))
  assert metrics['mean_angle'] == pytest.approx(1e-3, rel=0.05)


# ---- Choosing tasks ---------------------------------------------------------


def test_tasks_are_made_in_the_order_asked_for():
  names = list(reversed(LABELS))
  tasks = make_tasks(names, LABELS, dataset='toy')
  assert list(tasks) == names
  assert all(task.name == name for name, task in tasks.items())
  assert tasks['semantic'].channels == 4


@pytest.mark.parametrize(
  'names, found, advice',
  [
    ((), '()', 'name some of'),
    (('depth', 'depth'), 'depth', 'name some of'),
    (('depth', 'parts'), 'parts', "leave 'parts' out"),
    (('depth', 'semntic'), 'semntic', "did you mean 'semantic'?"),
    (('a/b',), 'a/b', 'another name'),
    (('semantic', 'normals'), 'normals', "leave 'normals' out"),
  ],
)
def test_tasks_that_cannot_be_are_refused_with_advice(names, found, advice):
  labels = {k: v for k, v in LABELS.items() if k != 'normals'}
  with pytest.raises(InputError) as error:
    make_tasks(names, labels, dataset='toy')
  assert found in error.value.found
  assert error.value.argument == 'names'
  assert advice in error.value.do
