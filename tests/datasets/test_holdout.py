"""Holding out a part of a split."""

import pickle

from fixtures.samples import LABELS, RandomSource
import numpy as np
import pytest

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
def test_every_sample_is_in_one_part_and_in_order(fraction, held):
  whole = images(make_dataset().source('train'))
  train, held_out = parts(fraction=fraction)
  assert len(held_out) == held
  assert sorted(train + held_out) == sorted(whole)
  for part in (train, held_out):
    assert part == [image for image in whole if image in part]


def test_the_seed_selects_the_samples():
  assert parts(seed=3) == parts(seed=3)
  assert parts(seed=3) != parts(seed=4)


def test_samples_and_other_splits_are_unchanged():
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


def test_a_fraction_that_leaves_nothing_is_an_error():
  with pytest.raises(InputError, match='leaves samples to train on') as error:
    parts(fraction=0.9, count=2)
  assert error.value.argument == 'fraction'
