"""Yes or no at every pixel, such as edges or saliency; from one logit."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, _scores, base
from mtl_kd_jax.tasks.augmentation import of_maps

_BALANCES = ('image', 'none')
_NO, _YES = np.array((38, 38, 46), float), np.array((252, 236, 186), float)


def describe(*, classes: Sequence[str] = ()) -> Label:
  """Describes a map of 0 and 1.

  Args:
    classes: what 0 and 1 are called; () for no and yes.
  """
  if not _options.members(classes) and not classes:
    return Label('binary')
  names = _options.names('classes', classes, fewest=2)
  if len(names) != 2:
    raise _options.bad('classes', 'two names, of 0 and of 1', classes)
  return Label('binary', classes=names)


def make(label: Label, *, balance: str = 'image') -> base.Task:
  """Makes the task; the prediction is a logit.

  Loss: binary cross-entropy, averaged over labeled pixels. With balance 'image'
  the positives of an image count as much as its negatives (Xie & Tu 2015);
  with 'none', as often as they occur.
  Metrics over all labeled pixels of the split: F1 at the threshold with the
  highest one, IoU at that threshold, average precision, and the expected
  calibration error of the probability.

  Args:
    label: of quantity 'binary'.
    balance: 'image' or 'none'.
  """
  _options.one_of('balance', balance, _BALANCES)
  no, yes = label.classes or ('no', 'yes')

  def loss(prediction, label):
    losses = _scores.binary_cross_entropy(prediction[..., 0], label)
    if balance == 'none':
      return losses
    return _scores.balanced(losses, label, label >= 0, (1, 2))

  def statistics(prediction, label, valid):
    counts = _scores.histogram(prediction, label[..., None], valid[..., None])
    return {'scores': counts}

  return base.Task(
    name='binary',
    channels=1,
    valid=lambda label: label >= 0,
    loss=loss,
    statistics=statistics,
    metrics=_metrics,
    columns={
      'f1': base.Metric('F1', '%', True),
      'iou': base.Metric('IoU', '%', True),
      'average_precision': base.Metric('AP', '%', True),
      'ece': base.detail('ECE', '%', False),
    },
    headline='f1',
    render=_render,
    is_classification=True,
    form=probabilities(f'probability of {yes}'),
    colors=base.Colors(
      ends=(no, yes),
      bounds=lambda x: (0.0, 1.0),
      errors=lambda p, y: np.abs(base.squeezed(p) - y),
    ),
  )


def probabilities(meaning: str) -> base.Form:
  """What users get of logits, and what is kept of them."""
  return base.Form(
    finish=lambda x: base.squeezed(base.sigmoid(x)),
    meaning=meaning,
    unfinish=lambda p, size: np.asarray(
      logits_of(p[..., None] if p.ndim == 3 else p)
    ),
    keep=lambda x: base.sigmoid(np.asarray(x, np.float32)),
    restore=logits_of,
  )


def logits_of(p: np.ndarray):
  """The logits of probabilities."""
  p = np.clip(p, 1e-7, 1 - 1e-7)
  return jnp.asarray(np.log(p) - np.log1p(-p))


def _metrics(statistics):
  (counts,) = np.asarray(statistics['scores'])
  f1, iou = _scores.best_f1(counts)
  return {
    'f1': 100 * f1,
    'iou': 100 * iou,
    'average_precision': 100 * _scores.average_precision(counts),
    'ece': 100 * _scores.calibration_error(counts),
  }


def _render(x, label):
  """0 and 1 [h w], or probabilities [h w (1)], from dark to light."""
  del label
  p = x[..., 0] if x.ndim == 3 else x
  shade = np.clip(p.astype(np.float64), 0, 1)[..., None]
  labeled = (p >= 0)[..., None] if p.dtype.kind in 'iu' else True
  rgb = _NO + shade * (_YES - _NO)
  return np.where(labeled, rgb, base.UNLABELED).astype(np.uint8)


KIND = base.Kind(
  quantities=('binary',),
  describe=describe,
  make=make,
  augmentation=of_maps(),
)
