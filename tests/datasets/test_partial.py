"""Partial labels: which are hidden, and that all else is unchanged."""

import functools
import pickle

from fixtures.samples import LABELS, RandomSource
import numpy as np
import pytest

from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.errors import InputError

SIZE = (4, 6)
hide = functools.partial(hide_labels, labels=LABELS)


class EveryOtherWithoutNormals(RandomSource):
  """Every other sample has no normals."""

  def __getitem__(self, index):
    sample = super().__getitem__(index)
    if index % 2:
      sample['normals'][:] = 0
    return sample


def kept(source):
  """Which labels the samples have: a set of task names for each."""
  return [
    frozenset(t for t, label in LABELS.items() if label.known(sample[t]).any())
    for sample in map(source.__getitem__, range(len(source)))
  ]


def counts(source):
  return {task: sum(task in k for k in kept(source)) for task in LABELS}


def test_counts_are_exact_and_labels_are_independent():
  source = RandomSource(40, SIZE)
  assert counts(hide(source, fraction=0.3, seed=0)) == dict.fromkeys(LABELS, 12)
  fraction = {'depth': 0.51, 'normals': 0.01}
  assert counts(hide(source, fraction=fraction, seed=0)) == {
    'semantic': 40,
    'depth': 21,
    'normals': 1,
  }
  # 0.07 * 100 is above 7, in floating point.
  assert counts(hide(RandomSource(100, SIZE), fraction=0.07, seed=0)) == {
    **dict.fromkeys(LABELS, 7)
  }
  # Not the same samples for all labels.
  assert len(set(kept(hide(source, fraction=0.5, seed=0)))) > 3


def test_a_larger_fraction_keeps_what_a_smaller_one_keeps():
  source = RandomSource(30, SIZE)
  few = kept(hide(source, fraction={'depth': 0.2}, seed=0))
  more = kept(hide(source, fraction={'depth': 0.6, 'semantic': 0.5}, seed=0))
  for a, b in zip(few, more, strict=True):
    assert 'depth' not in a or 'depth' in b


@pytest.mark.parametrize('fraction', [0.5, 'one', {'depth': 0.5}], ids=str)
def test_only_the_seed_and_the_index_matter(fraction):
  source = RandomSource(20, SIZE)
  first = hide(source, fraction=fraction, seed=0)
  again = hide_labels(
    source, labels=dict(reversed(LABELS.items())), fraction=fraction, seed=0
  )
  copy = pickle.loads(pickle.dumps(first))  # in a worker process
  expected = kept(first)
  assert kept(first) == kept(again) == kept(copy) == expected
  assert kept(hide(source, fraction=fraction, seed=1)) != expected


def test_the_one_label_is_drawn_with_equal_probability():
  partial = hide(RandomSource(300, SIZE), fraction='one', seed=0)
  assert {len(k) for k in kept(partial)} == {1}
  for task, count in counts(partial).items():
    assert 75 <= count <= 125, task


def test_the_one_label_is_one_that_the_sample_has():
  partial = hide(EveryOtherWithoutNormals(60, SIZE), fraction='one', seed=0)
  labels = kept(partial)
  assert {len(k) for k in labels} == {1}
  assert not any('normals' in k for k in labels[1::2])
  assert any('normals' in k for k in labels[::2])


def test_a_sample_without_any_label_stays_without():
  class Empty(RandomSource):
    def __getitem__(self, index):
      sample = super().__getitem__(index)
      return sample | {t: x.missing(SIZE) for t, x in LABELS.items()}

  assert kept(hide(Empty(3, SIZE), fraction='one', seed=0)) == [frozenset()] * 3


@pytest.mark.parametrize('fraction', [0.5, 'one'])
def test_kept_labels_are_identical_and_the_others_missing(fraction):
  source = RandomSource(8, SIZE)
  partial = hide(source, fraction=fraction, seed=0)
  assert len(partial) == 8
  for i, tasks in enumerate(kept(partial)):
    whole, part = source[i], partial[i]
    assert whole.keys() == part.keys()
    np.testing.assert_array_equal(part['image'], whole['image'])
    for task, label in LABELS.items():
      expected = whole[task] if task in tasks else label.missing(SIZE)
      np.testing.assert_array_equal(part[task], expected)
      assert part[task].dtype == whole[task].dtype


def test_keeping_all_labels_returns_the_source():
  source = RandomSource(3, SIZE)
  assert hide(source, fraction=1.0, seed=0) is source
  assert hide(source, fraction={'depth': 1}, seed=0) is source


@pytest.mark.parametrize(
  'fraction, found',
  [
    ('two', "'two'"),
    (0.0, '0.0 for'),
    (1.5, '1.5 for'),
    ({'depth': 'all'}, "'all' for depth"),
    ({'sky': 0.5}, "'sky'"),
    (('depth',), "('depth',)"),
  ],
  ids=str,
)
def test_other_values_are_errors(fraction, found):
  with pytest.raises(InputError) as error:
    hide(RandomSource(3, SIZE), fraction=fraction, seed=0)
  assert found in error.value.found
  assert error.value.argument == 'fraction'
