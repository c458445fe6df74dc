"""What is checked once before training, of a dataset that anyone may build."""

import io

from fixtures.samples import LABELS, random_sample
import numpy as np
import pytest
from rich.console import Console

from mtl_kd_jax.datasets import Dataset, Label
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.datasets.holdout import hold_out
from mtl_kd_jax.errors import InputError

SIZE = (8, 12)


class Remarked(list):
  """Samples with remarks on those that are bright."""

  def examine(self, index):
    bright = self[index]['image'].mean() > 0.9
    return self[index], ('images are bright',) * bool(bright)


def make_samples(count, seed=0):
  return [random_sample(SIZE, (seed, i)) for i in range(count)]


def make_dataset(train, **fields):
  return Dataset(
    name='mine [1]',
    image_size=SIZE,
    labels=LABELS,
    sources={'train': lambda: train, 'val': lambda: make_samples(2, seed=1)},
    **fields,
  )


def check(dataset, splits=('train', 'val')):
  console = Console(file=io.StringIO(), width=200)
  check_dataset(dataset, splits, console=console)
  return console.file.getvalue().splitlines()


def test_nothing_is_printed_of_sound_data():
  assert check(make_dataset(make_samples(5))) == []


def test_notes_of_the_dataset_are_printed_once():
  dataset = make_dataset(make_samples(2), notes=('a [b] is not used',))
  dataset = hold_out(dataset, 'train', fraction=0.5, seed=0)
  lines = check(dataset, ('train', 'held_out', 'val', 'train'))
  assert lines == ['note: a [b] is not used']


def test_remarks_are_counted_also_of_what_is_held_out():
  samples = Remarked(make_samples(4))
  for sample in samples[:3]:
    sample['image'][:] = 1
  dataset = make_dataset(samples)
  assert check(dataset) == ['note: train: 3 of 4 images are bright']
  dataset = hold_out(dataset, 'train', fraction=0.5, seed=0)
  lines = check(dataset, ('train', 'held_out'))
  assert sum(int(line.split()[2]) for line in lines) == 3


def test_classes_without_pixels_are_named_once():
  samples = make_samples(3)
  for sample in samples:
    np.minimum(sample['semantic'], 1, out=sample['semantic'])
  dataset = make_dataset(samples)
  (line,) = check(dataset, ('train', 'val', 'train'))
  assert line == (
    'note: train: 2 of the 4 classes of semantic have no pixel: c, d'
  )
  reason = InputError(expected='a', found='b', where='c', do='d')
  dataset = make_dataset(samples, why_absent={'semantic': reason}.get)
  with pytest.raises(InputError) as error:
    check(dataset)
  assert error.value is reason
  assert check(dataset, ('val',)) == []


def test_a_split_without_labels_is_no_error():
  samples = make_samples(2)
  for sample in samples:
    sample['semantic'][:] = -1
  (line,) = check(make_dataset(samples))
  assert '4 of the 4 classes' in line


WRONG = {
  'no image': lambda s: s.pop('image') is None,
  'no label': lambda s: s.pop('depth') is None,
  'image of None': lambda s: s.update(image=None),
  'image of bytes': lambda s: s.update(image=s['image'].astype(np.uint8)),
  'image as a list': lambda s: s.update(image=s['image'].tolist()),
  'image of objects': lambda s: s.update(image=s['image'].astype(object)),
  'image that is complex': lambda s: s.update(image=s['image'] * 1j),
  'image that is gray': lambda s: s.update(image=s['image'][..., 0]),
  'image of another size': lambda s: s.update(image=s['image'][:-1]),
  'image with channels first': lambda s: s.update(
    image=s['image'].transpose(2, 0, 1)
  ),
  'image of NaN': lambda s: s.update(image=s['image'] * np.nan),
  'semantic of floats': lambda s: s.update(
    semantic=s['semantic'].astype(np.float32)
  ),
  'semantic of bool': lambda s: s.update(semantic=s['semantic'] > 0),
  'semantic of 255': lambda s: s.update(
    semantic=np.where(s['semantic'] < 0, 255, s['semantic'])
  ),
  'semantic of -2': lambda s: s.update(semantic=s['semantic'] - 2),
  'semantic with channels': lambda s: s.update(
    semantic=s['semantic'][..., None]
  ),
  'depth without a channel': lambda s: s.update(depth=s['depth'][..., 0]),
  'depth of integers': lambda s: s.update(depth=s['depth'].astype(np.int32)),
  'normals of two components': lambda s: s.update(
    normals=s['normals'][..., :2]
  ),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_sample_of_another_form_is_named(case):
  samples = make_samples(3)
  WRONG[case](samples[1])
  with pytest.raises(InputError) as error:
    check(make_dataset(samples))
  key = {'no image': 'image', 'no label': 'depth'}.get(case, case.split()[0])
  assert error.value.expected.startswith(f'{key}: ')
  assert error.value.where == 'sample 1 of train of mine [1]'
  assert len(error.value.do) > 15


def test_a_sample_that_is_none_is_named():
  for wrong in (None, [1, 2], 'text'):
    samples = [random_sample(SIZE, 0), wrong]
    with pytest.raises(InputError, match='sample 1 of train'):
      check(make_dataset(samples))


def test_integers_and_floats_of_any_width_are_accepted():
  samples = make_samples(2)
  samples[0]['image'] = samples[0]['image'].astype(np.float64)
  samples[0]['semantic'] = np.abs(samples[0]['semantic']).astype(np.uint8)
  assert check(make_dataset(samples)) == []


@pytest.mark.parametrize('classes', [(), ('thing',)])
def test_a_label_of_fewer_than_two_classes_is_refused(classes):
  with pytest.raises(InputError, match='two or more classes of mask') as error:
    Dataset('mine', SIZE, {'mask': Label('class', classes=classes)}, {})
  assert error.value.argument == 'labels'


@pytest.mark.parametrize('fraction', [0, -1, 1, 2, np.nan, np.inf])
def test_a_share_to_hold_out_is_between_0_and_1(fraction):
  with pytest.raises(InputError) as error:
    hold_out(make_dataset(make_samples(3)), 'train', fraction=fraction, seed=0)
  assert error.value.argument == 'fraction'
