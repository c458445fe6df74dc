"""The input pipeline, with Grain: shuffle, augment, batch, shard, resume.

The batch of a training step, and the order in it, depend on (seed, epoch,
index) alone: not on the number of processes or workers, nor on where a run was
resumed.
"""

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import gc
import os
import weakref

from absl import flags
import grain
from grain.multiprocessing import SharedMemoryArray
import jax
import numpy as np

from mtl_kd_jax.datasets.augment import (
  Change,
  Rules,
  apply_change,
  augment,
  draw_change,
)
from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.datasets.mixture import Mixed
from mtl_kd_jax.errors import InputError

# Samples of a split that is read once. For fewer, it takes longer to start
# processes, which is done anew for every pass.
_WORTH_WORKERS = 1024
# Each makes a batch at a time, and waits for others where Python computes.
_MOST_THREADS = 8

Batch = Mapping[str, np.ndarray]
Attach = Callable[[int, Sample, Change], Mapping[str, np.ndarray]]


def steps_per_epoch(samples: int, batch_size: int) -> int:
  """Full batches in an epoch; an incomplete last batch is dropped.

  Raises:
    InputError: the batch is larger than the split.
  """
  if batch_size > samples:
    raise InputError(
      expected=f'a batch of at most {samples}, the samples of the split',
      found=f'{batch_size}',
      argument='batch_size',
      do='make the batch smaller, or choose a larger split',
    )
  return samples // batch_size


def train_batches(
  dataset: Dataset,
  source: Source,
  *,
  batch_size: int,
  epochs: int,
  start_step: int,
  seed: int,
  scales: Sequence[float],
  flip: bool,
  num_workers: int,
  rules: Rules | None = None,
  attach: Attach | None = None,
) -> Iterator[Batch]:
  """Iterates over this process's share of the training batches.

  Args:
    dataset: says what the labels mean.
    source: the samples of the split.
    batch_size: of the global batch, over all processes.
    epochs: number of passes over the split, each in a different order.
    start_step: steps of the run that are already done, and are skipped.
    seed: of the order and of augmentation.
    scales: see `augment`.
    flip: see `augment`.
    num_workers: processes that read and augment; 0 uses threads of this one.
    rules: see `augment`.
    attach: (index in the source, sample as it is there, what becomes of it) ->
      further arrays of the sample; picklable where there are workers.

  Returns:
    An iterator over dictionaries of arrays [b/processes ...].

  Raises:
    InputError: the batch is larger than the split.
  """
  transform = functools.partial(
    augment if attach is None else _augment_and_attach,
    labels=dataset.labels,
    scales=tuple(scales),
    flip=flip,
    rules=rules,
  )
  if attach is not None:
    transform = functools.partial(transform, attach=attach)
    source = _numbered(source)
  shuffled = _shuffled(source, batch_size=batch_size, epochs=epochs, seed=seed)
  samples = shuffled.random_map(transform).map(_typed_as(dataset))
  return _batches(samples[start_step * batch_size :], batch_size, num_workers)


def _shuffled(
  source: Source, *, batch_size: int, epochs: int, seed: int
) -> grain.MapDataset:
  """The samples of all epochs."""
  used = steps_per_epoch(len(source), batch_size) * batch_size
  if not isinstance(source, Mixed):
    samples = grain.MapDataset.source(source).seed(seed).shuffle()[:used]
    return samples.repeat(epochs)
  parts = [
    grain.MapDataset.source(part).seed(seed + i).shuffle().repeat()
    for i, part in enumerate(source.parts)
  ]
  mixed = grain.MapDataset.mix(parts, weights=source.rates)
  # The parts take turns. Within a batch they change places, or else a device,
  # or a micro-batch, could get all of one.
  return grain.experimental.WindowShuffleMapDataset(
    mixed[: used * epochs], window_size=batch_size, seed=seed
  ).seed(seed)


def _numbered(source: Source) -> Source:
  """The source, whose samples come with their index."""
  if not isinstance(source, Mixed):
    return _Numbered(source)
  firsts = np.cumsum([0, *map(len, source.parts)])
  parts = [
    _Numbered(part, int(first))
    for part, first in zip(source.parts, firsts, strict=False)
  ]
  return Mixed(parts, source.rates)


class _Numbered:
  """A source whose samples come with their index, counted from `first`."""

  def __init__(self, source: Source, first: int = 0):
    self._source, self._first = source, first

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    return self._first + index, self._source[index]


def _augment_and_attach(numbered, rng, *, labels, scales, flip, rules, attach):
  index, sample = numbered
  change = draw_change(rng, sample['image'].shape[:2], scales=scales, flip=flip)
  changed = apply_change(sample, change, labels=labels, rules=rules)
  return {**changed, **attach(index, sample, change)}


