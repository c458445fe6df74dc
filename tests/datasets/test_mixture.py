"""Several datasets as one."""

import collections
import dataclasses
import pickle

from fixtures.samples import LABELS, RandomSource
import numpy as np
import pytest

from mtl_kd_jax.datasets import Dataset, Label, loader
from mtl_kd_jax.datasets.holdout import hold_out
from mtl_kd_jax.datasets.mixture import Mixed, Part, mix
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.errors import InputError

SIZE = (32, 32)
COUNTS = {'rooms': 9, 'streets': 30}


def make(name, *, size=SIZE, counts=None, labels=LABELS):
  count = COUNTS[name]
  return Dataset(
    name=name,
    image_size=size,
    labels=labels,
    sources={
      'train': lambda: RandomSource(count, size, seed=count),
      'val': lambda: RandomSource(4, size, seed=count + 1),
    },
  )


def parts(**changes):
  return {
    'rooms': Part(make('rooms'), {'depth': 'depth', 'near': 'semantic'}, 1.0),
    'streets': Part(make('streets'), {'semantic': 'semantic'}, 3.0),
  } | changes


def test_a_picture_has_the_labels_of_its_dataset_and_lacks_the_others():
  mixed = mix(parts())
  assert list(mixed.labels) == ['depth', 'near', 'semantic']
  assert mixed.labels['near'] == mixed.labels['semantic'] == LABELS['semantic']
  source = mixed.source('train')
  assert len(source) == 39
  rooms, streets = (make(name).source('train') for name in COUNTS)
  for i in (0, 8, 9, 38, -1):
    sample = source[i]
    assert sample.keys() == mixed.missing_sample().keys()
    own = rooms[i] if 0 <= i < 9 else streets[i % 39 - 9]
    np.testing.assert_array_equal(sample['image'], own['image'])
    known = {n for n, x in mixed.labels.items() if x.known(sample[n]).any()}
    if 0 <= i < 9:
      assert known == {'depth', 'near'}
      np.testing.assert_array_equal(sample['near'], own['semantic'])
    else:
      assert known == {'semantic'}
  with pytest.raises(IndexError):
    source[39]


def batches(mixed, *, seed=0, start=0, batch_size=8, epochs=3, **options):
  return list(
    loader.train_batches(
      mixed,
      mixed.source('train'),
      batch_size=batch_size,
      epochs=epochs,
      start_step=start,
      seed=seed,
      scales=(1.0,),
      flip=False,
      num_workers=0,
      **options,
    )
  )


def test_every_batch_is_mixed_by_the_rates_and_nothing_is_left_out():
  mixed = mix(parts())
  seen = collections.Counter()
  all_batches = batches(mixed)
  assert len(all_batches) == 3 * (39 // 8)
  orders = set()
  for batch in all_batches:
    of_rooms = (batch['depth'] > 0).any(axis=(1, 2, 3))
    assert of_rooms.sum() == 2  # of 8, at rates of 1 to 3
    orders.add(tuple(of_rooms))
    seen.update(image.tobytes() for image in batch['image'])
  assert len(orders) > 4  # their places in a batch are random
  # 24 of the 9 rooms and 72 of the 30 streets: none comes much more often.
  assert len(seen) == 39
  of_a_room = seen[make('rooms').source('train')[0]['image'].tobytes()]
  assert of_a_room in (2, 3)
  assert max(seen.values()) <= 3


def test_a_run_goes_on_with_the_batches_that_it_had_not_seen():
  mixed = mix(parts())
  whole, rest = batches(mixed), batches(mixed, start=5)
  for one, other in zip(whole[5:], rest, strict=True):
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])
  other = batches(mixed, seed=1)
  assert not np.array_equal(other[0]['image'], whole[0]['image'])


def test_datasets_of_other_sizes_are_brought_to_one():
  large = make('streets', size=(64, 96))
  with pytest.raises(InputError, match='32 x 32, streets 64 x 96'):
    mix(parts(streets=Part(large, {'semantic': 'semantic'})))
  mixed = mix(
    parts(streets=Part(large, {'semantic': 'semantic', 'far': 'depth'})),
    image_size=SIZE,
  )
  sample, own = mixed.source('train')[9], large.source('train')[0]
  blocks = own['image'].reshape(32, 2, 32, 3, 3)
  np.testing.assert_allclose(sample['image'], blocks.mean((1, 3)), atol=1e-6)
  # The nearest pixels: of two rows the second, of three columns the middle.
  np.testing.assert_array_equal(sample['semantic'], own['semantic'][1::2, 1::3])
  np.testing.assert_array_equal(sample['far'], own['depth'][1::2, 1::3])


def test_a_share_is_held_out_of_every_dataset():
  held = hold_out(mix(parts()), 'train', fraction=0.3, seed=0)
  train, out = held.source('train'), held.source('held_out')
  assert isinstance(train, Mixed) and isinstance(out, Mixed)
  assert len(train) + len(out) == 39 and len(out) == 12
  assert train.rates == out.rates == (1.0, 3.0)
  images = [
    s[i]['image'].tobytes() for s in (train, out) for i in range(len(s))
  ]
  assert len(set(images)) == 39
  assert pickle.loads(pickle.dumps(out))[0].keys() == out[0].keys()


OTHER = dataclasses.replace(LABELS['semantic'], classes=('a', 'b'))


@pytest.mark.parametrize(
  'changes, argument',
  [
    ({'rooms': Part(make('rooms'), {}, 1.0)}, 'rooms.labels'),
    ({'rooms': Part(make('rooms'), {'x': 'edges'}, 1.0)}, 'rooms.labels'),
    ({'rooms': Part(make('rooms'), {'depth': 'depth'}, -1.0)}, 'rooms.rate'),
    ({'rooms': Part(make('rooms'), {'depth': 'depth'}, 0.0)}, 'rooms.rate'),
    (
      {
        'rooms': Part(
          make('rooms', labels={'semantic': OTHER}),
          {'semantic': 'semantic'},
        )
      },
      'streets.labels',
    ),
  ],
)
def test_what_cannot_be_mixed_is_refused(changes, argument):
  with pytest.raises(InputError) as error:
    mix(parts(**changes))
  assert error.value.argument == argument


def test_a_split_that_one_of_them_lacks_is_refused():
  short = dataclasses.replace(make('rooms'), sources={'train': lambda: []})
  mixed = mix(parts(rooms=Part(short, {'depth': 'depth'})))
  for split, found in (('val', 'no such split in rooms'), ('train', 'no pic')):
    with pytest.raises(InputError, match=found):
      mixed.source(split)


def test_labels_are_not_hidden_in_a_mixture():
  mixed = mix(parts())
  source = mixed.source('train')
  options = {'labels': mixed.labels, 'seed': 0}
  assert hide_labels(source, fraction=1.0, **options) is source
  with pytest.raises(InputError, match='mixture'):
    hide_labels(source, fraction='one', **options)


def test_labels_of_one_name_are_one_task():
  mixed = mix(parts(rooms=Part(make('rooms'), {'semantic': 'semantic'})))
  assert list(mixed.labels) == ['semantic']
  assert isinstance(mixed.labels['semantic'], Label)
