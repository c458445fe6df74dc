"""Which samples a page shows, how wrong they are, and their pictures."""

import base64
import io
import math

from fixtures.kinds import make_described
from fixtures.samples import LABELS, random_batch
import numpy as np
from PIL import Image
import pytest
from scipy.stats import rankdata

from mtl_kd_jax.reports.html.choice import choose, headline, mean_ranks
from mtl_kd_jax.reports.html.errors import (
  color_errors,
  end_of_scale,
  measure_errors,
)
from mtl_kd_jax.reports.html.pictures import encode, view_samples
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.tasks.base import UNLABELED

SIZE = (8, 12)
TASKS = make_tasks(LABELS, LABELS, dataset='toy')


def make_predictions(samples, *, wrong):
  """The labels themselves, with a share of the pixels of each sample wrong."""
  predictions = {}
  for name in TASKS:
    labels = samples[name]
    bad = np.full_like(labels, 7) if name == 'depth' else -labels
    if name == 'semantic':
      bad = (labels + 1) % 4
    mask = np.zeros((len(labels), SIZE[0] * SIZE[1]), bool)
    for i, share in enumerate(wrong):
      mask[i, : round(share * mask.shape[1])] = True
    mask = mask.reshape(len(labels), *SIZE)
    mask = mask if labels.ndim == 3 else mask[..., None]
    predictions[name] = np.where(mask, bad, labels)
  return predictions


# ---- Which -------------------------------------------------------------------


def test_the_worst_and_the_best_of_all_stand_before_the_first_ones():
  samples = random_batch(12, SIZE)
  wrong = [0.3, 0.4, 0.2, 0.5, 0.3, 0.4, 0.2, 0.5, 0.6, 0.1, 0.9, 0.3]
  right = make_predictions(samples, wrong=[0.0] * 12)
  distilled = make_predictions(samples, wrong=wrong)
  choice = choose(samples, {'distilled': distilled, 'z': right}, TASKS)
  assert choice.network == 'distilled' and choice.ranked == 12
  assert (choice.worst, choice.best) == (10, 9)
  assert choice.shown == [10, 9, *range(8)]


def test_without_a_distilled_network_the_last_one_is_ranked():
  samples = random_batch(4, SIZE)
  a = make_predictions(samples, wrong=[0.9, 0.1, 0.5, 0.5])
  b = make_predictions(samples, wrong=[0.1, 0.5, 0.5, 0.9])
  choice = choose(samples, {'a': a, 'b': b}, TASKS)
  assert choice[:4] == ([3, 0, 1, 2], 'b', 3, 0)


def test_samples_without_labels_are_not_ranked():
  samples = random_batch(5, SIZE)
  predictions = make_predictions(samples, wrong=[0.2, 0.9, 0.1, 0.5, 0.0])
  for name, label in LABELS.items():
    samples[name][[1, 4]] = label.missing(SIZE)
  samples['depth'][3] = 0  # of one task only
  choice = choose(samples, {'a': predictions}, TASKS)
  assert (choice.worst, choice.best, choice.ranked) == (3, 2, 3)
  samples['semantic'][:] = -1
  samples['normals'][:] = samples['depth'][:] = 0
  choice = choose(samples, {'a': predictions}, TASKS)
  assert choice.worst is None and choice.shown == [0, 1, 2, 3, 4]


def test_ranks_are_averaged_over_the_tasks_in_their_own_directions():
  scores = {
    'semantic': np.array([50.0, 30.0, 40.0, np.nan]),  # higher is better
    'depth': np.array([0.3, 0.1, 0.2, np.nan]),
    'normals': np.array([20.0, np.nan, 10.0, np.nan]),
  }
  np.testing.assert_allclose(
    mean_ranks(scores, TASKS), [2 / 3, 0.5, 1 / 3, np.nan]
  )


def test_equal_scores_share_their_ranks():
  scores = {'depth': np.random.default_rng(0).integers(0, 9, 40) / 9}
  np.testing.assert_allclose(
    mean_ranks(scores, TASKS), (rankdata(scores['depth']) - 1) / 39
  )


