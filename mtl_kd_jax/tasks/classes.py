"""Classes of pixels: cross-entropy; mIoU from one confusion matrix."""

from collections.abc import Sequence
import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _boundaries, _options, base
from mtl_kd_jax.tasks._scores import CALIBRATION_BINS
from mtl_kd_jax.tasks.augmentation import of_maps, swap_classes


def describe(
  *,
  classes: Sequence[str] = (),
  colors: Sequence[Sequence[int]] = (),
  pairs: Sequence[Sequence[str]] = (),
) -> Label:
  """Describes a map of classes.

  Args:
    classes: their names, two or more, in the order of their ids.
    colors: (red, green, blue) of every class; () to choose them.
    pairs: names of two classes each, which mirroring exchanges.
  """
  names = _options.names('classes', classes, fewest=2)
  return Label(
    'class',
    classes=names,
    colors=_options.colors(colors, len(names)),
    pairs=_options.pairs(pairs, names),
  )


def make(
  label: Label, *, weights: Sequence[float] = (), ohem: float = 1.0
) -> base.Task:
  """Makes the task for the classes of `label`.

  Loss: -log softmax(prediction)[label], averaged over labeled pixels
  (KD4MTL; Li & Bilen 2020).
  Metrics, all but two from one confusion matrix over the whole split: mIoU, the
  mean over classes of intersection / union, where a class that occurs neither
  in label nor in prediction does not count; pixel accuracy; the mean over the
  labeled classes of their accuracy; the IoU of every class; F1 of the borders
  between classes; and the expected calibration error, over 15 bins.

  Args:
    label: of quantity 'class'.
    weights: factor on the loss of every class; () for 1.
    ohem: share of the labeled pixels of each image that count, those with the
      largest losses (Shrivastava et al. 2016); 1 for all.
  """
  classes = len(label.classes)
  factors = _options.weights('weights', weights, label.classes)
  share = _options.share('ohem', ohem)

  def loss(prediction, label):
    losses = cross_entropy(prediction, label)
    if weights:
      losses *= jnp.array(factors, losses.dtype)[jnp.maximum(label, 0)]
    return losses if share == 1 else _hardest(losses, label >= 0, share)

  def render(x, label):
    del label  # the palette is the same in every picture
    class_id = x if x.ndim == 2 else x.argmax(axis=-1)
    labeled = class_id[..., None] >= 0
    return np.where(labeled, palette[class_id], np.uint8(base.UNLABELED))

  palette = np.array(label.colors or palette_of(classes), np.uint8)
  return base.Task(
    name='semantic',
    channels=classes,
    valid=lambda label: label >= 0,
    loss=loss,
    statistics=_statistics,
    metrics=lambda statistics: _metrics(statistics, label.classes),
    columns={
      'miou': base.Metric('mIoU', '%', True),
      'pixel_accuracy': base.Metric('PixAcc', '%', True),
      'mean_accuracy': base.detail('mAcc', '%', True),
      'boundary_f1': base.detail('BF1', '%', True),
      'ece': base.detail('ECE', '%', False),
      **{
        f'iou/{name}': base.detail(f'IoU {name}', '%', True)
        for name in label.classes
      },
    },
    headline='miou',
    render=render,
    is_classification=True,
    form=form(classes),
    colors=base.Colors(
      swatches=swatches(palette, label.classes),
      errors=lambda x, y: (most_likely(x, 2) != y).astype(np.float64),
      is_right_or_wrong=True,
    ),
  )


def form(classes: int) -> base.Form:
  """What users get of scores of classes: the id of the highest."""
  return base.Form(
    finish=lambda x: x.argmax(axis=-1).astype(np.int32),
    finish_resized=_argmax_resized,
    meaning='ids of classes',
    is_class=True,
    unfinish=lambda ids, size: np.eye(classes, dtype=np.float32)[ids],
    # Of many classes, one number is kept.
    keep=lambda x: np.argmax(x, axis=-1).astype(np.int16),
    restore=lambda x: (
      np.eye(classes, dtype=np.float32)[x] if x.dtype.kind == 'i' else x
    ),
  )


def swatches(palette: np.ndarray, names: Sequence[str]) -> list[base.Swatch]:
  """The colors of classes with their names."""
  colors = [tuple(int(x) for x in color) for color in palette]
  return list(zip(colors, names, strict=True))


def most_likely(x: np.ndarray, ndim: int) -> np.ndarray:
  """The class ids of scores, or of what has been reduced to them already."""
  return x if x.ndim == ndim else x.argmax(axis=-1)


def cross_entropy(prediction, label):
  """-log softmax(prediction)[label], float32 [...] of scores [... c]."""
  log_p = jax.nn.log_softmax(base.as_float32(prediction))
  # A product with the one-hot label instead of a gather: XLA fuses it.
  one_hot = jax.nn.one_hot(label, log_p.shape[-1], dtype=log_p.dtype)
  return -jnp.sum(one_hot * log_p, axis=-1)


