"""The share that is held out of training, and what is chosen by it."""

import pickle

from fixtures.configs import tiny
from fixtures.samples import LABELS, RandomSource
import numpy as np
import pytest

from mtl_kd_jax.config.build import build, select_split
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.holdout import HELD_OUT, hold_out
from mtl_kd_jax.errors import InputError

SIZE = (8, 8)


def make_dataset(count=20):
  return Dataset(
    name='toy',
    image_size=SIZE,
    labels=LABELS,
    sources={
      'train': lambda: RandomSource(count, SIZE, seed=0),
      'val': lambda: RandomSource(6, SIZE, seed=1),
    },
  )


def images(source):
  return [source[i]['image'].tobytes() for i in range(len(source))]


def parts(*, fraction=0.25, seed=0, count=20):
  dataset = hold_out(make_dataset(count), 'train', fraction=fraction, seed=seed)
  return [images(dataset.source(s)) for s in ('train', HELD_OUT)]


@pytest.mark.parametrize('fraction, held', [(0.25, 5), (0.01, 1), (0.5, 10)])
def test_every_sample_is_in_one_part_in_its_order(fraction, held):
  whole = images(make_dataset().source('train'))
  train, held_out = parts(fraction=fraction)
  assert len(held_out) == held
  assert sorted(train + held_out) == sorted(whole)
  for part in (train, held_out):
    assert part == [image for image in whole if image in part]


def test_the_seed_chooses():
  assert parts(seed=3) == parts(seed=3)
  assert parts(seed=3) != parts(seed=4)


def test_whole_samples_and_other_splits_stay_as_they_are():
  before = make_dataset()
  dataset = hold_out(before, 'train', fraction=0.25, seed=0)
  assert images(dataset.source('val')) == images(before.source('val'))
  samples = {
    s['image'].tobytes(): s
    for s in map(before.source('train').__getitem__, range(20))
  }
  for split in ('train', HELD_OUT):
    source = pickle.loads(pickle.dumps(dataset.source(split)))
    for i in range(len(source)):
      sample = source[i]
      for key, array in samples[sample['image'].tobytes()].items():
        np.testing.assert_array_equal(sample[key], array)


def test_a_share_that_leaves_nothing_is_refused():
  with pytest.raises(InputError, match='leaves samples to train on'):
    parts(fraction=0.9, count=2)


# ---- In a run ----------------------------------------------------------------


def batch_images(batches):
  """Those of the samples that have labels: the rest only fills up a batch."""
  return {
    image.tobytes()
    for batch in batches
    for image, label in zip(batch['image'], batch['semantic'], strict=True)
    if (label >= 0).any()
  }


def test_checkpoints_are_chosen_on_what_is_never_trained_on(tmp_path):
  config = tiny('quickstart', tmp_path)
  config.data.scenes.num_train = 8
  config.data.val_fraction = 0.5
  config.data.flip = False
  config.batch_size = 4
  config.epochs = 4
  experiment = build(config)
  assert experiment.steps_per_epoch == 1
  stage = experiment.student()
  trained = batch_images(stage.train_batches(0))
  chosen_on = batch_images(stage.select_batches())
  reported = batch_images(stage.eval_batches())
  assert (len(trained), len(chosen_on), len(reported)) == (4, 4, 4)
  assert not trained & chosen_on and not reported & (trained | chosen_on)


def test_without_a_share_one_split_serves_both(tmp_path):
  config = tiny('quickstart', tmp_path)
  assert select_split(config) == 'val'
  assert build(config).student().select_batches is None
  config.data.select_split = 'train'
  assert select_split(config) == 'train'
  assert build(config).student().select_batches is not None
  config.data.val_fraction = 0.25
  with pytest.raises(InputError, match='held-out share chooses'):
    build(config)


def test_the_last_epochs_are_scored_on_the_reported_split(tmp_path):
  config = tiny('quickstart', tmp_path)
  config.data.scenes.num_train = 8  # two steps an epoch
  config.epochs, config.report.average_epochs = 6, 3
  assert list(build(config).rhythm.average) == [8, 10, 12]
  config.epochs = 2
  assert list(build(config).rhythm.average) == [2, 4]
  config.report.average_epochs = 0
  assert list(build(config).rhythm.average) == []
