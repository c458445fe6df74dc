"""What the values of a label mean, and how a missing one is stored.

| quantity         | dtype, axes     | meaning                       | missing |
|------------------|-----------------|-------------------------------|---------|
| class            | int32 [h w]     | class id, from 0              | -1      |
| binary           | int32 [h w]     | 0 or 1                        | -1      |
| multilabel       | int32 [h w c]   | 0 or 1 of every class         | -1      |
| depth            | float32 [h w 1] | distance along z, > 0         | 0       |
| disparity        | float32 [h w 1] | inverse depth, > 0            | 0       |
| normal           | float32 [h w 3] | unit vector, camera           | 0, 0, 0 |
| regression       | float32 [h w c] | numbers                       | NaN     |
| vector           | float32 [h w 2] | right and down, in pixels     | NaN     |
| heatmap          | float32 [h w c] | 0 to 1, how near a point is   | -1      |
| points           | float32 [c 3]   | x, y in pixels; 1             | 0, 0, 0 |
| image_class      | int32 []        | class id, from 0              | -1      |
| image_multilabel | int32 [c]       | 0 or 1 of every class         | -1      |
| image_regression | float32 [c]     | numbers                       | NaN     |

The last three say something of the image as a whole. Points are numbered like
pixels: the center of the first pixel is (0, 0).

Normals are given in the camera's frame. The directions of its axes are up to
the dataset (docs/data.md), and no task depends on them, with one exception: the
first component is horizontal, because mirroring an image negates it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.errors import InputError, hint


class _Form(NamedTuple):
  """How values of a quantity are stored.

  Attributes:
    dtype: of the array.
    axes: 'h w', 'h w c', 'c 3', 'c' or ''.
    missing: the value that stands for a missing label.
    channels: c, where the quantity says it; 0 where the label does.
  """

  dtype: type
  axes: str
  missing: float
  channels: int = 0


_FORMS = {
  'class': _Form(np.int32, 'h w', -1),
  'binary': _Form(np.int32, 'h w', -1),
  'multilabel': _Form(np.int32, 'h w c', -1),
  'depth': _Form(np.float32, 'h w c', 0, 1),
  'disparity': _Form(np.float32, 'h w c', 0, 1),
  'normal': _Form(np.float32, 'h w c', 0, 3),
  'regression': _Form(np.float32, 'h w c', np.nan),
  'vector': _Form(np.float32, 'h w c', np.nan, 2),
  'heatmap': _Form(np.float32, 'h w c', -1),
  'points': _Form(np.float32, 'c 3', 0),
  'image_class': _Form(np.int32, '', -1),
  'image_multilabel': _Form(np.int32, 'c', -1),
  'image_regression': _Form(np.float32, 'c', np.nan),
}
QUANTITIES = tuple(_FORMS)


@dataclasses.dataclass(frozen=True)
class Label:
  """What the values of one label mean.

  Attributes:
    quantity: of the table above; determines how the label is stored and
      augmented.
    unit: the unit shown in the result tables, e.g. 'm'; '' if it has none.
    classes: the names of the classes in the order of their ids; of points and
      of the channels of a map, their names where they have any.
    colors: (red, green, blue) in 0..255 of every class, if the dataset defines
      them; () to choose colors automatically.
    channels: c of the table, where neither the quantity nor `classes` say it.
    pairs: the numbers of two classes, points or channels that mirroring the
      image exchanges, such as those of left and right eyes.

  Raises:
    InputError: the quantity is unknown, or a pair is none.
  """

  quantity: str
  unit: str = ''
  classes: tuple[str, ...] = ()
  colors: tuple[tuple[int, int, int], ...] = ()
  channels: int = 0
  pairs: tuple[tuple[int, int], ...] = ()

  def __post_init__(self):
    """Checks the quantity, which everything else is looked up by."""
    if self.quantity not in _FORMS:
      raise InputError(
        expected=f'a known quantity: {", ".join(QUANTITIES)}',
        found=repr(self.quantity),
        argument='quantity',
        do=f'choose one of them{hint(self.quantity, QUANTITIES)}',
      )
    numbers = [i for pair in self.pairs for i in pair]
    known = range(len(self.classes) or self.num_channels)
    valid = all(len(pair) == 2 for pair in self.pairs)
    if not valid or len({*numbers}) < len(numbers) or {*numbers} - {*known}:
      raise InputError(
        expected=f'pairs of different numbers from 0 to {len(known) - 1}',
        found=f'{self.pairs}',
        argument='pairs',
        do='name two classes, points or channels that are the same thing on '
        'the left and on the right',
      )

  @property
  def num_channels(self) -> int:
    """C of the table; 0 for a label without such an axis."""
    form = _FORMS[self.quantity]
    if 'c' not in form.axes.split():
      return 0
    return form.channels or self.channels or len(self.classes) or 1

  @property
  def dtype(self) -> type:
    """The type of its numbers, of NumPy."""
    return _FORMS[self.quantity].dtype

  @property
  def values(self) -> tuple[str, ...]:
    """What whole numbers stand for, or the channels of flags; () for none."""
    if self.quantity == 'binary':
      return self.classes or ('no', 'yes')
    return self.classes if self.dtype == np.int32 else ()

  @property
  def is_map(self) -> bool:
    """Whether it says something of every pixel: arrays [h w] or [h w c]."""
    return _FORMS[self.quantity].axes.startswith('h w')

  @property
  def axes(self) -> str:
    """The axes of its arrays, as in the table."""
    return _FORMS[self.quantity].axes

  @property
  def swapped(self) -> np.ndarray:
    """For every class, point or channel the one it is in a mirrored image."""
    order = np.arange(len(self.classes) or self.num_channels)
    for one, two in self.pairs:
      order[[one, two]] = two, one
    return order

  def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
    """The shape of its array for an image of (height, width)."""
    lengths = {'h': size[0], 'w': size[1], 'c': self.num_channels, '3': 3}
    return tuple(lengths[axis] for axis in self.axes.split())

  def missing(self, size: tuple[int, int]) -> np.ndarray:
    """An array for an image of (height, width) in which nothing is labeled."""
    form = _FORMS[self.quantity]
    return np.full(self.shape(size), form.missing, form.dtype)

  def known(self, array: np.ndarray) -> np.ndarray:
    """Where an array is labeled: bool [h w]; of points [c]; of an image []."""
    form = _FORMS[self.quantity]
    if np.isnan(form.missing):
      return np.asarray(~np.isnan(array).any(axis=-1))
    differs = np.asarray(array != form.missing)
    if form.axes.endswith(('c', '3')):
      differs = np.asarray(differs.any(axis=-1))
    return differs
