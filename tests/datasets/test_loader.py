"""The input pipeline: order, resuming, sharding, workers, errors."""

import contextlib
import gc
import itertools
from multiprocessing import shared_memory

from absl import flags
from fixtures.samples import LABELS, RandomSource
from grain.multiprocessing import SharedMemoryArray
import jax
import numpy as np
import pytest

from mtl_kd_jax.datasets import loader
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.errors import InputError

SIZE = (8, 8)
AUGMENTATION = {'scales': (1.0, 1.2, 1.5), 'flip': True}


class NumberedSource:
  """Gray images whose brightness is their index, also when augmented."""

  def __init__(self, length):
    self._length = length

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    gray = np.full((*SIZE, 3), index / 64, np.float32)
    labels = {t: label.missing(SIZE) for t, label in LABELS.items()}
    labels['semantic'] = np.full(SIZE, index % 4, np.int32)
    return {'image': gray, **labels}


class BrokenSource(NumberedSource):
  """One of its samples raises an error."""

  def __getitem__(self, index):
    if index == 3:
      raise InputError(
        expected='a good file', found='a bad one', where='3.npy', do='mend it'
      )
    return super().__getitem__(index)


def make_dataset(source):
  return Dataset('toy', SIZE, LABELS, {'train': lambda: source})


def train(source, *, batch_size=4, epochs=2, start=0, seed=0, num_workers=0):
  return loader.train_batches(
    make_dataset(source),
    source,
    batch_size=batch_size,
    epochs=epochs,
    start_step=start,
    seed=seed,
    num_workers=num_workers,
    **AUGMENTATION,
  )


def evaluate(source, *, batch_size=4, num_workers=0):
  dataset = make_dataset(source)
  return loader.eval_batches(
    dataset, source, batch_size=batch_size, num_workers=num_workers
  )


def numbers(batch):
  return [round(64 * float(x)) for x in batch['image'][:, 0, 0, 0]]


def all_numbers(batches):
  return [number for batch in batches for number in numbers(batch)]


def epochs_of(*, length, batch_size, epochs, seed=0):
  source = NumberedSource(length)
  batches = list(train(source, batch_size=batch_size, epochs=epochs, seed=seed))
  steps = length // batch_size
  assert len(batches) == epochs * steps
  assert all(len(b['image']) == batch_size for b in batches)
  return [
    all_numbers(batches[e * steps : (e + 1) * steps]) for e in range(epochs)
  ]


def assert_same_batches(actual, expected):
  for a, b in itertools.zip_longest(actual, expected):
    assert a.keys() == b.keys()
    for key in a:
      assert a[key].dtype == b[key].dtype
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def in_process(monkeypatch, index, count):
  monkeypatch.setattr(jax, 'process_index', lambda: index)
  monkeypatch.setattr(jax, 'process_count', lambda: count)


def test_every_epoch_is_a_different_permutation():
  epochs = epochs_of(length=12, batch_size=4, epochs=4)
  for epoch in epochs:
    assert sorted(epoch) == list(range(12))
  assert len(set(map(tuple, epochs))) == 4
  assert list(range(12)) not in epochs


def test_the_incomplete_batch_is_dropped_and_differs_between_epochs():
  epochs = epochs_of(length=11, batch_size=4, epochs=8)
  for epoch in epochs:
    assert len(set(epoch)) == 8
    assert set(epoch) <= set(range(11))
  assert set().union(*epochs) == set(range(11))


def test_seeds_give_different_orders():
  first, second = (
    epochs_of(length=12, batch_size=4, epochs=1, seed=seed) for seed in (0, 1)
  )
  assert first != second


def test_seeds_and_epochs_give_different_augmentations():
  # With one sample, the order cannot differ.
  source = RandomSource(1, SIZE)
  images = [
    batch['image'].tobytes()
    for seed in (0, 1)
    for batch in train(source, batch_size=1, epochs=10, seed=seed)
  ]
  # Some draws change nothing: 1 of 3 scales without mirroring.
  assert len(set(images[:10])) > 5
  assert images[:10] != images[10:]


