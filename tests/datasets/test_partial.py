"""Partial labels: which are hidden, and that the rest stays as it is."""

import functools
import pickle

from fixtures.configs import tiny
from fixtures.samples import LABELS, RandomSource
from fixtures.toy import TASKS, make_parts, make_teachers
import jax
import numpy as np
import pytest

from mtl_kd_jax.config.build import build
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.errors import InputError

SIZE = (4, 6)
hide = functools.partial(hide_labels, labels=LABELS)


class Gappy(RandomSource):
  """A source whose every second sample has no normals of its own."""

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


def test_a_share_is_exact_and_each_task_draws_for_itself():
  source = RandomSource(40, SIZE)
  assert counts(hide(source, keep=0.3, seed=0)) == dict.fromkeys(LABELS, 12)
  keep = {'depth': 0.51, 'normals': 0.01}
  assert counts(hide(source, keep=keep, seed=0)) == {
    'semantic': 40,
    'depth': 21,
    'normals': 1,
  }
  # Not one and the same fifth for all tasks.
  assert len(set(kept(hide(source, keep=0.5, seed=0)))) > 3


def test_a_larger_share_and_another_task_leave_the_rest_as_it_was():
  source = RandomSource(30, SIZE)
  few = kept(hide(source, keep={'depth': 0.2}, seed=0))
  more = kept(hide(source, keep={'depth': 0.6, 'semantic': 0.5}, seed=0))
  for a, b in zip(few, more, strict=True):
    assert 'depth' not in a or 'depth' in b


@pytest.mark.parametrize('keep', [0.5, 'one', {'depth': 0.5}], ids=str)
def test_only_the_seed_and_the_index_decide(keep):
  source = RandomSource(20, SIZE)
  first = hide(source, keep=keep, seed=0)
  again = hide_labels(
    source, labels=dict(reversed(LABELS.items())), keep=keep, seed=0
  )
  copy = pickle.loads(pickle.dumps(first))  # in a worker process
  expected = kept(first)
  assert kept(first) == kept(again) == kept(copy) == expected
  assert kept(hide(source, keep=keep, seed=1)) != expected


def test_one_label_is_drawn_for_each_image_with_equal_chance():
  partial = hide(RandomSource(300, SIZE), keep='one', seed=0)
  assert {len(k) for k in kept(partial)} == {1}
  for task, count in counts(partial).items():
    assert 75 <= count <= 125, task


def test_the_one_label_is_one_that_the_sample_has():
  partial = hide(Gappy(60, SIZE), keep='one', seed=0)
  labels = kept(partial)
  assert {len(k) for k in labels} == {1}
  assert not any('normals' in k for k in labels[1::2])
  assert any('normals' in k for k in labels[::2])


def test_a_sample_without_any_label_stays_without():
  class Empty(RandomSource):
    def __getitem__(self, index):
      sample = super().__getitem__(index)
      return sample | {t: x.missing(SIZE) for t, x in LABELS.items()}

  assert kept(hide(Empty(3, SIZE), keep='one', seed=0)) == [frozenset()] * 3


@pytest.mark.parametrize('keep', [0.5, 'one'])
def test_what_is_kept_is_bit_for_bit_the_same_and_the_rest_is_missing(keep):
  source = RandomSource(8, SIZE)
  partial = hide(source, keep=keep, seed=0)
  assert len(partial) == 8
  for i, tasks in enumerate(kept(partial)):
    whole, part = source[i], partial[i]
    assert whole.keys() == part.keys()
    np.testing.assert_array_equal(part['image'], whole['image'])
    for task, label in LABELS.items():
      expected = whole[task] if task in tasks else label.missing(SIZE)
      np.testing.assert_array_equal(part[task], expected)
      assert part[task].dtype == whole[task].dtype


def test_all_labels_is_the_source_itself():
  source = RandomSource(3, SIZE)
  assert hide(source, keep=1.0, seed=0) is source
  assert hide(source, keep={'depth': 1}, seed=0) is source


@pytest.mark.parametrize(
  'keep, found',
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
def test_another_value_is_named_with_its_key(keep, found):
  with pytest.raises(InputError) as error:
    hide(RandomSource(3, SIZE), keep=keep, seed=0)
  assert found in error.value.found
  assert error.value.where == 'config.data.keep_labels'


# ---- In a run ----------------------------------------------------------------


def labels_of(batch):
  return [
    {
      t
      for t, task in TASKS.items()
      if np.asarray(task.valid(batch[t][i])).any()
    }
    for i in range(len(batch['image']))
  ]


@pytest.mark.parametrize(
  'keep, names',
  [('one', [1, 1, 1, 1]), ({'depth': 0.25}, [2, 2, 2, 3])],
  ids=str,
)
def test_training_alone_is_without_and_all_stages_alike(keep, names, tmp_path):
  config = tiny('quickstart', tmp_path)
  config.data.keep_labels = keep
  experiment = build(config)
  student = experiment.student()
  batches = [
    next(stage.train_batches(0))
    for stage in (student, experiment.baseline(), experiment.teacher('depth'))
  ]
  assert sorted(map(len, labels_of(batches[0]))) == names
  for batch in batches[1:]:
    for key, array in batch.items():
      np.testing.assert_array_equal(array, batches[0][key])
  assert labels_of(next(student.eval_batches())) == [set(TASKS)] * 4


def test_unusable_shares_are_found_before_training(tmp_path):
  config = tiny('quickstart', tmp_path)
  config.tasks = ('semantic', 'depth')
  config.data.keep_labels = {'normals': 0.5}
  with pytest.raises(InputError, match="'normals'"):
    build(config)


def test_the_teacher_of_an_unlabeled_task_still_supervises():
  """Depth has no label: its head stands still, its alignment does not."""
  step, state = make_parts(distill=True)
  source = hide(RandomSource(5, (32, 32)), keep={'depth': 0.01}, seed=0)
  rows = [i for i, k in enumerate(kept(source)) if 'depth' not in k]
  batch = {
    key: np.stack([source[i][key] for i in rows]) for key in ('image', *TASKS)
  }
  after, losses = jax.jit(step)(state, make_teachers(), batch)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, losses)))
  assert losses['loss/depth'] == 0 and losses['alignment/depth'] > 0
  assert [float(losses[f'labeled/{t}']) for t in TASKS] == [1, 0, 1]
  same = jax.tree.map(np.array_equal, state.params, after.params)
  assert all(jax.tree.leaves(same['head_depth']))
  adaptors = [same['adaptors'][n] for n in same['adaptors'] if 'depth' in n]
  assert adaptors and not any(jax.tree.leaves(adaptors))
