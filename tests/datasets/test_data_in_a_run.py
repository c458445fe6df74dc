"""Data in a run: held-out samples, hidden labels, and which stages see them."""

from fixtures.configs import tiny
from fixtures.samples import LABELS, RandomSource
from fixtures.toy import ALL_TASKS, TASKS, make_parts, make_teachers
import jax
import numpy as np
import pytest

from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import select_split
from mtl_kd_jax.datasets.partial import hide_labels
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.training.loss_terms import ADAPTORS

# ---- Held-out samples --------------------------------------------------------


def batch_images(batches):
  """The images of samples with labels; the others are padding."""
  return {
    image.tobytes()
    for batch in batches
    for image, label in zip(batch['image'], batch['semantic'], strict=True)
    if (label >= 0).any()
  }


def test_checkpoints_are_selected_on_samples_that_are_not_trained_on(tmp_path):
  config = tiny('rooms', tmp_path)
  config.data.scenes.num_train = 8
  config.data.val_fraction = 0.5
  config.data.flip = False
  config.batch_size = 4
  config.epochs = 4
  experiment = build(config)
  assert experiment.steps_per_epoch == 1
  trained = batch_images(experiment.data.train(0))
  selected_on = batch_images(experiment.data.select())
  reported = batch_images(experiment.data.eval())
  assert (len(trained), len(selected_on), len(reported)) == (4, 4, 4)
  assert not trained & selected_on and not reported & (trained | selected_on)


def test_without_a_held_out_part_the_reported_split_selects(tmp_path):
  config = tiny('rooms', tmp_path)
  assert select_split(config) == 'val'
  assert build(config).data.select is None
  config.data.select_split = 'train'
  assert select_split(config) == 'train'
  assert build(config).data.select is not None
  config.data.val_fraction = 0.25
  with pytest.raises(InputError, match='select_split'):
    build(config)


def test_the_last_epochs_are_evaluated_on_the_reported_split(tmp_path):
  config = tiny('rooms', tmp_path)
  config.data.scenes.num_train = 8  # two steps an epoch
  config.epochs, config.report.average_epochs = 6, 3
  assert list(build(config).intervals.average) == [8, 10, 12]
  config.epochs = 2
  assert list(build(config).intervals.average) == [2, 4]
  config.report.average_epochs = 0
  assert list(build(config).intervals.average) == []


# ---- Hidden labels -----------------------------------------------------------


def labels_of(batch):
  return [
    {
      t
      for t, task in ALL_TASKS.items()
      if np.asarray(task.valid(batch[t][i])).any()
    }
    for i in range(len(batch['image']))
  ]


@pytest.mark.parametrize(
  'fraction, names',
  [('one', [1, 1, 1, 1]), ({'depth': 0.25}, [2, 2, 2, 3])],
  ids=str,
)
def test_labels_are_hidden_in_training_only_and_in_all_stages(
  fraction, names, tmp_path
):
  config = tiny('rooms', tmp_path)
  config.data.label_fraction = fraction
  data = build(config).data
  first, other_stage = next(data.train(0)), next(data.train(0))
  assert sorted(map(len, labels_of(first))) == names
  for key, array in first.items():
    np.testing.assert_array_equal(array, other_stage[key])
  assert labels_of(next(data.eval())) == [set(ALL_TASKS)] * 4


def test_invalid_fractions_are_found_before_training(tmp_path):
  config = tiny('rooms', tmp_path)
  config.tasks = ('semantic', 'depth')
  config.data.label_fraction = {'normals': 0.5}
  with pytest.raises(InputError, match="'normals'"):
    build(config)


def test_the_teacher_of_an_unlabeled_task_still_supervises():
  """Depth has no labels: its head does not change, its adaptors do."""
  step, state = make_parts(distill=True)
  source = hide_labels(
    RandomSource(5, (32, 32)), labels=LABELS, fraction={'depth': 0.01}, seed=0
  )
  rows = [i for i in range(5) if not source[i]['depth'].any()]
  assert len(rows) == 4  # the batch for which test_step.py compiles this step
  batch = {
    key: np.stack([source[i][key] for i in rows])
    for key in ('image', *ALL_TASKS)
  }
  after, losses = jax.jit(step)(state, make_teachers(), batch)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, losses)))
  assert losses['loss/depth'] == 0 and losses['alignment/depth'] > 0
  assert [float(losses[f'labeled/{t}']) for t in TASKS] == [0, 1]
  unchanged = jax.tree.map(np.array_equal, state, after)
  assert all(jax.tree.leaves(unchanged.params['head_depth']))
  adaptors = unchanged.extras[ADAPTORS]['params']
  of_depth = [adaptors[name] for name in adaptors if 'depth' in name]
  assert of_depth and not any(jax.tree.leaves(of_depth))
