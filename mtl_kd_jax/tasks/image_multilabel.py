"""Attributes of the picture as a whole: several yes or no."""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, _scores, base
from mtl_kd_jax.tasks._drawing import draw_words
from mtl_kd_jax.tasks.augmentation import of_images, swap_channels
from mtl_kd_jax.tasks.binary import logits_of, probabilities


def describe(
  *, classes: Sequence[str] = (), pairs: Sequence[Sequence[str]] = ()
) -> Label:
  """Describes attributes of the picture, each 0 or 1.

  Args:
    classes: the names of the attributes.
    pairs: names of two attributes each, which mirroring exchanges.
  """
  names = _options.names('classes', classes, fewest=1)
  return Label(
    'image_multilabel', classes=names, pairs=_options.pairs(pairs, names)
  )


def make(label: Label, *, weights: Sequence[float] = ()) -> base.Task:
  """Makes the task; predictions are logits, one of every attribute.

  Loss: binary cross-entropy, averaged over all labels.
  Metrics over the split: means over attributes of average precision and of F1
  at the best threshold; accuracy, expected calibration error, and the average
  precision of every attribute.

  Args:
    label: of quantity 'image_multilabel'.
    weights: factor on the loss of the positives of every attribute; () for 1.
  """
  classes = label.classes
  factors = _options.weights('weights', weights, classes)

  def loss(prediction, label):
    losses = _scores.binary_cross_entropy(prediction, label)
    if not factors:
      return losses
    weight = jnp.array(factors, losses.dtype)[None]
    return losses * jnp.where(label > 0, weight, 1)

  def draw(x, label, image):
    del label
    return draw_words(_words(x, classes), image)

  return base.Task(
    name='image_multilabel',
    channels=len(classes),
    valid=lambda label: label >= 0,
    loss=loss,
    statistics=lambda x, label, valid: {
      'scores': _scores.histogram(x, label, valid)
    },
    metrics=lambda s: _scores.labels_metrics(s['scores'], classes),
    columns=_scores.labels_columns(classes),
    headline='map',
    render=lambda x, y: draw(x, y, np.zeros((60, 80, 3))),
    is_classification=True,
    form=dataclasses.replace(
      probabilities('probability of every attribute'),
      finish=base.sigmoid,
      unfinish=lambda p, size: np.asarray(logits_of(p)),
      axes='c',
    ),
    colors=base.Colors(draw=draw),
  )


def _words(x, classes):
  """Of a label, int [c], or of probabilities [c]: what is there."""
  if x.dtype.kind in 'iu':
    there = [c for c, y in zip(classes, x, strict=True) if y > 0]
    return there or ['no label' if (x < 0).all() else 'nothing']
  order = [i for i in np.argsort(-x, kind='stable') if x[i] >= 0.5]
  return [f'{classes[i]} {x[i]:.0%}' for i in order] or ['nothing']


KIND = base.Kind(
  quantities=('image_multilabel',),
  describe=describe,
  make=make,
  augmentation=of_images(mirrored=swap_channels),
)
