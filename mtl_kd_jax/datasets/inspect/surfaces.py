"""What looks wrong with depth, disparity and normals."""

from collections.abc import Iterator

import numpy as np

from mtl_kd_jax.datasets.inspect.finding import Defect, range_of

# A larger median depth in meters is neither that of rooms nor of streets.
_MAX_MEDIAN_DEPTH = 100.0
# Lines on planes that are needed, and the fraction of them that must agree.
_MIN_VOTES, _MAJORITY = 100, 0.8
# Correlation above which normals face away; in rooms it is about -0.6. The same
# for a single sample, and the fraction of such samples that is tolerated.
_AWAY, _SAMPLE_AWAY, _TOLERATED_SAMPLES = 0.1, 0.3, 0.1
# Fraction of vectors with a wrong length that is tolerated.
_TOLERATED_VECTORS = 0.001
_STRAIGHT = {'disparity': 'the values', 'depth': 'the inverse values'}


def of_depth(task, facts, label) -> Iterator[Defect]:
  """Depth below 0, in another unit, or which is disparity."""
  yield from _negative(facts)
  median = np.median(np.concatenate([f.values for f in facts]))
  if label.unit == 'm' and median > _MAX_MEDIAN_DEPTH:
    unit, factor = ('milli', 1000) if median > 300 else ('centi', 100)
    yield Defect(
      f'the median is {median:.4g}, which should be meters',
      f'if these are {unit}meters, divide by {factor}; of files in a folder, '
      f"config.task.{task} has an entry 'scale': {1 / factor:g}",
    )
  yield from _quantity(task, facts, 'depth')


def of_disparity(task, facts, label) -> Iterator[Defect]:
  """Disparity below 0, or which is depth."""
  del label
  yield from _negative(facts)
  yield from _quantity(task, facts, 'disparity')


def _negative(facts) -> Iterator[Defect]:
  low, _ = range_of(facts)
  if low < 0:
    yield Defect(
      f'values below 0, down to {low:g}', 'missing pixels are exactly 0'
    )


def _quantity(task, facts, expected) -> Iterator[Defect]:
  votes = np.array([f.planes for f in facts]).sum(0)
  other = votes[1] if expected == 'depth' else votes[0]
  if votes.sum() >= _MIN_VOTES and other > _MAJORITY * votes.sum():
    found = 'disparity' if expected == 'depth' else 'depth'
    yield Defect(
      f'behaves like {found}: on {other / votes.sum():.0%} of {votes.sum():,} '
      f'lines on planes {_STRAIGHT[found]} are on a straight line',
      f'if it is {found}, convert it (depth = focal length x baseline / '
      f"disparity), or declare it: config.task.{task} = {{'kind': '{found}', "
      '...}. The two are augmented in opposite ways',
    )


def of_normals(task, facts, label) -> Iterator[Defect]:
  """Vectors of other lengths, or that face away from the camera."""
  del task, label
  known = sum(f.known for f in facts)
  wrong = sum(f.wrong_length for f in facts)
  if wrong > _TOLERATED_VECTORS * known:
    colors = range_of(facts)[0] >= 0
    yield Defect(
      f'{wrong / known:.1%} of the vectors do not have length 1'
      + (', and none has a negative component' if colors else ''),
      'if they are stored as colors, convert them by 2 x color - 1, and scale '
      'them to length 1'
      if colors
      else 'scale them to length 1; interpolation shortens them',
    )
    if colors:
      return  # the direction of colors means nothing
  total, bound = np.array([f.facing for f in facts]).sum(0)
  samples = [f.facing[0] / f.facing[1] for f in facts if f.facing[1] > 0]
  away = sum(c > _SAMPLE_AWAY for c in samples)
  if total > _AWAY * bound:
    yield Defect(
      'face away from the camera: at the left of the images they point left',
      'negate them; if only x points left, negate x: mirroring relies on the '
      'first component being horizontal',
    )
  elif len(samples) > 1 and away > _TOLERATED_SAMPLES * len(samples):
    yield Defect(
      f'face away from the camera in {away} of {len(samples)} samples',
      'negate the normals of these samples',
    )