def test_the_headline_of_class_ids_is_that_of_their_scores():
  sample = {k: x[0] for k, x in random_batch(1, SIZE).items()}
  logits = np.random.default_rng(0).normal(size=(*SIZE, 4)).astype(np.float32)
  task, label = TASKS['semantic'], sample['semantic']
  ids = logits.argmax(-1).astype(np.int16)
  assert headline(task, ids, label) == headline(task, logits, label)
  inter = [((ids == c) & (label == c)).sum() for c in range(4)]
  union = [(((ids == c) | (label == c)) & (label >= 0)).sum() for c in range(4)]
  iou = 100 * np.mean(np.divide(inter, union))
  assert headline(task, ids, label) == pytest.approx(iou)
  depth = sample['depth'] + np.float32(0.25)
  assert headline(TASKS['depth'], depth, sample['depth']) == pytest.approx(0.25)


# ---- Errors ------------------------------------------------------------------


def test_errors_are_in_the_unit_of_the_label_and_nothing_where_there_is_none():
  label = np.array([[0, 1, -1]], np.int32)
  errors = measure_errors(np.array([[0, 2, 2]]), label, TASKS['semantic'])
  np.testing.assert_array_equal(errors, [[0, 1, np.nan]])
  scores = np.eye(4)[[0, 2, 2]][None]
  same = measure_errors(scores, label, TASKS['semantic'])
  np.testing.assert_array_equal(same, errors)
  for quantity in ('depth', 'disparity'):
    errors = measure_errors(
      np.array([[[1.5], [3.0], [2.0]]]),
      np.array([[[2.0], [1.0], [0.0]]]),
      make_described(quantity),
    )
    np.testing.assert_array_equal(errors, [[0.5, 2, np.nan]])
  turn = np.radians([0.0, 1e-4, 60, 90, 180])
  directions = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=-1)[None]
  errors = measure_errors(
    7 * directions, np.tile([1.0, 0, 0], (1, 5, 1)), TASKS['normals']
  )
  np.testing.assert_allclose(errors, [[0, 1e-4, 60, 90, 180]], rtol=1e-9)


def test_one_scale_ends_at_a_round_number_that_few_errors_exceed():
  rng = np.random.default_rng(0)
  for size in (1e-3, 0.07, 1.0, 430.0):
    maps = [size * rng.random((9, 9)), np.full((2, 2), np.nan)]
    end = end_of_scale(maps)
    most = np.quantile(maps[0], 0.98)
    assert most <= end <= 1.6 * most
    assert float(f'{end:.2g}') == pytest.approx(end)
  assert end_of_scale([]) == end_of_scale([np.zeros((2, 2))]) == 1.0


def test_colors_darken_with_the_error_and_are_gray_without_label():
  errors = np.array([[0.0, 0.5, 1.0, 5.0, np.nan]])
  rgb = color_errors(errors, TASKS['depth'], end=1.0)[0].astype(int)
  assert (np.diff(rgb.sum(-1)[:3]) < 0).all()
  np.testing.assert_array_equal(rgb[2], rgb[3])
  assert tuple(rgb[4]) == UNLABELED
  rgb = color_errors(errors > 0, TASKS['semantic'], end=1.0)[0]
  assert len({tuple(x) for x in rgb}) == 2  # right and wrong


# ---- Pictures ----------------------------------------------------------------


def decode(uri):
  return Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2])))


def test_small_pictures_are_exact_and_large_ones_smaller():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (64, 96, 3), np.uint8)
  np.testing.assert_array_equal(np.array(decode(encode(small))), small)
  large = np.tile(small, (20, 20, 1))
  picture = decode(encode(large))
  assert max(picture.size) <= 384
  assert picture.width / picture.height == pytest.approx(1.5, rel=0.02)


def test_every_network_has_its_place_in_every_strip():
  samples = random_batch(3, SIZE)
  both = make_predictions(samples, wrong=[0.1, 0.2, 0.3])
  predictions = {'a': both, 'b': {'depth': both['depth']}}
  choice = choose(samples, predictions, TASKS)
  views, legends = view_samples(samples, predictions, TASKS, choice)
  assert [view.title for view in views] == ['Sample 2', 'Sample 0', 'Sample 1']
  assert [view.mark for view in views] == ['worst', 'best', '']
  assert [legend.task for legend in legends] == list(TASKS)
  for view in views:
    for strip in view.strips:
      assert len(strip.pictures) == 3 and len(strip.errors) == 2
      there = strip.task == 'depth'
      assert (strip.pictures[2] is not None) == there
      assert (strip.errors[1] is not None) == there
  depth = views[0].strips[1].pictures[1]
  value = headline(TASKS['depth'], both['depth'][2], samples['depth'][2])
  assert depth.note == f'{value:.4f} m'
  assert depth.alt == f'Sample 2, depth, a, AbsErr {value:.4f} m'
  assert not math.isnan(value)
