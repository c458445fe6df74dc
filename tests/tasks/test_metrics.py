"""Losses of all kinds against float64 NumPy, and metrics against scikit-learn.

Semantic segmentation, depth and normals have theirs in test_tasks.py.
"""

from fixtures.kinds import (
  make_described,
  make_kind,
  random_label,
  random_prediction,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.tasks import KINDS, _scores, classes
from mtl_kd_jax.tasks._boundaries import boundary_counts, mean_f1
from mtl_kd_jax.tasks.base import masked_mean

metrics_of_sklearn = pytest.importorskip('sklearn.metrics')


# ---- Losses ------------------------------------------------------------------


def log_softmax(x, axis=-1):
  x = x - x.max(axis=axis, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def cross_entropy(p, y):
  known = y >= 0
  return -np.take_along_axis(log_softmax(p)[known], y[known][:, None], 1).mean()


def binary_cross_entropy(p, y):
  known = y >= 0
  probability = 1 / (1 + np.exp(-p))
  return -np.log(np.where(y > 0, probability, 1 - probability))[known].mean()


def balanced_cross_entropy(p, y):
  p, total, count = p[..., 0], 0, 0
  for one, label in zip(p, y, strict=True):
    known = label >= 0
    share = (label[known] > 0).mean()
    weight = 2 * np.where(label > 0, 1 - share, share)
    probability = 1 / (1 + np.exp(-one))
    losses = -np.log(np.where(label > 0, probability, 1 - probability))
    total += (weight * losses)[known].sum()
    count += known.sum()
  return total / count


def absolute(p, y):
  known = ~np.isnan(y).any(axis=-1) & (y != 0).any(axis=-1)
  return np.abs(p - y)[known].mean()


def endpoint(p, y):
  known = ~np.isnan(y).any(axis=-1)
  return np.sqrt(((p - y) ** 2).sum(-1))[known].mean()


def cosine(p, y):
  known = (y != 0).any(-1)
  p = p / np.linalg.norm(p, axis=-1, keepdims=True)
  return 1 - (p * y).sum(-1)[known].mean()


def divergence(p, y):
  b, h, w, c = p.shape
  rows, columns = np.mgrid[:h, :w]
  losses = []
  for i in range(b):
    for k in range(c):
      if not y[i, k, 2]:
        continue
      off = (columns - y[i, k, 0]) ** 2 + (rows - y[i, k, 1]) ** 2
      target = np.exp(-off / (2 * 2.0**2))
      target /= target.sum()
      scores = log_softmax(p[i, ..., k].ravel())
      losses.append((target.ravel() * (np.log(target.ravel()) - scores)).sum())
  return np.mean(losses)


REFERENCES = {
  'classes': cross_entropy,
  'binary': balanced_cross_entropy,
  'multilabel': binary_cross_entropy,
  'depth': absolute,
  'disparity': absolute,
  'regression': absolute,
  'normals': cosine,
  'vectors': endpoint,
  'heatmap': divergence,
  'image_classes': cross_entropy,
  'image_multilabel': binary_cross_entropy,
  'image_regression': absolute,
}


@pytest.mark.parametrize('kind', KINDS)
def test_loss_and_gradient_are_those_of_float64(kind):
  task = make_kind(kind)
  label, prediction = random_label(task), random_prediction(task)

  @jax.jit
  @jax.value_and_grad
  def loss(prediction):
    return masked_mean(task.loss(prediction, label), task.valid(label))

  value, gradient = loss(prediction)
  reference, exact = REFERENCES[kind], prediction.astype(np.float64)
  assert value == pytest.approx(reference(exact, label), rel=1e-5)
  rng = np.random.default_rng(0)
  for index in rng.choice(prediction.size, 8, replace=False):
    moved = []
    for step in (1e-5, -1e-5):
      other = exact.copy()
      other.flat[index] += step
      moved.append(reference(other, label))
    expected = (moved[0] - moved[1]) / 2e-5
    found = np.asarray(gradient).flat[index]
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-7)


def test_options_of_losses():
  def loss(kind, prediction, label, **options):
    task = make_described(kind, **options)
    return jax.jit(lambda p, y: masked_mean(task.loss(p, y), task.valid(y)))(
      prediction, label
    )

  y, p = jnp.zeros((1, 1, 3, 1)), jnp.array([0.5, 1, 3]).reshape(1, 1, 3, 1)
  one = {'channels': 1}
  assert loss('regression', p, y, loss='l1', **one) == pytest.approx(4.5 / 3)
  assert loss('regression', p, y, loss='l2', **one) == pytest.approx(10.25 / 3)
  huber = loss('regression', p, y, loss='huber', delta=1.0, **one)
  assert huber == pytest.approx((0.125 + 0.5 + 2.5) / 3)
  # Of four pixels, the hardest half.
  y = jnp.array([[[0, 1], [1, -1]]])
  p = jnp.log(jnp.array([0.9, 0.5, 0.2, 0.1]).reshape(1, 2, 2, 1))
  p = jnp.concatenate([p, jnp.log(1 - jnp.exp(p))], axis=-1)
  two = {'classes': ('a', 'b')}
  hard = loss('classes', p, y, ohem=0.5, **two)
  losses = -np.log([0.9, 0.5, 0.8])
  assert hard == pytest.approx(np.sort(losses)[-2:].mean(), rel=1e-5)
  weighted = loss('classes', p, y, weights=(1.0, 3.0), **two)
  assert weighted == pytest.approx((losses * [1, 3, 3]).mean(), rel=1e-5)


# ---- Metrics -----------------------------------------------------------------


def scores_in_bins(rng, shape):
  """Logits in the middle of a bin, so that histograms lose nothing."""
  return (rng.integers(-200, 200, shape) + 0.5).astype(np.float32) / 32


def metrics_of(task, prediction, label):
  statistics = jax.jit(task.statistics)(prediction, label, task.valid(label))
  return task.metrics(jax.device_get(statistics))


def test_binary_metrics_are_those_of_sklearn():
  task, rng = make_kind('binary'), np.random.default_rng(0)
  label = random_label(task, 8)
  prediction = scores_in_bins(rng, (*label.shape, 1)) + label[..., None]
  metrics = metrics_of(task, prediction, label)
  y, p = label[label >= 0], prediction[..., 0][label >= 0]
  sk = metrics_of_sklearn
  precision, recall, _ = sk.precision_recall_curve(y, p)
  f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
  assert metrics['average_precision'] == pytest.approx(
    100 * sk.average_precision_score(y, p)
  )
  assert metrics['f1'] == pytest.approx(100 * f1)
  best = max(np.unique(p), key=lambda t: sk.f1_score(y, p >= t))
  assert metrics['iou'] == pytest.approx(100 * sk.jaccard_score(y, p >= best))


def test_the_calibration_error_is_that_of_brute_force():
  rng = np.random.default_rng(1)
  logits = scores_in_bins(rng, (500, 1))
  label = (rng.random((500, 1)) < 0.4).astype(np.int32)
  counts = jax.jit(_scores.histogram)(logits, label, np.ones_like(label, bool))
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  bins = np.minimum((p * 15).astype(int), 14)
  expected = sum(
    (bins == i).mean() * abs(p[bins == i].mean() - label[bins == i].mean())
    for i in range(15)
    if (bins == i).any()
  )
  found = _scores.calibration_error(np.asarray(counts)[0])
  assert found == pytest.approx(expected, rel=1e-6)


def test_the_calibration_error_of_many_confident_pixels_is_that_of_float64():
  """They are all in one bin, whose float32 sum is large."""
  rng = np.random.default_rng(0)
  shape = (2, 512, 1024)
  p = rng.uniform(0.96, 0.999, shape)
  hit = rng.random(shape) < p
  logits = np.zeros((*shape, 2), np.float32)
  logits[..., 0] = np.log(p / (1 - p))
  counts = jax.jit(classes.calibration)(logits, 1 - hit, np.ones(shape, bool))
  found = classes.calibration_error(jax.device_get(counts))
  expected = abs((1 / (1 + np.exp(-logits[..., 0].astype(float))) - hit).mean())
  assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('kind', ['multilabel', 'image_multilabel'])
def test_metrics_of_several_labels_are_those_of_sklearn(kind):
  task, rng = make_kind(kind), np.random.default_rng(2)
  label = random_label(task, 24)
  prediction = scores_in_bins(rng, label.shape)
  metrics = metrics_of(task, prediction, label)
  known = [
    (label[..., i][label[..., i] >= 0], prediction[..., i][label[..., i] >= 0])
    for i in range(task.channels)
  ]
  sk = metrics_of_sklearn
  expected = [100 * sk.average_precision_score(y, p) for y, p in known]
  assert metrics['map'] == pytest.approx(np.mean(expected))
  for name, value in zip(task.label.classes, expected, strict=True):
    assert metrics[f'ap/{name}'] == pytest.approx(value)
  y, p = (np.concatenate(x) for x in zip(*known, strict=True))
  assert metrics['accuracy'] == pytest.approx(100 * ((p >= 0) == y).mean())


def test_metrics_of_classes_of_images_are_those_of_sklearn():
  names = tuple('abcdefg')
  task = make_described('image_classes', classes=names)
  label, prediction = random_label(task, 60), random_prediction(task, 60)
  metrics = metrics_of(task, prediction, label)
  known = label >= 0
  y, p = label[known], prediction[known]
  sk, found = metrics_of_sklearn, p.argmax(-1)
  ids = range(len(names))
  expected = {
    'accuracy': sk.accuracy_score(y, found),
    'mean_accuracy': sk.balanced_accuracy_score(y, found),
    'top_5': sk.top_k_accuracy_score(y, p, k=5, labels=ids),
    'f1': sk.f1_score(y, found, average='macro'),
  }
  probability = np.exp(log_softmax(p.astype(np.float64))).max(-1)
  bins = np.minimum((probability * 15).astype(int), 14)
  gaps = [abs((probability - (found == y))[bins == i].sum()) for i in range(15)]
  expected['ece'] = sum(gaps) / len(y)
  assert metrics == pytest.approx(
    {k: 100 * v for k, v in expected.items()}, rel=1e-5
  )


@pytest.mark.parametrize('kind', ['regression', 'image_regression'])
def test_metrics_of_numbers_are_those_of_sklearn(kind):
  task = make_kind(kind)
  label, prediction = random_label(task, 12), random_prediction(task, 12)
  known = ~np.isnan(label).any(-1)
  y, p = label[known], prediction[known]
  sk = metrics_of_sklearn
  assert metrics_of(task, prediction, label) == pytest.approx(
    {
      'abs_error': sk.mean_absolute_error(y, p),
      'rmse': np.sqrt(sk.mean_squared_error(y, p)),
      'r2': 100 * sk.r2_score(y, p),
    },
    rel=1e-4,
  )


def test_metrics_of_vectors_are_those_of_brute_force():
  task = make_kind('vectors')
  label, prediction = 4 * random_label(task), 6 * random_prediction(task)
  known = ~np.isnan(label).any(-1)
  y, p = (x[known].astype(np.float64) for x in (label, prediction))
  length = np.linalg.norm(p - y, axis=-1)
  one = np.ones((len(y), 1))
  p, q = np.hstack([p, one]), np.hstack([y, one])
  cosines = (p * q).sum(-1) / np.linalg.norm(p, axis=-1)
  angle = np.degrees(np.arccos(cosines / np.linalg.norm(q, axis=-1)))
  far = (length > 3) & (length > 0.05 * np.linalg.norm(y, axis=-1))
  assert 0 < far.mean() < 1
  assert metrics_of(task, prediction, label) == pytest.approx(
    {
      'endpoint_error': length.mean(),
      'outliers': 100 * far.mean(),
      'angle': angle.mean(),
    },
    rel=1e-5,
  )


@pytest.mark.parametrize('maps', [False, True])
def test_metrics_of_points_count_what_is_near(maps):
  task = make_described('heatmap', points=2, maps=maps, pairs=())
  # The first is found, the second is 2 pixels off in a picture of 20 x 10.
  points = np.array([[[3, 4, 1], [10, 5, 1]], [[0, 0, 0], [10, 5, 1]]], float)
  heat = np.zeros((2, 10, 20, 2), np.float32)
  prediction = heat.copy()
  for i, k in ((0, 0), (0, 1), (1, 1)):
    x, y, _ = points[i, k].astype(int)
    heat[i, y, x, k] = 1
    prediction[i, y, x + 2 * k, k] = 5
  if maps:
    heat[1, ..., 0] = -1
  label = heat if maps else points.astype(np.float32)
  assert metrics_of(task, prediction, label) == pytest.approx(
    {'pck_0.05': 100 / 3, 'pck_0.1': 100, 'distance': 4 / 3}
  )
  found = task.form.finish(prediction[0])
  np.testing.assert_array_equal(found[:, :2], [[3, 4], [12, 5]])


def border_pixels(ids, k):
  """(row, column) of the pixels of class k with another class beside them."""
  padded = np.pad(ids, 1, constant_values=-1)
  h, w = ids.shape
  found = np.zeros(ids.shape, bool)
  for r, c in ((0, 1), (2, 1), (1, 0), (1, 2)):
    other = padded[r : r + h, c : c + w]
    found |= (other >= 0) & (other != ids)
  return np.argwhere(found & (ids == k))


def brute_boundary_f1(predicted, label, classes, radius):
  """Compares all border pixels with all others."""
  f1 = []
  for k in range(classes):
    one, two = border_pixels(predicted, k), border_pixels(label, k)
    if not len(one) and not len(two):
      continue
    near = np.hypot(*(one[:, None] - two[None]).transpose(2, 0, 1)) <= radius
    precision = near.any(axis=1).mean() if len(one) else 0
    recall = near.any(axis=0).mean() if len(two) else 0
    total = precision + recall
    f1.append(2 * precision * recall / total if total else 0)
  return np.mean(f1)


@pytest.mark.parametrize('size, radius', [((24, 30), 1), ((160, 360), 2.95)])
def test_boundary_f1_is_that_of_brute_force(size, radius):
  rng = np.random.default_rng(3)
  coarse = rng.integers(0, 3, (2, 4, 5))
  blocks = coarse.repeat(-(-size[0] // 4), 1).repeat(-(-size[1] // 5), 2)
  label = blocks[:, : size[0], : size[1]].astype(np.int32)
  predicted = np.roll(label, (2, 3), (1, 2))
  label[:, :3] = predicted[:, :3] = -1
  count = jax.jit(lambda *ids: boundary_counts(*ids, 3))
  both = np.asarray(count(predicted, label))
  # One picture alone has the counts of both without those of the other.
  nothing = np.full_like(label[:1], -1)
  alone = [
    np.asarray(
      count(
        *(np.concatenate([x[i : i + 1], nothing]) for x in (predicted, label))
      )
    )
    for i in range(2)
  ]
  np.testing.assert_array_equal(both, alone[0] + alone[1])
  for p, y, found in zip(predicted, label, alone, strict=True):
    expected = brute_boundary_f1(p, y, 3, radius)
    assert 0 < expected < 1
    assert mean_f1(found) == pytest.approx(expected)