@pytest.mark.parametrize('start', [1, 3, 4, 5])
def test_a_resumed_run_continues_the_original(start):
  source = RandomSource(11, SIZE)
  expected = list(train(source, batch_size=3, epochs=2))
  assert len(expected) == 6
  resumed = train(source, batch_size=3, epochs=2, start=start)
  assert_same_batches(resumed, expected[start:])


def test_a_longer_run_starts_like_a_shorter_one():
  source = RandomSource(6, SIZE)
  longer = train(source, batch_size=3, epochs=3)
  assert_same_batches(
    itertools.islice(longer, 4), train(source, batch_size=3, epochs=2)
  )


def test_two_processes_share_the_batches_of_one(monkeypatch):
  source = RandomSource(10, SIZE)
  whole = list(train(source, start=1))
  shares = []
  for index in range(2):
    in_process(monkeypatch, index, 2)
    shares.append(list(train(source, start=1)))
  assert len(whole) == len(shares[0]) == len(shares[1]) == 3
  for batch, first, second in zip(whole, *shares, strict=True):
    assert len(first['image']) == len(second['image']) == 2
    # In this order: micro-batches are the same on any number of processes.
    for key in batch:
      together = np.concatenate([first[key], second[key]])
      np.testing.assert_array_equal(together, batch[key], err_msg=key)


def test_two_processes_share_the_evaluation(monkeypatch):
  source = NumberedSource(6)
  seen = []
  for index in range(2):
    in_process(monkeypatch, index, 2)
    batches = list(evaluate(source))
    assert [len(b['image']) for b in batches] == [2, 2]
    for batch in batches:
      labeled = (batch['semantic'] >= 0).all((1, 2))
      seen += list(np.array(numbers(batch))[labeled])
  assert sorted(seen) == list(range(6))


def test_training_batches_do_not_depend_on_workers():
  source = RandomSource(6, SIZE)
  batches = train(source, batch_size=3, start=1, num_workers=1)
  assert_same_batches(batches, train(source, batch_size=3, start=1))


def test_evaluation_covers_every_sample_once_and_in_order():
  batches = list(evaluate(NumberedSource(10)))
  assert [len(b['image']) for b in batches] == [4, 4, 4]
  assert all_numbers(batches)[:10] == list(range(10))


def test_padding_carries_no_labels():
  source = RandomSource(5, SIZE)
  batches = list(evaluate(source))
  padding = {key: array[1:] for key, array in batches[1].items()}
  assert len(padding['image']) == 3
  assert not padding['image'].any()
  for task, label in LABELS.items():
    missing = np.broadcast_to(label.missing(SIZE), padding[task].shape)
    np.testing.assert_array_equal(padding[task], missing)
    assert padding[task].dtype == batches[0][task].dtype


def test_evaluation_is_neither_shuffled_nor_augmented():
  source = RandomSource(8, SIZE)
  for i, batch in enumerate(evaluate(source)):
    for j in range(4):
      for key, array in source[4 * i + j].items():
        np.testing.assert_array_equal(batch[key][j], array, err_msg=key)


def test_a_full_last_batch_is_not_padded():
  assert len(list(evaluate(NumberedSource(8)))) == 2


def test_a_batch_larger_than_the_split_is_an_error():
  assert loader.steps_per_epoch(8, 8) == 1
  assert loader.steps_per_epoch(15, 4) == 3
  with pytest.raises(InputError, match=r'at most 8.*\n.*9') as error:
    loader.steps_per_epoch(8, 9)
  assert error.value.argument == 'batch_size'
  with pytest.raises(InputError):
    train(NumberedSource(3))


