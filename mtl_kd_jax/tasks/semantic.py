"""Semantic segmentation: cross-entropy; mIoU from one confusion matrix."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import base


def make(label: Label) -> base.Task:
  """Makes the task for the classes of `label`.

  Loss: -log softmax(prediction)[label], averaged over labeled pixels
  (KD4MTL; Li & Bilen 2020).
  Metrics, all from one confusion matrix over the whole split: mIoU, the mean
  over classes of intersection / union, where a class that occurs neither in
  label nor in prediction does not count; and pixel accuracy.
  """
  classes = len(label.classes)
  palette = np.array(label.colors or _palette(classes), np.uint8)

  def statistics(prediction, label, valid):
    predicted = jnp.argmax(prediction, axis=-1)
    pair = jnp.where(valid, label * classes + predicted, classes**2)
    counts = jnp.bincount(pair.ravel(), length=classes**2 + 1)[:-1]
    return {'confusion': counts.reshape(classes, classes)}

  def render(x, label):
    del label  # the palette is the same in every picture
    class_id = x if x.ndim == 2 else x.argmax(axis=-1)
    labeled = class_id[..., None] >= 0
    return np.where(labeled, palette[class_id], np.uint8(base.UNLABELED))

  return base.Task(
    name='semantic',
    channels=classes,
    valid=lambda label: label >= 0,
    loss=_cross_entropy,
    statistics=statistics,
    metrics=_metrics,
    columns={
      'miou': base.Metric('mIoU', '%', True),
      'pixel_accuracy': base.Metric('PixAcc', '%', True),
    },
    headline='miou',
    render=render,
  )


def _cross_entropy(prediction, label):
  log_p = jax.nn.log_softmax(base.as_float32(prediction))
  # A product with the one-hot label instead of a gather: XLA fuses it.
  one_hot = jax.nn.one_hot(label, log_p.shape[-1], dtype=log_p.dtype)
  return -jnp.sum(one_hot * log_p, axis=-1)


def _metrics(statistics):
  confusion = np.asarray(
    statistics['confusion'], np.float64
  )  # label, predicted
  hit = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  seen = union > 0
  iou = hit[seen] / union[seen]
  return {
    'miou': 100 * base.ratio(iou.sum(), len(iou)),
    'pixel_accuracy': 100 * base.ratio(hit.sum(), confusion.sum()),
  }


def _palette(classes: int) -> np.ndarray:
  """Distinct colors, uint8 [classes 3]: hues a golden angle apart."""
  colors = [
    colorsys.hsv_to_rgb(0.58 + 0.381966 * i, 0.5, (0.92, 0.66)[i % 2])
    for i in range(classes)
  ]
  return np.round(255 * np.array(colors)).astype(np.uint8)
