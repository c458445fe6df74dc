"""One class of the picture as a whole."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, base
from mtl_kd_jax.tasks._drawing import draw_words
from mtl_kd_jax.tasks.augmentation import of_images, swap_classes
from mtl_kd_jax.tasks.classes import (
  calibration,
  calibration_error,
  confusion_matrix,
  cross_entropy,
)

_TOP = 5
_LINES = 3  # classes that a picture names


def describe(
  *, classes: Sequence[str] = (), pairs: Sequence[Sequence[str]] = ()
) -> Label:
  """Describes a class of the picture.

  Args:
    classes: the names of the classes, two or more, in the order of their ids.
    pairs: names of two classes each, which mirroring exchanges.
  """
  names = _options.names('classes', classes, fewest=2)
  return Label('image_class', classes=names, pairs=_options.pairs(pairs, names))


def make(label: Label, *, weights: Sequence[float] = ()) -> base.Task:
  """Makes the task.

  Loss: -log softmax(prediction)[label], averaged over the images with a label.
  Metrics over the split: accuracy; the mean over classes of their accuracy; the
  share of labels among the five most likely classes, where there are more; F1,
  the mean over classes; and the expected calibration error, over 15 bins.

  Args:
    label: of quantity 'image_class'.
    weights: factor on the loss of every class; () for 1.
  """
  classes = label.classes
  factors = _options.weights('weights', weights, classes)

  def loss(prediction, label):
    losses = cross_entropy(prediction, label)
    if not factors:
      return losses
    return losses * jnp.array(factors, losses.dtype)[jnp.maximum(label, 0)]

  has_top = len(classes) > _TOP
  top = {'top_5': base.detail('Top5', '%', True)} if has_top else {}

  def draw(x, label, image):
    del label
    return draw_words(_words(x, classes), image)

  return base.Task(
    name='image_classes',
    channels=len(classes),
    valid=lambda label: label >= 0,
    loss=loss,
    statistics=_statistics,
    metrics=lambda s: _metrics(s, top=has_top),
    columns={
      'accuracy': base.Metric('Acc', '%', True),
      'mean_accuracy': base.detail('mAcc', '%', True),
      **top,
      'f1': base.detail('mF1', '%', True),
      'ece': base.detail('ECE', '%', False),
    },
    headline='accuracy',
    render=lambda x, y: draw(x, y, np.zeros((60, 80, 3))),
    is_classification=True,
    form=base.Form(
      finish=_softmax,
      meaning='probability of every class',
      axes='c',
      unfinish=lambda p, size: np.log(np.maximum(p, 1e-30)),
      keep=lambda x: _softmax(np.asarray(x, np.float32)),
      restore=lambda p: np.log(np.maximum(p, 1e-30)),
    ),
    colors=base.Colors(draw=draw),
  )


def _softmax(x):
  p = base.numpy_of(x).exp(x - x.max(axis=-1, keepdims=True))
  return p / p.sum(axis=-1, keepdims=True)


def _words(x, classes):
  """Of a label, int [], or of probabilities [c]."""
  if x.ndim == 0:
    return [classes[int(x)] if x >= 0 else 'no label']
  return [
    f'{classes[i]} {x[i]:.0%}' for i in np.argsort(-x, kind='stable')[:_LINES]
  ]


def _statistics(prediction, label, valid):
  scores = base.as_float32(prediction)
  safe = jnp.maximum(label, 0)[..., None]
  own = jnp.take_along_axis(scores, safe, axis=-1)
  above = jnp.sum(scores > own, axis=-1)
  return {
    'confusion': confusion_matrix(prediction, label, valid),
    'calibration': calibration(prediction, label, valid),
    'top': jnp.sum(valid & (above < _TOP)),
  }


def _metrics(statistics, *, top):
  confusion = np.asarray(statistics['confusion'], np.float64)
  hit, total = np.diag(confusion), confusion.sum()
  labeled, predicted = confusion.sum(1), confusion.sum(0)
  recall = hit[labeled > 0] / labeled[labeled > 0]
  seen = labeled + predicted > 0
  f1 = 2 * hit[seen] / (labeled + predicted)[seen]
  more = {'top_5': 100 * base.ratio(statistics['top'], total)} if top else {}
  return {
    'accuracy': 100 * base.ratio(hit.sum(), total),
    'mean_accuracy': 100 * base.ratio(recall.sum(), len(recall)),
    **more,
    'f1': 100 * base.ratio(f1.sum(), len(f1)),
    'ece': 100 * calibration_error(statistics['calibration']),
  }


KIND = base.Kind(
  quantities=('image_class',),
  describe=describe,
  make=make,
  augmentation=of_images(mirrored=swap_classes),
)