def test_evaluation_batches_do_not_depend_on_workers_without_absl_flags():
  # Nothing parses absl's flags in a notebook.
  source = RandomSource(6, SIZE)
  flags.FLAGS.unparse_flags()
  try:
    batches = list(evaluate(source, num_workers=1))
  finally:
    flags.FLAGS.mark_as_parsed()
  assert_same_batches(batches, evaluate(source))


@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_input_error_of_the_source_is_raised_unchanged(num_workers):
  source = BrokenSource(8)
  for batches in (train(source, num_workers=num_workers), evaluate(source)):
    with pytest.raises(InputError) as error:
      list(batches)
    assert error.value.where == '3.npy'
    assert error.value.do == 'mend it'


# ---- The memory that workers share -------------------------------------------


class Workers:
  """As Grain's iterator over batches of its workers."""

  def __init__(self, batches):
    self.batches, self.closed = iter(batches), False

  def __iter__(self):
    return self

  def __next__(self):
    return next(self.batches)

  def close(self):
    self.closed = True


@pytest.mark.parametrize('taken', [1, 3])
def test_batches_are_copied_and_workers_end_with_the_iterator(taken):
  shared = [{'x': np.full(4, i)} for i in range(3)]
  workers = Workers(shared)
  batches = loader._own_arrays(workers)
  for batch, one in zip(range(taken), batches, strict=False):
    np.testing.assert_array_equal(one['x'], shared[batch]['x'])
    assert not np.shares_memory(one['x'], shared[batch]['x'])
  assert not workers.closed
  batches.close()
  assert workers.closed


def test_workers_that_are_still_open_end_with_the_process():
  workers = Workers([{'x': np.ones(1)}] * 3)
  batches = loader._own_arrays(workers)
  next(batches)
  loader._free_shared_memory()
  assert workers.closed


def test_batches_that_nobody_took_leave_no_shared_memory(monkeypatch):
  """They lie in cycles, of which the collector finalizes all parts at once."""
  begin = SharedMemoryArray.enable_async_del
  monkeypatch.setattr(SharedMemoryArray, 'enable_async_del', begin)  # restored
  train(NumberedSource(8), num_workers=1)  # starts no process yet
  SharedMemoryArray.enable_async_del(1)  # as Grain does with an iterator
  names = []
  for _ in range(200):
    array = SharedMemoryArray((64, 64), np.float32)
    array.unlink_on_del()
    names.append(array.metadata.name)
    cycle = [array]
    cycle.append(cycle)
  del array, cycle
  gc.collect()
  left = []
  for name in names:
    with contextlib.suppress(FileNotFoundError):
      shared_memory.SharedMemory(name).close()
      left.append(name)
  assert not left


class NarrowSource(NumberedSource):
  """Classes in bytes and images in halves, as files have them."""

  def __getitem__(self, index):
    sample = super().__getitem__(index)
    sample['semantic'] = sample['semantic'].astype(np.uint8)
    sample['image'] = sample['image'].astype(np.float16)
    return sample


def test_arrays_get_the_dtypes_of_their_labels():
  """Steps are compiled for those; batches that are padded have them, too."""
  source = NarrowSource(6)
  dataset = make_dataset(source)
  expected = {name: x.dtype for name, x in dataset.missing_sample().items()}
  padded = loader.eval_batches(dataset, source, batch_size=4, num_workers=0)
  for batch in [next(train(source)), *padded]:
    assert {name: x.dtype for name, x in batch.items()} == expected


def test_processes_are_started_only_where_they_are_worth_it(monkeypatch):
  """They are started anew for every evaluation."""

  def start(**options):
    raise InterruptedError(options['num_workers'])

  monkeypatch.setattr(loader.grain, 'MultiprocessingOptions', start)
  batches = list(evaluate(NumberedSource(6), num_workers=2))
  assert all_numbers(batches)[:6] == [0, 1, 2, 3, 4, 5]
  monkeypatch.setattr(loader, '_WORTH_WORKERS', 8)  # of samples, with padding
  with pytest.raises(InterruptedError, match='2'):
    evaluate(NumberedSource(6), num_workers=2)
