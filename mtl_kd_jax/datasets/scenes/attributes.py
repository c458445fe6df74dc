"""What is said of a rendered room as a whole: labels of images.

  count    how many solids stand in the room, in four classes
  pattern  of the walls, one of seven
  light    whether the brightest lamp is left or right of where the camera looks

They are drawn with the room, and are exact also where a solid is hidden by
another one. Nothing of them is stored: a room is drawn anew in milliseconds,
without rendering it.
"""

import functools
from typing import Any

import numpy as np

from mtl_kd_jax.datasets.base import Sample, Source
from mtl_kd_jax.datasets.scenes import rooms
from mtl_kd_jax.labels import Label

_SOLIDS = ('box', 'sphere', 'cylinder', 'cone')
_FEWEST, _MOST = 3, 6  # the first and the last class of `count`
LABELS = {
  'count': Label('image_class', classes=('up to 3', '4', '5', '6 or more')),
  'pattern': Label('image_class', classes=rooms.PATTERNS),
  # Mirrored, the light comes from the other side.
  'light': Label('image_class', classes=('left', 'right'), pairs=((0, 1),)),
}


def attributes(room: rooms.Room) -> dict[str, np.ndarray]:
  """The labels of a room, int32 []."""
  names = [rooms.CLASSES[thing.label] for thing in room.things]
  count = sum(name in _SOLIDS for name in names)
  # Three of the four walls have the material of the last.
  walls = [t for t, n in zip(room.things, names, strict=True) if n == 'wall']
  lamp = max(room.lamps, key=lambda lamp: sum(lamp.color))
  aside = (np.array(lamp.center) - room.camera.position) @ room.camera.axes[0]
  found = {
    'count': np.clip(count, _FEWEST, _MOST) - _FEWEST,
    'pattern': rooms.PATTERNS.index(walls[-1].material.pattern),
    'light': int(aside > 0),
  }
  return {name: np.array(value, np.int32) for name, value in found.items()}


class Attributed:
  """Records of rooms, with these labels; picklable."""

  def __init__(self, records: Source, draw: functools.partial[Any]):
    """Takes the records.

    Args:
      records: record i is room i.
      draw: index -> the room.
    """
    self._records, self._draw = records, draw

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    return {**self._records[index], **attributes(self._draw(index))}
