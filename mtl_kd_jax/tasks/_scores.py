"""Metrics over all thresholds, from histograms of scores.

Logits are counted in 1024 bins of 1/32 from -16 to 16, which is 1e-7 to 1 -
1e-7 in probability, apart for positives and negatives. Histograms add up over
batches and devices; a threshold is the edge of a bin. Metrics are exact but for
scores that fall into one bin, which count as equal.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.tasks import base

BINS, _MOST = 1024, 16.0
CALIBRATION_BINS = 15  # Guo et al. (2017)
_LOGITS = (np.arange(BINS) + 0.5) * (2 * _MOST / BINS) - _MOST


def histogram(logits, label, valid):
  """Counts of the scores of each class.

  Args:
    logits: float [... c].
    label: int [... c], 0 or 1.
    valid: bool [... c].

  Returns:
    int32 [c 2 bins]: of negatives, and of positives.
  """
  c = logits.shape[-1]
  x = base.as_float32(logits)
  bins = jnp.floor((x + _MOST) * (BINS / (2 * _MOST)))
  bins = jnp.clip(bins, 0, BINS - 1).astype(jnp.int32)
  own = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
  index = (own * 2 + (label > 0)) * BINS + bins
  index = jnp.where(valid, index, 2 * c * BINS)
  counts = jnp.bincount(index.ravel(), length=2 * c * BINS + 1)[:-1]
  return counts.reshape(c, 2, BINS)


def average_precision(counts: np.ndarray) -> float:
  """The area under precision over recall, of one class [2 bins]; NaN for none.

  Sum over thresholds of the gain in recall, times precision.
  """
  hits, false = _above(counts)
  if not hits[-1]:
    return float('nan')
  precision = hits / np.maximum(hits + false, 1)
  return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def best_f1(counts: np.ndarray) -> tuple[float, float]:
  """(F1, IoU) at the threshold with the highest F1, of one class [2 bins]."""
  hits, false = _above(counts)
  if not hits[-1]:
    return float('nan'), float('nan')
  f1 = (2 * hits / (hits + false + hits[-1])).max()
  return float(f1), float(f1 / (2 - f1))  # of the same three counts


def calibration_error(counts: np.ndarray) -> float:
  """Expected calibration error of the probability of one class [2 bins].

  Mean of |probability - share of positives| over 15 equal bins of probability,
  each as often as it has scores.
  """
  negative, positive = np.asarray(counts, np.float64)
  total = negative + positive
  if not total.sum():
    return float('nan')
  probability = base.sigmoid(_LOGITS)
  coarse = np.minimum((probability * CALIBRATION_BINS).astype(int), 14)
  gaps = [
    abs((total * probability - positive)[coarse == i].sum())
    for i in range(CALIBRATION_BINS)
  ]
  return float(sum(gaps) / total.sum())


def accuracy(counts: np.ndarray) -> float:
  """Share that is right at a probability of 0.5, of classes [... 2 bins]."""
  counts = np.asarray(counts, np.float64)
  half = BINS // 2
  right = counts[..., 0, :half].sum() + counts[..., 1, half:].sum()
  return base.ratio(right, counts.sum())


def mean_of_known(values) -> float:
  """The mean of what is not NaN; NaN for nothing."""
  known = [x for x in values if not np.isnan(x)]
  return float(np.mean(known)) if known else float('nan')


def _above(counts):
  """Positives and negatives at or above each threshold, the highest first."""
  negative, positive = np.asarray(counts, np.float64)[:, ::-1].cumsum(axis=-1)
  return positive, negative


def binary_cross_entropy(logits, label):
  """-log of the probability of a label of 0 or 1, float32 [...]."""
  x, y = base.as_float32(logits), label > 0
  return jnp.maximum(x, 0) - x * y + jnp.log1p(jnp.exp(-jnp.abs(x)))


def balanced(losses, label, valid, axes):
  """Losses in which positives and negatives of an image count alike.

  Positives are weighted by the share of negatives among the labels of an image
  and negatives by that of positives (Xie & Tu 2015), times 2, so that a
  balanced image keeps its loss. An image with one of them only keeps its loss,
  too.

  Args:
    losses: float [b ...].
    label: int of that shape, 0 or 1.
    valid: bool of that shape.
    axes: those over which shares are taken.
  """
  positive = valid & (label > 0)
  count = jnp.maximum(jnp.sum(valid, axes, keepdims=True), 1)
  share = jnp.sum(positive, axes, keepdims=True) / count
  weight = 2 * jnp.where(label > 0, 1 - share, share)
  return losses * jnp.where((share > 0) & (share < 1), weight, 1)


def labels_columns(classes: tuple[str, ...]) -> dict[str, base.Metric]:
  """The columns of `labels_metrics`."""
  return {
    'map': base.Metric('mAP', '%', True),
    'f1': base.Metric('mF1', '%', True),
    'accuracy': base.detail('Acc', '%', True),
    'ece': base.detail('ECE', '%', False),
    **{f'ap/{c}': base.detail(f'AP {c}', '%', True) for c in classes},
  }


def labels_metrics(counts: np.ndarray, classes: tuple[str, ...]) -> dict:
  """Metrics of labels that exclude each other not, of histograms [c 2 bins].

  Means over the classes with a positive of average precision and of F1 at the
  best threshold of each class; the share of right answers at a probability of
  0.5; expected calibration error, the mean over classes; and the average
  precision of every class.
  """
  precisions = [average_precision(x) for x in counts]
  return {
    'map': 100 * mean_of_known(precisions),
    'f1': 100 * mean_of_known(best_f1(x)[0] for x in counts),
    'accuracy': 100 * accuracy(counts),
    'ece': 100 * mean_of_known(map(calibration_error, counts)),
    **{f'ap/{c}': 100 * x for c, x in zip(classes, precisions, strict=True)},
  }
