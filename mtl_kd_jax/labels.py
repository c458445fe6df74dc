"""What the values of a label mean, and how a missing pixel is stored.

| quantity  | dtype, axes     | meaning               | missing pixel |
|-----------|-----------------|-----------------------|---------------|
| class     | int32 [h w]     | class id, from 0      | -1            |
| depth     | float32 [h w 1] | distance along z, > 0 | 0             |
| disparity | float32 [h w 1] | inverse depth, > 0    | 0             |
| normal    | float32 [h w 3] | unit vector, camera   | 0, 0, 0       |

Normals are given in the camera's frame. The directions of its axes are up to
the dataset (docs/data.md), and no task depends on them, with one exception: the
first component is horizontal, because mirroring an image negates it.
"""

import dataclasses

import numpy as np

from mtl_kd_jax.errors import InputError

# quantity -> dtype, channels (0: no channel axis), value of a missing pixel
_FORMS = {
  'class': (np.int32, 0, -1),
  'depth': (np.float32, 1, 0),
  'disparity': (np.float32, 1, 0),
  'normal': (np.float32, 3, 0),
}
QUANTITIES = tuple(_FORMS)


@dataclasses.dataclass(frozen=True)
class Label:
  """What the values of one label mean.

  Attributes:
    quantity: 'class', 'depth', 'disparity' or 'normal'; determines how the
      label is stored and augmented.
    unit: the unit shown in the result tables, e.g. 'm'; '' if it has none.
    classes: the class names in the order of their ids (quantity 'class' only).
    colors: (red, green, blue) in 0..255 of every class, if the dataset defines
      them; () to choose colors automatically.

  Raises:
    InputError: the quantity is unknown.
  """

  quantity: str
  unit: str = ''
  classes: tuple[str, ...] = ()
  colors: tuple[tuple[int, int, int], ...] = ()

  def __post_init__(self):
    """Checks the quantity, which everything else is looked up by."""
    if self.quantity not in _FORMS:
      raise InputError(
        expected=f'a known quantity: {", ".join(QUANTITIES)}',
        found=repr(self.quantity),
        argument='quantity',
        do='choose one of them',
      )

  def missing(self, size: tuple[int, int]) -> np.ndarray:
    """An array [h w] or [h w c] in which every pixel is unlabeled."""
    dtype, channels, value = _FORMS[self.quantity]
    shape = (*size, channels) if channels else size
    return np.full(shape, value, dtype)

  def known(self, array: np.ndarray) -> np.ndarray:
    """Which pixels of an array [h w] or [h w c] are labeled, bool [h w]."""
    _, channels, value = _FORMS[self.quantity]
    differs = array != value
    return differs.any(axis=-1) if channels else differs