def confusion_matrix(prediction, label, valid):
  """int32 [label, predicted], of scores [... c]."""
  classes = prediction.shape[-1]
  predicted = jnp.argmax(prediction, axis=-1)
  pair = jnp.where(valid, label * classes + predicted, classes**2)
  counts = jnp.bincount(pair.ravel(), length=classes**2 + 1)[:-1]
  return counts.reshape(classes, classes)


def calibration(prediction, label, valid):
  """By probability of the most likely class: count, its sum, and hits.

  float32 [3 bins].
  """
  p = jax.nn.softmax(base.as_float32(prediction))
  best, hit = jnp.max(p, axis=-1), jnp.argmax(prediction, axis=-1) == label
  bins = jnp.clip((best * CALIBRATION_BINS).astype(jnp.int32), 0, 14)
  # A sum for each bin, which XLA takes of parts: where a scatter adds one after
  # the other, a large float32 does not grow by what it should.
  here = [valid & (bins == i) for i in range(CALIBRATION_BINS)]
  sums = (
    [jnp.sum(x, dtype=jnp.int32) for x in here],
    [jnp.sum(jnp.where(x, best, 0)) for x in here],
    [jnp.sum(x & hit, dtype=jnp.int32) for x in here],
  )
  return jnp.stack([jnp.stack(x).astype(jnp.float32) for x in sums])


def calibration_error(counts: np.ndarray) -> float:
  """Mean of |probability - share of hits| over bins, of `calibration`."""
  total, probability, hits = np.asarray(counts, np.float64)
  return base.ratio(np.abs(probability - hits).sum(), total.sum())


def _statistics(prediction, label, valid):
  predicted = jnp.where(valid, jnp.argmax(prediction, axis=-1), -1)
  labeled = jnp.where(valid, label, -1)
  classes = prediction.shape[-1]
  return {
    'confusion': confusion_matrix(prediction, label, valid),
    'boundaries': _boundaries.boundary_counts(predicted, labeled, classes),
    'calibration': calibration(prediction, label, valid),
  }


def _metrics(statistics, classes):
  confusion = np.asarray(
    statistics['confusion'], np.float64
  )  # label, predicted
  hit = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  seen = union > 0
  iou = hit[seen] / union[seen]
  labeled = confusion.sum(1)
  recall = hit[labeled > 0] / labeled[labeled > 0]
  return {
    'miou': 100 * base.ratio(iou.sum(), len(iou)),
    'pixel_accuracy': 100 * base.ratio(hit.sum(), confusion.sum()),
    'mean_accuracy': 100 * base.ratio(recall.sum(), len(recall)),
    'boundary_f1': 100 * _boundaries.mean_f1(statistics['boundaries']),
    'ece': 100 * calibration_error(statistics['calibration']),
    **{
      f'iou/{name}': 100 * base.ratio(hit[i], union[i])
      for i, name in enumerate(classes)
    },
  }


def _hardest(losses, valid, share):
  """Losses of an image [b h w] of which only the largest ones count.

  They are raised so that the mean over all labeled pixels is theirs.
  """
  flat = jnp.where(valid, losses, -jnp.inf).reshape(len(losses), -1)
  count = jnp.sum(valid, (1, 2))
  kept = jnp.ceil(share * count).astype(jnp.int32)
  ordered = -jnp.sort(-jax.lax.stop_gradient(flat))
  at = jnp.maximum(kept - 1, 0)[:, None]
  least = jnp.take_along_axis(ordered, at, axis=1)[..., None]
  chosen = valid & (losses >= least)
  factor = count / jnp.maximum(jnp.sum(chosen, (1, 2)), 1)
  return jnp.where(chosen, losses * factor[:, None, None], 0)


def _argmax_resized(x, resized):
  # One class after the other: all of a large picture need much memory.
  best = resized(x[..., 0])
  ids = np.zeros(best.shape, np.int32)
  for i in range(1, x.shape[-1]):
    score = resized(x[..., i])
    larger = score > best
    ids[larger] = i
    best = np.maximum(best, score)
  return ids


def palette_of(classes: int) -> np.ndarray:
  """Distinct colors, uint8 [classes 3]: hues a golden angle apart."""
  colors = [
    colorsys.hsv_to_rgb(0.58 + 0.381966 * i, 0.5, (0.92, 0.66)[i % 2])
    for i in range(classes)
  ]
  return np.round(255 * np.array(colors)).astype(np.uint8)


KIND = base.Kind(
  quantities=('class',),
  describe=describe,
  make=make,
  augmentation=of_maps(mirrored=swap_classes),
)
