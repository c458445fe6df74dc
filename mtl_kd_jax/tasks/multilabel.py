"""Several yes or no at every pixel: classes that do not exclude each other."""

from collections.abc import Sequence

import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, _scores, base
from mtl_kd_jax.tasks.augmentation import of_maps, swap_channels
from mtl_kd_jax.tasks.binary import probabilities
from mtl_kd_jax.tasks.classes import palette_of, swatches

_BALANCES = ('none', 'image')
_NOTHING = np.array((38, 38, 46), float)  # the color of no class


def describe(
  *,
  classes: Sequence[str] = (),
  colors: Sequence[Sequence[int]] = (),
  pairs: Sequence[Sequence[str]] = (),
) -> Label:
  """Describes a map with 0 or 1 for each of some classes.

  Args:
    classes: their names, in the order of the channels.
    colors: (red, green, blue) of every class; () to choose them.
    pairs: names of two classes each, which mirroring exchanges.
  """
  names = _options.names('classes', classes, fewest=1)
  return Label(
    'multilabel',
    classes=names,
    colors=_options.colors(colors, len(names)),
    pairs=_options.pairs(pairs, names),
  )


def make(label: Label, *, balance: str = 'none') -> base.Task:
  """Makes the task; predictions are logits, one of every class.

  Loss: binary cross-entropy, averaged over all labels. With balance 'image' the
  positives of a class in an image count as much as its negatives.
  Metrics over the split: means over classes of average precision and of F1 at
  the best threshold; accuracy, expected calibration error, and the average
  precision of every class.

  Args:
    label: of quantity 'multilabel'.
    balance: 'none' or 'image'.
  """
  _options.one_of('balance', balance, _BALANCES)
  palette = np.array(label.colors or palette_of(len(label.classes)), float)

  def loss(prediction, label):
    losses = _scores.binary_cross_entropy(prediction, label)
    if balance == 'none':
      return losses
    return _scores.balanced(losses, label, label >= 0, (1, 2))

  def render(x, label):
    del label
    share = np.clip(x.astype(np.float64), 0, 1)
    total = share.sum(axis=-1, keepdims=True)
    mixed = share @ palette / np.maximum(total, 1e-6)
    rgb = _NOTHING + np.minimum(total, 1) * (mixed - _NOTHING)
    known = (
      (x >= 0).any(axis=-1, keepdims=True) if x.dtype.kind == 'i' else True
    )
    return np.where(known, rgb, base.UNLABELED).astype(np.uint8)

  return base.Task(
    name='multilabel',
    channels=len(label.classes),
    valid=lambda label: label >= 0,
    loss=loss,
    statistics=lambda x, label, valid: {
      'scores': _scores.histogram(x, label, valid)
    },
    metrics=lambda s: _scores.labels_metrics(s['scores'], label.classes),
    columns=_scores.labels_columns(label.classes),
    headline='map',
    render=render,
    is_classification=True,
    form=probabilities('probability of every class'),
    colors=base.Colors(
      swatches=swatches(palette, label.classes),
      errors=lambda p, y: np.where(y >= 0, np.abs(p - y), 0).mean(axis=-1),
    ),
  )


KIND = base.Kind(
  quantities=('multilabel',),
  describe=describe,
  make=make,
  augmentation=of_maps(mirrored=swap_channels),
)