def eval_batches(
  dataset: Dataset, source: Source, *, batch_size: int, num_workers: int
) -> Iterator[Batch]:
  """Iterates over this process's share of a split, once and in order.

  The last batch is padded with samples that have no labels, which no loss or
  metric counts: every batch has the same shape, and the whole split is scored.

  Args:
    dataset: says what the labels mean.
    source: the samples of the split.
    batch_size: of the global batch, over all processes.
    num_workers: see `train_batches`.
  """
  padded = _Padded(dataset, source, batch_size)
  samples = grain.MapDataset.source(padded).map(_typed_as(dataset))
  if len(padded) < _WORTH_WORKERS:
    num_workers = 0
  return _batches(samples, batch_size, num_workers)


def _typed_as(dataset: Dataset) -> Callable[[Sample], Sample]:
  """Gives a sample the dtypes that labels are described with.

  A dataset may hold classes as uint8. Steps are compiled for int32, which is
  also what the samples have that pad a batch.
  """
  dtypes = {name: x.dtype for name, x in dataset.missing_sample().items()}
  return functools.partial(_typed, dtypes=dtypes)


def _typed(sample, dtypes):
  return {k: np.asarray(x, dtypes.get(k)) for k, x in sample.items()}


class _Padded:
  """A source padded to a whole number of batches."""

  def __init__(self, dataset: Dataset, source: Source, batch_size: int):
    self._source = source
    self._missing = dataset.missing_sample()
    self._length = -(-len(source) // batch_size) * batch_size

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    real = index < len(self._source)
    return self._source[index] if real else self._missing


def _batches(samples, batch_size, num_workers):
  share = _share(samples, batch_size)
  share = share.batch(batch_size // jax.process_count())
  if num_workers == 0:
    count = max(2, min(_MOST_THREADS, os.cpu_count() or 1))
    threads = grain.ReadOptions(
      num_threads=count, prefetch_buffer_size=count + 2
    )
    return iter(share.to_iter_dataset(threads))
  threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  if not flags.FLAGS.is_parsed():
    # Grain's workers read absl flags, which nothing parses in a notebook.
    flags.FLAGS.mark_as_parsed()
  _free_where_dropped()
  options = grain.MultiprocessingOptions(
    num_workers=num_workers, per_worker_buffer_size=2
  )
  return _own_arrays(share.to_iter_dataset(threads).mp_prefetch(options))


def _share(samples: grain.MapDataset, batch_size: int) -> grain.MapDataset:
  """This process's samples: of every batch, those that its devices hold.

  Processes have the first, second .. part of a batch. Its order decides which
  samples a micro-batch, or a part that a balancer draws, consists of.
  """
  if jax.process_count() == 1:
    return samples
  length = batch_size // jax.process_count()
  first = jax.process_index() * length
  # In turns, one of every place in the batch.
  return grain.MapDataset.mix(
    [samples[first + i :: batch_size] for i in range(length)]
  )


def share_size(samples: int, batch_size: int) -> int:
  """How many samples of a split this process reads, without padding."""
  length = batch_size // jax.process_count()
  first = jax.process_index() * length
  whole, rest = divmod(samples, batch_size)
  return whole * length + min(max(0, rest - first), length)


def _own_arrays(batches: grain.IterDataset) -> Iterator[Batch]:
  """Copies batches out of the memory that workers share, and ends the workers.

  What is left of that memory when the process ends is reported as leaked.
  """
  iterator = iter(batches)
  _open.add(iterator)
  try:
    # Not in a loop, whose variable would hold on to the last one.
    yield from map(_copied, iterator)
  finally:
    iterator.close()


def _copied(batch: Batch) -> Batch:
  return {name: np.array(x) for name, x in batch.items()}


def _free_where_dropped() -> None:
  """Has shared memory freed in the thread that drops it, not in one of Grain's.

  Batches that nobody took lie in cycles of references. The garbage collector
  finalizes an array and its memory in one pass: the first would have Grain's
  thread close it, and the second closes it at the same time, or after another
  file has got its descriptor.
  """
  SharedMemoryArray.enable_async_del = lambda *unused: None


# Of batches that somebody may still wait for when the process ends.
_open: weakref.WeakSet[grain.DatasetIterator] = weakref.WeakSet()


@atexit.register
def _free_shared_memory() -> None:
  """Ends all workers, while what frees the memory of batches is there."""
  for iterator in tuple(_open):
    iterator.close()
  gc.collect()
