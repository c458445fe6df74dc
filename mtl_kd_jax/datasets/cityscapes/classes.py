"""The classes of Cityscapes: names, categories and colors.

Annotations contain `labelIds`, 0 to 33. Of these, 19 are trained and scored,
and form 7 categories. All other ids (void, and the rare classes 'parking',
'rail track', 'guard rail', 'bridge', 'tunnel', 'polegroup', 'caravan' and
'trailer') are ignored at both levels, as in the official evaluation.

Names and colors of the classes are the official ones (Cordts et al., CVPR
2016). Categories have no official color: each has that of its most frequent
class.
"""

from typing import NamedTuple

import numpy as np

from mtl_kd_jax.labels import Label


class _Class(NamedTuple):
  id: int  # in files called *_labelIds.png
  name: str
  category: str
  color: tuple[int, int, int]


# In the order of the training ids, 0 to 18.
_CLASSES = (
  _Class(7, 'road', 'flat', (128, 64, 128)),
  _Class(8, 'sidewalk', 'flat', (244, 35, 232)),
  _Class(11, 'building', 'construction', (70, 70, 70)),
  _Class(12, 'wall', 'construction', (102, 102, 156)),
  _Class(13, 'fence', 'construction', (190, 153, 153)),
  _Class(17, 'pole', 'object', (153, 153, 153)),
  _Class(19, 'traffic light', 'object', (250, 170, 30)),
  _Class(20, 'traffic sign', 'object', (220, 220, 0)),
  _Class(21, 'vegetation', 'nature', (107, 142, 35)),
  _Class(22, 'terrain', 'nature', (152, 251, 152)),
  _Class(23, 'sky', 'sky', (70, 130, 180)),
  _Class(24, 'person', 'human', (220, 20, 60)),
  _Class(25, 'rider', 'human', (255, 0, 0)),
  _Class(26, 'car', 'vehicle', (0, 0, 142)),
  _Class(27, 'truck', 'vehicle', (0, 0, 70)),
  _Class(28, 'bus', 'vehicle', (0, 60, 100)),
  _Class(31, 'train', 'vehicle', (0, 80, 100)),
  _Class(32, 'motorcycle', 'vehicle', (0, 0, 230)),
  _Class(33, 'bicycle', 'vehicle', (119, 11, 32)),
)
# Category -> the class whose color it has.
_CATEGORIES = {
  'flat': 'road',
  'construction': 'building',
  'object': 'pole',
  'nature': 'vegetation',
  'sky': 'sky',
  'human': 'person',
  'vehicle': 'car',
}
MAX_ID = 33
# Ids of pixels without a class: unlabeled, ego vehicle, borders, static,
# dynamic, ground.
VOID_IDS = range(7)

_COLORS = {c.name: c.color for c in _CLASSES}
LABELS = {
  7: Label(
    'class',
    classes=tuple(_CATEGORIES),
    colors=tuple(_COLORS[name] for name in _CATEGORIES.values()),
  ),
  19: Label(
    'class',
    classes=tuple(c.name for c in _CLASSES),
    colors=tuple(c.color for c in _CLASSES),
  ),
}


def class_table(count: int) -> np.ndarray:
  """Class id (of 7 or 19 classes) for every label id, or -1: int32 [256]."""
  table = np.full(256, -1, np.int32)
  for train_id, (label_id, _, category, _) in enumerate(_CLASSES):
    by_count = {7: tuple(_CATEGORIES).index(category), 19: train_id}
    table[label_id] = by_count[count]
  return table
