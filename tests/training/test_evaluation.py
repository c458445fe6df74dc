"""Gains against published tables; a whole split, every sample once."""

import functools
import math

from fixtures.samples import LABELS
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.datasets.loader import eval_batches
from mtl_kd_jax.labels import Label
from mtl_kd_jax.models.network import Output
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.evaluation import GAINS, evaluate, relative_gains
from mtl_kd_jax.training.step import eval_step

NAMES = ('semantic', 'depth', 'normals')
CLASSES = tuple(f'class {i}' for i in range(13))
TASKS = make_tasks(
  NAMES, {**LABELS, 'semantic': Label('class', classes=CLASSES)}, dataset='nyu'
)


def make_metrics(
  miou, pixels, abs_error, rel_error, mean, median, *shares, rmse=1.0
):
  """One row of a table of NYUv2, in the order of the literature."""
  within = ('within_11.25', 'within_22.5', 'within_30')
  return {
    'semantic': {'miou': miou, 'pixel_accuracy': pixels},
    'depth': {'abs_error': abs_error, 'rel_error': rel_error, 'rmse': rmse},
    'normals': {
      'mean_angle': mean,
      'median_angle': median,
      **dict(zip(within, shares, strict=True)),
    },
  }


def headlines(miou, abs_error, mean, rest=1.0):
  return make_metrics(miou, rest, abs_error, rest, mean, rest, *[rest] * 3)


# ---- Gains ------------------------------------------------------------------


@pytest.mark.parametrize(
  'row, delta',
  [
    ((40.54, 0.6276, 24.28), 0.00),
    ((40.22, 0.5196, 29.09), -1.13),  # Uniform
    ((37.35, 0.5014, 26.74), +0.72),  # Uncertainty
    ((39.77, 0.5669, 29.05), -3.95),  # MGDA
    ((40.62, 0.5224, 26.14), +3.11),  # IMTL-H
    ((37.72, 0.5571, 28.58), -4.47),  # BAM
    ((45.52, 0.4912, 24.57), +10.95),  # URL
  ],
)
def test_delta_mtl_is_that_of_the_url_paper(row, delta):
  # METHOD 3.2; metrics that are no headline must not matter.
  gains = relative_gains(
    headlines(*row, rest=5.0), headlines(40.54, 0.6276, 24.28), TASKS
  )
  assert gains['delta_mtl'] == pytest.approx(delta, abs=0.02)


STL = (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)


@pytest.mark.parametrize(
  'row, delta',
  [
    (STL, 0.00),
    (
      (39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08),
      +5.59,  # LS
    ),
    (
      (40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15),
      -4.04,  # Nash-MTL
    ),
    (
      (38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98),
      -4.10,  # FAMO
    ),
    (
      (39.68, 65.43, 0.5296, 0.2168, 24.24, 18.63, 30.74, 58.72, 70.78),
      -6.99,  # NTKMTL
    ),
  ],
)
def test_delta_m_is_that_of_the_literature(row, delta):
  # METHOD 4.1; the root mean square error is not among the nine metrics.
  for rmse in (0.1, 100.0, math.nan):
    gains = relative_gains(
      make_metrics(*row, rmse=rmse), make_metrics(*STL), TASKS
    )
    assert gains['delta_m'] == pytest.approx(delta, abs=0.1)
    assert math.isfinite(gains['delta_p'])


def scaled(metrics, tasks, percent):
  """Every metric, `percent` better."""
  return {
    t: {
      m: value
      * (1 + (percent if task.columns[m].higher_is_better else -percent) / 100)
      for m, value in metrics[t].items()
    }
    for t, task in tasks.items()
  }


@pytest.mark.parametrize('percent', [10, -10])
@pytest.mark.parametrize('name', GAINS)
def test_a_gain_has_the_sign_and_the_size_of_its_convention(name, percent):
  reference = make_metrics(*STL)
  gains = relative_gains(scaled(reference, TASKS, percent), reference, TASKS)
  sign = 1 if GAINS[name].column.higher_is_better else -1
  assert gains[name] == pytest.approx(sign * percent)


def test_the_conventions_have_the_directions_of_the_literature():
  directions = {k: gain.column.higher_is_better for k, gain in GAINS.items()}
  assert directions == {'delta_mtl': True, 'delta_m': False, 'delta_p': True}


def test_delta_p_averages_within_tasks_first():
  reference = make_metrics(*STL)
  # Two metrics of segmentation, two of depth, five of normals in the mean.
  metrics = reference | {
    t: scaled(reference, TASKS, percent)[t]
    for t, percent in {'semantic': 9, 'depth': 18, 'normals': -45}.items()
  }
  gains = relative_gains(metrics, reference, TASKS)
  assert gains['delta_p'] == pytest.approx((9 + 18 - 45) / 3)
  assert gains['delta_m'] == pytest.approx(-(2 * 9 + 2 * 18 - 5 * 45) / 9)
  # One metric alone counts by the number of metrics of its task.
  metrics = reference | {'depth': {**reference['depth'], 'abs_error': 0.3377}}
  gains = relative_gains(metrics, reference, TASKS)
  assert gains['delta_p'] == pytest.approx(50 / 2 / 3)
  assert gains['delta_m'] == pytest.approx(-50 / 9)
  assert gains['delta_mtl'] == pytest.approx(50 / 3)


