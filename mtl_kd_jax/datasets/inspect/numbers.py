"""What looks wrong with numbers, vectors, points and maps of points."""

from collections.abc import Iterator

import numpy as np

from mtl_kd_jax.datasets.inspect.finding import Defect, range_of

# More different whole numbers in maps are no ids of classes.
_MAX_CLASSES = 64
# Fewer values say nothing about what they are.
_MIN_VALUES = 100
# A spread of numbers, above which their loss outweighs that of other tasks.
_LARGE = 20.0
# Share of labeled points outside the picture that is tolerated.
_TOLERATED_POINTS = 0.01


def of_numbers(task, facts, label) -> Iterator[Defect]:
  """Numbers that are classes or flags, that never change, or are large."""
  values = np.concatenate([f.values for f in facts])
  distinct = np.unique(values)
  if len(values) >= _MIN_VALUES and (distinct == np.rint(distinct)).all():
    if set(distinct) <= {0, 1}:
      kind = 'binary' if label.is_map else 'image_multilabel'
      yield Defect(
        'all values are 0 or 1',
        'if they mean no and yes, declare it: '
        f"config.task.{task} = {{'kind': '{kind}', ...}}",
      )
      return
    if label.is_map and distinct[0] >= 0 and len(distinct) <= _MAX_CLASSES:
      yield Defect(
        f'{len(distinct)} different values, all of them whole numbers',
        'if they are ids of classes, declare it: '
        f"config.task.{task} = {{'kind': 'classes', 'classes': (...), ...}}",
      )
      return
  ends = np.array([f.ends for f in facts if f.known])  # [samples c 2]
  constant = np.flatnonzero(ends[..., 0].min(0) == ends[..., 1].max(0))
  if len(ends) > 1 and constant.size:
    names = label.classes or tuple(map(str, range(label.num_channels)))
    named = ', '.join(f'{names[i]} = {ends[0, i, 0]:g}' for i in constant)
    yield Defect(
      f'always the same: {named}',
      'nothing is learned from it: check what the files hold',
    )
  spread = np.subtract(*np.quantile(values, (0.98, 0.02)))
  if spread > _LARGE:
    factor = 10.0 ** -np.floor(np.log10(spread))
    yield Defect(
      f'96 % of the values are within {spread:.3g} of each other',
      'losses of numbers this large outweigh those of other tasks: choose '
      f'another unit, e.g. {factor:g} times these numbers; of files in a '
      f"folder or table, config.task.{task} has an entry 'scale'",
    )


def of_vectors(task, facts, label) -> Iterator[Defect]:
  """Vectors that are longer than the image, or always 0."""
  del label
  low, high = range_of(facts)
  side = max(max(f.size) for f in facts)
  if low == high == 0:
    yield Defect('all are 0', 'nothing moves: check what the files hold')
  elif max(high, -low) > side:
    yield Defect(
      f'components up to {max(high, -low):.4g}, of an image of {side} pixels',
      'vectors are in pixels of the image, right and down; of files in a '
      f"folder, config.task.{task} has entries 'scale' and 'invalid'",
    )


def of_heatmaps(task, facts, label) -> Iterator[Defect]:
  """Values outside of 0 to 1."""
  del label
  low, high = range_of(facts)
  if low < 0 or high > 1:
    yield Defect(
      f'values from {low:.4g} to {high:.4g}, which should be from 0 to 1',
      'divide by the largest; -1 is for unlabeled pixels; of files in a '
      f"folder, config.task.{task} has an entry 'scale'",
    )


def of_points(task, facts, label) -> Iterator[Defect]:
  """Points outside the picture, and coordinates that are not pixels."""
  del task, label
  known = sum(f.known for f in facts)
  outside = sum(f.outside for f in facts)
  low, high = range_of(facts)
  if 0 <= low and high <= 1 and known > 1:
    yield Defect(
      f'all coordinates are from {low:.3g} to {high:.3g}',
      'if they are shares of width and height, multiply by these: points are '
      'in pixels, x first, from the center of the first one',
    )
  elif outside > _TOLERATED_POINTS * known:
    samples = sum(f.outside > 0 for f in facts)
    yield Defect(
      f'{outside} of {known} points are outside the picture, in {samples} of '
      f'{len(facts)} samples',
      'points are in pixels of the file, x before y: check the order, and the '
      'size of the pictures that they were marked in',
    )
