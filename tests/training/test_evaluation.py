"""A whole split, every sample once, and the samples of the pictures."""

import dataclasses
import functools

from fixtures.samples import LABELS
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.datasets.loader import eval_batches, share_size
from mtl_kd_jax.models.network import Output
from mtl_kd_jax.runtime.parallel import make_parallel
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training import evaluation as evaluation_module
from mtl_kd_jax.training.evaluation import evaluate
from mtl_kd_jax.training.step import eval_step

NAMES = ('semantic', 'depth', 'normals')
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
    eval_batches(
      dataset, dataset.source('val'), batch_size=BATCH, num_workers=0
    ),
    TOY_TASKS,
    parallel=parallel,
    keep=keep,
  )


def predict(dataset):
  """The samples of the split, and their predictions by NumPy in float64."""
  source = dataset.source('val')
  samples = [source[i] for i in range(len(source))]
  samples = {k: np.stack([s[k] for s in samples]) for k in samples[0]}
  return samples, predict_images(samples['image'])


def predict_images(images):
  params = jax.tree.map(
    lambda x: np.asarray(x, np.float64), make_variables()['params']
  )
  return {name: images @ p['kernel'] + p['bias'] for name, p in params.items()}


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
  assert evaluation.predictions == evaluation.samples == {}


@needs_4_devices
@pytest.mark.parametrize('mode', ['jit', 'pmap'])
@pytest.mark.parametrize('fit', [0, 3, 64])
def test_the_first_samples_are_kept_with_their_predictions(
  mode, fit, toy_dataset, monkeypatch
):
  """Those that are asked for, and more where they are small; no padding."""
  monkeypatch.setattr(evaluation_module, '_MOST_PIXELS', fit * 16 * 16)
  samples, _ = predict(toy_dataset)
  for keep in (1, 5):
    evaluation = run(mode, toy_dataset, keep=keep)
    assert list(evaluation.predictions) == list(NAMES)
    assert evaluation.pictures == keep
    count, kept = min(max(keep, fit), 6), evaluation.samples
    for name in ('image', *NAMES):
      np.testing.assert_array_equal(kept[name], samples[name][:count])
    expected = predict_images(kept['image'])
    ids = evaluation.predictions['semantic']
    np.testing.assert_array_equal(ids, expected['semantic'].argmax(-1))
    for name in ('depth', 'normals'):
      x = evaluation.predictions[name]
      assert x.shape == (count, 16, 16, TOY_TASKS[name].channels)
      np.testing.assert_allclose(x, expected[name], atol=1e-5)


def test_a_black_image_is_kept_where_others_follow(toy_dataset):
  sources = {
    'val': lambda: [
      sample | {'image': sample['image'] * (i != 2)}
      for i, sample in enumerate(
        map(toy_dataset.source('val').__getitem__, range(6))
      )
    ]
  }
  dataset = dataclasses.replace(toy_dataset, sources=sources)
  images = run('jit', dataset, keep=1).samples['image']
  assert [bool(x.any()) for x in images] == [i != 2 for i in range(6)]


def test_on_several_hosts_a_picture_stands_beside_its_own_prediction(
  toy_dataset, monkeypatch
):
  """The second of two processes sees half of every batch, and keeps that."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  batches = list(
    eval_batches(
      toy_dataset,
      toy_dataset.source('val'),
      batch_size=2 * BATCH,
      num_workers=0,
    )
  )
  keep = share_size(6, 2 * BATCH)
  monkeypatch.undo()
  parallel = make_parallel('jit', batch_size=BATCH)
  step = functools.partial(eval_step, network=PerPixel(), tasks=TOY_TASKS)
  evaluation = evaluate(
    parallel.compile_eval_step(step),
    parallel.replicate(make_variables()),
    batches,
    TOY_TASKS,
    parallel=parallel,
    keep=keep,
  )
  samples, _ = predict(toy_dataset)
  images = evaluation.samples['image']
  np.testing.assert_array_equal(images, samples['image'][BATCH:])
  np.testing.assert_allclose(
    evaluation.predictions['depth'], predict_images(images)['depth'], atol=1e-5
  )