@pytest.mark.parametrize('broken', ['metrics', 'reference'])
@pytest.mark.parametrize('value', [math.nan, 0.0])
def test_what_cannot_be_compared_has_no_gain(broken, value):
  rows = {'metrics': make_metrics(*STL), 'reference': make_metrics(*STL)}
  rows[broken]['depth']['abs_error'] = value
  gains = relative_gains(rows['metrics'], rows['reference'], TASKS)
  assert gains.keys() == GAINS.keys()
  # A metric of 0 is a perfect one, only a reference of 0 has no ratio.
  defined = broken == 'metrics' and value == 0
  assert all(math.isnan(gain) != defined for gain in gains.values())


def test_a_nan_beside_the_headlines_spoils_only_the_conventions_that_use_it():
  metrics = make_metrics(*STL)
  metrics['normals']['within_30'] = math.nan
  gains = relative_gains(metrics, make_metrics(*STL), TASKS)
  assert gains['delta_mtl'] == 0
  assert math.isnan(gains['delta_m'])
  assert math.isnan(gains['delta_p'])


def test_the_tasks_decide_what_is_compared():
  metrics, reference = make_metrics(*STL), make_metrics(*STL)
  metrics['semantic']['miou'] *= 2
  gains = relative_gains(metrics, reference, {'depth': TASKS['depth']})
  assert set(gains.values()) == {0.0}


# ---- A whole split ----------------------------------------------------------

BATCH = 4  # of 6 samples: the second batch is half padding
TOY_TASKS = make_tasks(NAMES, LABELS, dataset='toy')
needs_4_devices = pytest.mark.skipif(
  jax.device_count() != 4, reason='4 (fake) devices are needed'
)


class PerPixel(nn.Module):
  """Predictions are linear in the pixel, so that NumPy can make them too."""

  @nn.compact
  def __call__(self, image, *, train):
    del train
    predictions = {
      name: nn.Dense(task.channels, name=name)(image)
      for name, task in TOY_TASKS.items()
    }
    return Output(predictions, {})


@functools.cache
def make_variables():
  image = jnp.zeros((1, 1, 1, 3))
  return PerPixel().init(jax.random.key(0), image, train=False)


def run(mode, dataset, keep=0):
  parallel = make_parallel(mode, batch_size=BATCH)
  step = functools.partial(
    eval_step,
    network=PerPixel(),
    tasks=TOY_TASKS,
    axis_name=parallel.axis_name,
  )
  return evaluate(
    parallel.compile_eval_step(step),
    parallel.replicate(make_variables()),
    eval_batches(dataset, dataset.source('val'), batch_size=BATCH, workers=0),
    TOY_TASKS,
    parallel=parallel,
    keep=keep,
  )


def predict(dataset):
  """The samples of the split, and their predictions by NumPy in float64."""
  source = dataset.source('val')
  samples = [source[i] for i in range(len(source))]
  samples = {k: np.stack([s[k] for s in samples]) for k in samples[0]}
  params = jax.tree.map(
    lambda x: np.asarray(x, np.float64), make_variables()['params']
  )
  predictions = {
    name: samples['image'] @ p['kernel'] + p['bias']
    for name, p in params.items()
  }
  return samples, predictions


@needs_4_devices
@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_every_sample_is_scored_once(mode, toy_dataset):
  evaluation = run(mode, toy_dataset)
  samples, predictions = predict(toy_dataset)
  assert len(samples['image']) == 6

  known = samples['semantic'] >= 0
  hit = predictions['semantic'].argmax(-1) == samples['semantic']
  accuracy = evaluation.metrics['semantic']['pixel_accuracy']
  assert accuracy == pytest.approx(100 * hit[known].mean())

  known = samples['depth'] > 0
  error = abs(predictions['depth'] - samples['depth'])[known]
  depth = evaluation.metrics['depth']
  assert depth['abs_error'] == pytest.approx(error.mean(), rel=1e-5)
  assert depth['rmse'] == pytest.approx((error**2).mean() ** 0.5, rel=1e-5)

  p, y = predictions['normals'], samples['normals']
  known = y.any(-1)
  cosine = (p * y).sum(-1)[known] / np.linalg.norm(p, axis=-1)[known]
  angle = np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()
  mean_angle = evaluation.metrics['normals']['mean_angle']
  assert mean_angle == pytest.approx(angle, rel=1e-4)
  assert evaluation.predictions == {}


@needs_4_devices
@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_the_first_predictions_are_kept_in_order(mode, toy_dataset):
  _, predictions = predict(toy_dataset)
  for keep in (1, 4, 5, 6):
    kept = run(mode, toy_dataset, keep=keep).predictions
    assert list(kept) == list(NAMES)
    for name, x in kept.items():
      assert x.shape == (keep, 32, 32, TOY_TASKS[name].channels)
      np.testing.assert_allclose(x, predictions[name][:keep], atol=1e-5)
