"""What the numbers of a label mean, and how a missing pixel is written.

| quantity  | dtype, axes     | meaning               | missing pixel |
|-----------|-----------------|-----------------------|---------------|
| class     | int32 [h w]     | class id, from 0      | -1            |
| depth     | float32 [h w 1] | distance along z, > 0 | 0             |
| disparity | float32 [h w 1] | inverse depth, > 0    | 0             |
| normal    | float32 [h w 3] | unit vector, camera   | 0, 0, 0       |

Normals live in the camera's frame. Which way its axes point is the dataset's
choice (docs/data.md) and no task depends on it, but for one thing: the first
component is the horizontal one, which mirroring an image negates.
"""

import dataclasses

import numpy as np

# quantity -> dtype, channels (0: no such axis), value of a missing pixel
_FORMS = {
  'class': (np.int32, 0, -1),
  'depth': (np.float32, 1, 0),
  'disparity': (np.float32, 1, 0),
  'normal': (np.float32, 3, 0),
}
QUANTITIES = tuple(_FORMS)


@dataclasses.dataclass(frozen=True)
class Label:
  """What the numbers of one label mean.

  Attributes:
    quantity: 'class', 'depth', 'disparity' or 'normal'; decides how the label
      is augmented.
    unit: the unit in words of the result table, e.g. 'm'; '' if it has none.
    classes: the class names in the order of their ids (quantity 'class' only).
    colors: (red, green, blue) in 0..255 of every class, where the dataset has
      colors of its own; () to draw some.
  """

  quantity: str
  unit: str = ''
  classes: tuple[str, ...] = ()
  colors: tuple[tuple[int, int, int], ...] = ()

  def missing(self, size: tuple[int, int]) -> np.ndarray:
    """An array [h w] or [h w c] in which every pixel is unlabeled."""
    dtype, channels, value = _FORMS[self.quantity]
    shape = (*size, channels) if channels else size
    return np.full(shape, value, dtype)

  def known(self, array: np.ndarray) -> np.ndarray:
    """Where an array [h w] or [h w c] has a label, bool [h w]."""
    _, channels, value = _FORMS[self.quantity]
    differs = array != value
    return differs.any(axis=-1) if channels else differs
