"""Which differences rounding explains, and which it does not."""

from fixtures.toy import ALL_TASKS
import numpy as np
import pytest

from mtl_kd_jax.exporting.comparison import compare, made_pictures
from mtl_kd_jax.prediction.outputs import finish


def draw(task, seed=0):
  channels = ALL_TASKS[task].channels
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, 4, 5, channels)).astype(np.float32)


def difference(task, found, raw, outputs='finished'):
  return compare(ALL_TASKS[task], found, raw, outputs=outputs)


@pytest.mark.parametrize('task', ALL_TASKS)
@pytest.mark.parametrize('outputs', ['finished', 'raw'])
def test_the_same_is_accepted_and_rounding_is(task, outputs):
  raw = draw(task)
  near = raw * np.float32(1 + 1e-6)
  for x in (raw, near):
    found = x if outputs == 'raw' else finish(ALL_TASKS[task], x)
    assert difference(task, found, raw, outputs).accepted
  exact = raw if outputs == 'raw' else finish(ALL_TASKS[task], raw)
  assert difference(task, exact, raw, outputs).largest == 0


@pytest.mark.parametrize('task', ALL_TASKS)
@pytest.mark.parametrize('outputs', ['finished', 'raw'])
def test_another_network_is_not(task, outputs):
  raw, other = draw(task), draw(task, seed=1)
  found = other if outputs == 'raw' else finish(ALL_TASKS[task], other)
  assert not difference(task, found, raw, outputs).accepted


def test_a_class_may_differ_where_two_scores_are_equal():
  raw = draw('semantic')
  raw[0, 0, 0, :2] = 9, 9 - 1e-5
  found = finish(ALL_TASKS['semantic'], raw)
  found[0, 0, 0] = 1
  result = difference('semantic', found, raw)
  assert result.accepted and result.largest == 1 / found.size
  assert result.text == '1 of 40 pixels of another class'
  raw[0, 0, 0, 1] = 8.9
  assert not difference('semantic', found, raw).accepted
  found[0, 0, 0] = raw.shape[-1]  # no class at all
  assert not difference('semantic', found, raw).accepted


def test_a_normal_may_turn_where_its_vector_is_short():
  raw = draw('normals')
  raw[0, 0, 0] = 1e-5, 0, 0
  turned = raw.copy()
  turned[0, 0, 0] = 0, 1e-5, 0
  found = finish(ALL_TASKS['normals'], turned)
  assert difference('normals', found, raw).accepted
  raw[0, 0, 0], turned[0, 0, 0] = (1, 0, 0), (0, 1, 0)
  found = finish(ALL_TASKS['normals'], turned)
  assert not difference('normals', found, raw).accepted


@pytest.mark.parametrize(
  'change',
  [
    lambda x: np.full_like(x, np.nan),
    lambda x: x.astype(np.float64),
    lambda x: x[:1],
  ],
  ids=['NaN', 'dtype', 'shape'],
)
def test_other_arrays_are_not_accepted(change):
  raw = draw('depth')
  assert not difference('depth', change(raw[..., 0]), raw).accepted


def test_pictures_are_bytes_of_any_size():
  pictures = made_pictures((32, 40))
  assert pictures.shape == (4, 32, 40, 3) and pictures.dtype == np.uint8
  for picture in pictures:
    assert picture.std() > 5
